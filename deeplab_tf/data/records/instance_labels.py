"""Instance masks in records and in tf.data: encoding, decoding and checks.

Masks are stored as compressed run lengths, which are small. The names of the features follow those
of TensorFlow's object detection records.
"""

from typing import Callable, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import cli, structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import errors
from deeplab_tf.formats import coco_masks, instance_masks
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import DataError, UserError

# Present in every record with instance masks, also if the image has no instance.
FORMAT = 'image/object/mask/format'
_COUNTS = 'image/object/mask/counts'
_CLASS = 'image/object/class/label'
_CROWD = 'image/object/is_crowd'
_AREA = 'image/object/area'
_RUN_LENGTHS = b'rle'
# Parts of a record of any data set with masks.
FORMAT_FEATURE = {FORMAT: tf.io.FixedLenFeature([], tf.string, '')}
FEATURES = {
    **FORMAT_FEATURE,
    _COUNTS: tf.io.VarLenFeature(tf.string),
    _CLASS: tf.io.VarLenFeature(tf.int64),
    _CROWD: tf.io.VarLenFeature(tf.int64),
    _AREA: tf.io.VarLenFeature(tf.float32),
}


def features(masks: InstanceMasks) -> dict[str, tf.train.Feature]:
  """Returns the features of a record that hold the instances of its image."""
  numbers = {_CLASS: masks.class_ids, _CROWD: map(int, masks.is_crowd)}
  return {
      FORMAT: tf.train.Feature(bytes_list=tf.train.BytesList(value=[_RUN_LENGTHS])),
      _COUNTS: tf.train.Feature(bytes_list=tf.train.BytesList(value=masks.counts)),
      _AREA: tf.train.Feature(float_list=tf.train.FloatList(value=masks.areas)),
      **{name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
         for name, values in numbers.items()}}


def decode(fields: Mapping[str, tf.Tensor], shape: tf.Tensor, info: DatasetInfo,
           where: Sequence) -> structures.InstanceLabel:
  """Returns the instances of a record.

  Args:
    fields: Features of the record, including those of FEATURES and the size.
    shape: int32 [3], shape of the image.
    info: The data set.
    where: Prefix of errors, strings and string scalars.
  """
  stated = errors.check(fields[FORMAT] == _RUN_LENGTHS, lambda: [
      *where, 'the record has no instance masks ("rle" as feature ', FORMAT, '), and data set '
      f'"{info.name}" needs them: build the records with this data set; for images without labels '
      'set decode_groundtruth_label to false'])

  def read(name, image_size, size, counts, class_ids, is_crowd, areas):
    try:
      return _checked(image_size, InstanceMasks(
          tuple(size.tolist()), tuple(counts.tolist()), tuple(class_ids.tolist()),
          tuple(is_crowd.tolist()), tuple(areas.tolist())), info)
    except UserError as error:
      place = np.asarray(name).item().decode('utf-8', 'replace')
      raise DataError(errors.marked(cli.one_line(f'{place}{error}'))) from None

  with tf.control_dependencies([stated]):
    size = tf.stack([fields['image/height'], fields['image/width']])
  values = [fields[name].values for name in (_COUNTS, _CLASS, _CROWD, _AREA)]
  return from_python(read, [tf.strings.join(where), shape[:2], size, *values])


def from_python(read: Callable[..., InstanceMasks],
                arguments: Sequence[tf.Tensor]) -> structures.InstanceLabel:
  """Calls a Python function inside tf.data.

  Args:
    read: Function of arrays that returns the instances of an image; their masks are valid.
    arguments: Arguments of the function, tensors.
  """

  def arrays(*values):
    masks = read(*values)
    return (instance_masks.to_bits(masks.size, masks.counts),
            np.array(masks.class_ids, np.int32), np.array(masks.is_crowd, bool),
            np.array(masks.areas, np.float32))

  bits, *values = tf.numpy_function(arrays, arguments, [tf.uint8, tf.int32, tf.bool, tf.float32])
  return structures.InstanceLabel(tf.ensure_shape(bits, [None, None, None]),
                                  *[tf.ensure_shape(value, [None]) for value in values])


def to_masks(label: structures.InstanceLabel) -> InstanceMasks:
  """Returns the instances of a label, whose tensors have values, as run lengths."""
  bits = np.asarray(label.mask_bits)
  class_ids = np.asarray(label.class_ids).tolist()
  runs = instance_masks.from_bits(bits, len(class_ids))
  return InstanceMasks(bits.shape[:2], tuple(mask['counts'] for mask in runs), tuple(class_ids),
                       tuple(np.asarray(label.is_crowd).tolist()),
                       tuple(np.asarray(label.areas).tolist()))


def _checked(image_size: np.ndarray, masks: InstanceMasks, info: DatasetInfo) -> InstanceMasks:
  """Returns the instances of a record, and fails if anything is wrong with them."""
  height, width = image_size.tolist()
  if masks.size != (height, width):
    raise DataError(f'the image is {height}x{width}, but the record is {masks.size[0]}x'
                    f'{masks.size[1]}')
  lengths = {len(values) for values in masks[1:]}
  if len(lengths) > 1:
    raise DataError(f'the record has {len(masks.counts)} masks ({_COUNTS}), {len(masks.class_ids)} '
                    f'classes ({_CLASS}), {len(masks.is_crowd)} values of {_CROWD} and '
                    f'{len(masks.areas)} of {_AREA}; one of each per instance is expected')
  problem = instance_masks.size_problem(masks.size, len(masks.counts))
  if problem:
    raise DataError(f'the image {problem}')
  known = set(info.class_ids)
  for number, (counts, class_id, is_crowd, area) in enumerate(zip(*masks[1:]), start=1):
    problem = _problem(class_id, is_crowd, area, known, info) or _mask_problem(counts, masks.size)
    if problem:
      raise DataError(f'instance {number} {problem}')
  return masks


def _problem(class_id, is_crowd, area, known, info) -> Optional[str]:
  if class_id not in known:
    return (f'is of class {class_id}, which data set "{info.name}" does not have (classes '
            f'{min(known)} to {max(known)})')
  if is_crowd not in (0, 1):
    return f'has {is_crowd} as {_CROWD}; it must be 0 or 1'
  if not 0 <= area < np.inf:
    return f'has the area {area}; it must be a number of pixels'
  return None


def _mask_problem(counts, size) -> Optional[str]:
  # Any bytes become characters, of which those beyond ASCII are rejected.
  problem = coco_masks.problem({'size': list(size), 'counts': counts.decode('latin-1')}, size)
  return f'is corrupt: its mask {problem}' if problem else None
