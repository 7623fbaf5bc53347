"""COCO panoptic 2017 as prepared by tensorflow-datasets: "tfds/coco/2017_panoptic".

Images are read by index, so that the order of an epoch is a permutation of all images and a
function of seed and epoch, as for any source without records. `tfds.as_dataset` reads files
sequentially and shuffles only in a buffer, and `tfds.data_source` does not support TFRecord files,
the default format. TFRecord files are therefore indexed here; other formats use `tfds.data_source`.
"""

import bisect
import functools
import io
import itertools
import os
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf import config as config_lib
from deeplab_tf import structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, errors, sources
from deeplab_tf.data.records import files, tfrecord
from deeplab_tf.data.sources import _image_files, _labeled_files, _panoptic_format
from deeplab_tf.formats import coco_panoptic, image_limits
from deeplab_tf.user_errors import DataError, UserError

_SPLITS = {'train': 'train', 'val': 'validation'}


class _Prepared(NamedTuple):
  """Prepared data; `fetch` returns the features of image `index`, with encoded images."""
  place: str
  count: int
  fetch: Callable[[int], dict[str, Any]]


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  return catalog.built_in(catalog.TFDS[options.dataset])


def examples(options: sources.BuildOptions) -> list:
  """Returns functions that each read one image; see the package.

  The root is the data_dir of tensorflow-datasets. As for coco_panoptic, crowd regions become
  unlabeled by default.
  """
  if options.split not in _SPLITS:
    raise DataError(f'--split={options.split}: {options.dataset} has {" and ".join(_SPLITS)}')
  prepared = _open(options.dataset, _SPLITS[options.split], options.root)
  read = functools.partial(_example, prepared, classes(options), options)
  return [functools.partial(read, index) for index in range(prepared.count)]


def _example(prepared, info, options, index):
  features = prepared.fetch(index)
  label = _label(features, prepared, info, options.treat_crowd_as_ignore is not False, options)
  name = _name(features)
  return _image_files.from_bytes(_encoded(features['image']), f'{prepared.place}: {name}',
                                 label)._replace(name=name)


def direct(options, info: DatasetInfo) -> sources.DirectSource:
  """Returns the images that DatasetOptions.tfds names."""
  fields = options.tfds
  prepared = _open(options.dataset, fields.split,
                   config_lib.require_value(fields.data_dir, 'tfds.data_dir'))

  def fetch(index):
    try:
      features = prepared.fetch(int(index))
      label = (_label(features, prepared, info, fields.treat_crowd_as_ignore)
               if options.decode_groundtruth_label else np.zeros([0, 0], np.int32))
    except UserError as error:
      raise DataError(errors.marked(str(error))) from None
    return _encoded(features['image']), label, _name(features).encode()

  def load(index):
    encoded, label, name = tf.numpy_function(fetch, [index], [tf.string, tf.int32, tf.string])
    name = tf.ensure_shape(name, [])
    where = f'{prepared.place}: '
    encoded = tf.ensure_shape(encoded, [])
    image = tfrecord.decode_or_name(encoded, [where, name, ': '])
    if not options.decode_groundtruth_label:
      label = tf.fill(tf.shape(image)[:2], info.void_label)
    label = tf.ensure_shape(label, [None, None])
    place = tf.strings.join([where, name])
    label = _labeled_files.of_one_size(label, image, place, encoded)
    return structures.LabeledImage(image, label, name)

  return sources.DirectSource(prepared.count, load)


# --- One image --------------------------------------------------------------------------------


def _name(features):
  name = features['image/filename']
  return os.path.splitext(name.decode() if isinstance(name, bytes) else str(name))[0]


def _label(features, prepared, info, treat_crowd_as_ignore, options=sources.STRICT):
  """Returns the panoptic map; a segment's `label` is the index of its class in COCO's list."""
  name, objects = _name(features), features['panoptic_objects']
  where = f'{prepared.place}: {name}'
  places = [int(place) for place in objects['label']]
  for place in places:
    if not 0 <= place < len(info.categories):
      raise DataError(f'{where}: a segment has the label {place}; 0 to '
                      f'{len(info.categories) - 1} are expected')
  segments = [
      {'id': int(objects['id'][i]), 'area': int(objects['area'][i]),
       'iscrowd': int(objects['is_crowd'][i]),
       'category_id': info.categories[place].category_id} for i, place in enumerate(places)]
  image = image_limits.load(io.BytesIO(_encoded(features['panoptic_image'])), where, ('PNG',))
  ids = coco_panoptic.rgb_to_id(np.asarray(image.convert('RGB')))
  annotated = _panoptic_format.AnnotatedImage(name, where, where, *ids.shape, tuple(segments))
  return _panoptic_format.label_from_ids(ids, annotated, info,
                                         treat_crowd_as_ignore=treat_crowd_as_ignore,
                                         options=options)


def _encoded(image):
  """Returns the bytes of an image file; images that arrive decoded are encoded again."""
  if isinstance(image, bytes):
    return image
  stream = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(stream, 'png')
  return stream.getvalue()


# --- Prepared data ----------------------------------------------------------------------------


def _open(dataset, split, data_dir):
  """Opens a split of a data set that tensorflow-datasets has prepared."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise config_lib.ConfigError(f'dataset "{dataset}" needs the package tensorflow-datasets '
                                 f'({error}): pip install tensorflow-datasets') from None
  name = dataset.split('/', 1)[1]
  builder = tfds.builder(name, data_dir=data_dir or None)
  decoders = {key: tfds.decode.SkipDecoding() for key in ('image', 'panoptic_image')}
  place = f'{dataset} {split}'
  try:
    if builder.info.splits and builder.info.file_format is tfds.core.FileFormat.TFRECORD:
      return _tfrecords(place, builder.info, split, decoders)
    found = builder.as_data_source(split=split, decoders=decoders)
  except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
    if builder.info.splits:
      reason = f'split "{split}" cannot be read ({" ".join(str(error).split())[:200]})'
    else:
      folder = f' --data_dir={data_dir}' if data_dir else ''
      reason = (f'is not prepared in {builder.data_dir}; prepare it with: tfds build '
                f'{name}{folder}')
    raise config_lib.ConfigError(f'{dataset}: {reason}') from None
  return _Prepared(place, len(found), found.__getitem__)


def _tfrecords(place, info, split, decoders):
  """Opens TFRecord files and indexes their records; see `_open`."""
  records = []
  for part in info.splits[split].file_instructions:
    file = os.fspath(part.filename)
    index = files.index_records(file)
    if index.problem:
      raise DataError(index.problem)
    stop = None if part.take < 0 else part.skip + part.take
    records.append((file, part.skip, index.offsets[part.skip:stop]))
  ends = list(itertools.accumulate(len(offsets) for _, _, offsets in records))

  def fetch(index):
    row = bisect.bisect_right(ends, index)
    file, skipped, offsets = records[row]
    number = index - ends[row] + len(offsets)
    record = files.read_record(file, skipped + number, offsets[number])
    try:
      return info.features.deserialize_example_np(record.data, decoders=decoders)
    except Exception as error:  # pylint: disable=broad-except; corrupt data raise many types.
      raise DataError(f'{file}: record {skipped + number} is corrupt '
                      f'({errors.reason(error)}); prepare the data again') from None

  return _Prepared(place, ends[-1], fetch)
