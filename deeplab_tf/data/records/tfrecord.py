"""Converts labeled images to TFRecords and back, with the field names of DeepLab2's records.

Records of images with one class each have the usual format of ImageNet TFRecords.
"""

from typing import NamedTuple, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf import cli, structures
from deeplab_tf.classes import AnyInfo, DatasetInfo, ImageClasses
from deeplab_tf.data import errors, label_maps, records
from deeplab_tf.data.records import classes as classes_lib
from deeplab_tf.data.records import encoded_images, instance_labels, panoptic_labels
from deeplab_tf.data.records import files as files_lib
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import DataError, MissingFileError, UserError

_FEATURES = {
    'image/encoded': tf.io.FixedLenFeature([], tf.string, ''),
    'image/filename': tf.io.FixedLenFeature([], tf.string, ''),
    'image/height': tf.io.FixedLenFeature([], tf.int64, 0),
    'image/width': tf.io.FixedLenFeature([], tf.int64, 0),
}
_CLASS_LABEL = 'image/class/label'
_CLASS_FEATURES = {
    'image/encoded': _FEATURES['image/encoded'],
    'image/filename': _FEATURES['image/filename'],
    _CLASS_LABEL: tf.io.VarLenFeature(tf.int64),
}


class SourceExample(NamedTuple):
  """One image of a raw data set, to be written to a record.

  Attributes:
    name: File name without extension.
    encoded: The bytes of a JPEG or PNG file, RGB.
    format: 'jpeg' or 'png'.
    height, width: Size in pixels.
    label: int32 [height, width] panoptic map; InstanceMasks for data sets whose masks may overlap;
      the class number, from 1 on, for images with one class each; None without a label.
    turned: EXIF orientation from which the image was rotated upright; 1 if it was not rotated.
  """
  name: str
  encoded: bytes
  format: str
  height: int
  width: int
  label: Union[np.ndarray, InstanceMasks, int, None]
  turned: int = 1


def serialize(example: SourceExample, classes: bytes = b'') -> bytes:
  """Returns the serialized record of an example.

  Args:
    example: Content of the record.
    classes: Result of classes.describe; empty for a record that does not state its classes.
  """
  features = {
      'image/encoded': _bytes(example.encoded),
      'image/filename': _bytes(example.name.encode()),
      'image/format': _bytes(example.format.encode()),
      'image/height': _int64(example.height),
      'image/width': _int64(example.width),
      'image/channels': _int64(3),
  }
  if isinstance(example.label, int):
    features[_CLASS_LABEL] = _int64(example.label)
  elif isinstance(example.label, InstanceMasks):
    features.update(instance_labels.features(example.label))
  elif example.label is not None:
    features[panoptic_labels.ENCODED] = _bytes(np.ascontiguousarray(example.label, '<i4').tobytes())
    features[panoptic_labels.FORMAT] = _bytes(b'raw')
  if classes and example.label is not None:
    features[classes_lib.FEATURE] = _bytes(classes)
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _bytes(value):
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value):
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def encoded_image(record: bytes) -> bytes:
  """Returns the encoded image of a record; empty if it has none."""
  feature = tf.train.Example.FromString(record).features.feature['image/encoded']
  return b''.join(feature.bytes_list.value)


# --- Decoding ---------------------------------------------------------------------------------


def parse(record: tf.Tensor, file: tf.Tensor, info: AnyInfo,
          with_label: bool = True) -> structures.LabeledImage:
  """Decodes a record.

  Args:
    record: string [].
    file: string [], the path of the record's file, for errors.
    info: The data set; the classes of the label must be among its classes (or void).
    with_label: Whether the label is decoded; otherwise it is that of label_maps.blank.
  """
  if isinstance(info, ImageClasses):
    return _parse_class(record, file, info)
  labels = instance_labels if info.masks_overlap else panoptic_labels
  fields = tf.io.parse_single_example(
      record, {**_FEATURES, **instance_labels.FORMAT_FEATURE, **labels.FEATURES})
  name = fields['image/filename']
  where = [file, ': ', name, ': ']
  present = errors.check(tf.strings.length(fields['image/encoded']) > 0, lambda: [
      file, ': a record has no image (feature image/encoded): it was not made by '
      'deeplab_tf.data.build or DeepLab2'])
  with tf.control_dependencies([present]):
    image = decode_image(fields['image/encoded'], where)
  if with_label:
    label = labels.decode(fields, tf.shape(image), info, where)
  else:
    label = label_maps.blank(info, tf.unstack(tf.shape(image))[:2])
  return structures.LabeledImage(image, label, name)


def _parse_class(record, file, info):
  """Decodes a record whose image has one class; see `parse`."""
  fields = tf.io.parse_single_example(record, _CLASS_FEATURES)
  name, labels = fields['image/filename'], fields[_CLASS_LABEL].values
  where = [file, ': ', name, ': ']
  first, last = info.label_offset, info.label_offset + info.num_classes - 1
  single = errors.check(tf.equal(tf.size(labels), 1), lambda: [
      *where, 'the record has ', tf.size(labels), f' labels (feature {_CLASS_LABEL}); one is '
      'expected'])
  with tf.control_dependencies([single]):
    label = tf.reshape(labels[:1], [])
  known = errors.check((label >= first) & (label <= last), lambda: [
      *where, 'the label is ', label, f'; {info.num_classes} classes with labels {first} to {last} '
      'are expected (imagenet.num_classes, imagenet.label_offset)'])
  with tf.control_dependencies([known]):
    image = decode_or_name(fields['image/encoded'], where, upright=False)
  return structures.LabeledImage(image, tf.cast(label - first, tf.int32), name)


def decode_image(encoded: tf.Tensor, where: Sequence) -> tf.Tensor:
  """Decodes the bytes of a record's JPEG or PNG file to uint8 [height, width, 3], RGB.

  The EXIF orientation is not applied: the builder stores images upright, and labels of other
  builders fit the image as it is stored. An image beyond formats.image_limits is rejected before
  memory for its pixels is allocated.

  Args:
    encoded: string [].
    where: Prefix of errors, strings and string scalars.
  """
  problem = encoded_images.problem(encoded)
  with tf.control_dependencies([_check_image(problem, where)]):
    return encoded_images.decode(encoded, upright=False)


def decode_or_name(encoded: tf.Tensor, where: Sequence, upright: bool = True) -> tf.Tensor:
  """Decodes an image file like `decode_image`; corrupt pixel data cause an error with a name too.

  Args:
    encoded, where: Same arguments as those of `decode_image`.
    upright: Whether the EXIF orientation is applied.
  """
  def decode(encoded):
    return encoded_images.decode_or_problem(encoded, upright)

  image, problem = errors.or_say(encoded, decode, lambda: [
      *where, 'the image is truncated or corrupt'])
  with tf.control_dependencies([_check_image(problem, where)]):
    return tf.identity(image)


def _check_image(problem, where):
  return errors.check(problem == '', lambda: [*where, problem])


# --- Files ------------------------------------------------------------------------------------


def matching_files(patterns: Sequence[str], allow_corrupt: bool = False) -> list[str]:
  """Returns the sorted record files that match patterns; each pattern must match a file.

  Args:
    patterns: Paths, in which * and ? stand for any characters. An existing file or folder whose
      name equals the pattern is matched literally.
    allow_corrupt: Whether a TFRecord file may be truncated or corrupt.

  Raises:
    FileNotFoundError: A pattern matches no file.
    ValueError: All files are empty, or one cannot be opened or is not a TFRecord file.
  """
  files = []
  for pattern in patterns:
    found = [f for f in files_lib.matching(pattern) if not f.endswith(records.INCOMPLETE)]
    if not found:
      raise MissingFileError(
          f'file_pattern "{pattern}" matches no file; records are made by python -m '
          'deeplab_tf.data.build')
    files.extend(found)
  files = sorted(set(files))
  if not any(files_lib.size(file) for file in files):
    raise DataError(f'file_pattern {_listed(patterns)}: all {len(files)} matching files are '
                    'empty; there is no record to read')
  for file in files:
    _check_start(file, allow_corrupt)
  return files


def _listed(patterns):
  return ', '.join(f'"{p}"' for p in patterns)


def check_classes(files: Sequence[str], info: AnyInfo) -> bool:
  """Compares the classes stated in the first record of each file with those of the config.

  Returns:
    Whether all files with a complete record state their classes; files of earlier versions and of
    DeepLab2 do not.

  Raises:
    ValueError: The classes contradict the config; the message names the file and a class.
  """
  stated_by_all = True
  for file in files:
    try:
      raw = files_lib.read_record(file, 0, 0) if files_lib.size(file) else None
    except DataError:
      continue
    if raw is None or not raw.is_whole or _record_problem(raw.data):
      continue
    features = tf.train.Example.FromString(raw.data).features.feature
    stated = b''.join(features[classes_lib.FEATURE].bytes_list.value)
    problem = classes_lib.difference(stated, info) if stated else None
    if problem:
      raise DataError(f'{file}: {problem}: the labels were made for other classes than the config '
                      'describes. Build the records again, or describe the classes that they have')
    stated_by_all &= bool(stated)
  return stated_by_all


def _check_start(file, allow_corrupt):
  """Reads the first record of a file and checks that it has the features of an image."""
  if not files_lib.size(file):
    return
  raw = files_lib.read_record(file, 0, 0)
  problem = _record_problem(raw.data)
  if not raw.is_whole or (problem and not raw.has_right_checksum()):
    if not allow_corrupt:
      raise DataError(files_lib.truncated(file, 0))
  elif problem:
    raise DataError(f'{file}: {problem}')


def _record_problem(data):
  try:
    features = tf.train.Example.FromString(data).features.feature
  except Exception:  # pylint: disable=broad-except; protobuf raises its own DecodeError
    features = {}
  if 'image/encoded' in features:
    return None
  names = cli.one_line(', '.join(sorted(features)[:5])) or 'none'
  return ('its records are not those of deeplab_tf.data.build or DeepLab2: there is no feature '
          f'image/encoded (features: {names})')


# --- Diagnosis --------------------------------------------------------------------------------


def diagnose(files: Sequence[str], info: DatasetInfo) -> Optional[str]:
  """Searches files for the cause of a TensorFlow error: corrupt files, then undecodable images.

  Returns:
    One line with the file, or None.
  """
  for file in files:
    try:
      files_lib.count_records(file)
    except UserError as error:
      return str(error)
  for file in files:
    line = _diagnose_content(file, info)
    if line:
      return line
  return None


def _diagnose_content(file, info):
  number = -1
  try:
    for number, record in enumerate(tf.data.TFRecordDataset(file)):
      # Labels are only checked where they are read.
      problem = _content_problem(record.numpy(), file, number, info, with_label=False)
      if problem:
        return problem
  except tf.errors.DataLossError:
    return files_lib.truncated(file, number + 1)
  return None


def diagnose_record(file: str, number: int, offset: int, info: DatasetInfo,
                    with_label: bool) -> Optional[str]:
  """Finds out what is wrong with one record.

  Args:
    file: Path of the file.
    number: Number of the record in the file, for the message.
    offset: Byte offset of the record.
    info: The data set.
    with_label: Whether the label is checked too.

  Returns:
    One line with the file, or None.
  """
  try:
    raw = files_lib.read_record(file, number, offset)
  except DataError:
    raw = None
  if raw is None or not raw.is_whole:
    return f'{file}: record {number} and what follows in the file cannot be read'
  if not raw.has_right_checksum():
    return f'{file}: record {number}: its checksum is wrong'
  return _content_problem(raw.data, file, number, info, with_label)


def _content_problem(record, file, number, info, with_label):
  problem = _record_problem(record)
  if problem:
    return f'{file}: record {number}: {problem}'
  try:
    parse(tf.constant(record), tf.constant(file), info, with_label)
  except (tf.errors.OpError, DataError) as error:  # The latter comes from Python functions.
    name = tf.train.Example.FromString(record).features.feature['image/filename']
    name = b''.join(name.bytes_list.value).decode('utf-8', 'replace')
    return errors.stated(error) or cli.one_line(
        f'{file}: record {number} ({name}) cannot be decoded: {errors.reason(error)}')
  return None
