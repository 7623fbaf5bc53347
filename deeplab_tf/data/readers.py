"""Opens what a config names as data: record files, or images that need none."""

from typing import Optional, Sequence, Union

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import modules, structures
from deeplab_tf.data import catalog, errors, sources, tfrecord

_INTERLEAVED_FILES = 16
# Files of up to this size in all are read through for damage when they are opened.
_CHECKED_BYTES = 2 * 2**30


class RecordSource:
  """Record files.

  Args:
    files: Their paths.
    info: The data set.
    with_label: Whether labels are decoded.
  """

  def __init__(self, files: Sequence[str], info: catalog.DatasetInfo, with_label: bool):
    self._files = list(files)
    self._info = info
    self._with_label = with_label
    self._count: Optional[int] = None
    if sum(tf.io.gfile.stat(file).length for file in files) <= _CHECKED_BYTES:
      self.count_exactly()
    errors.on_failure(files[0], lambda: tfrecord.diagnose(self._files, info))

  def count(self) -> Optional[int]:
    """Returns the number of records, or None where counting would take long."""
    return self._count

  def count_exactly(self) -> int:
    """Returns the number of records; reads through all files once.

    Raises:
      ValueError: A file is damaged; names it.
    """
    if self._count is None:
      self._count = sum(tfrecord.count_records(file) for file in self._files)
    return self._count

  def in_order(self) -> tf.data.Dataset:
    """Returns the arguments of `load` for every record, in order."""
    return tf.data.Dataset.from_tensor_slices(self._files).flat_map(_records)

  def shuffled(self, seed: int, epoch: tf.Tensor, buffer_size: int) -> tf.data.Dataset:
    """Returns the arguments of `load` for every record in the order of an epoch, int64 []."""
    files = tf.random.experimental.stateless_shuffle(
        tf.constant(self._files), tf.stack([tf.constant(seed, tf.int64), epoch]))
    records = tf.data.Dataset.from_tensor_slices(files).interleave(
        _records, cycle_length=min(_INTERLEAVED_FILES, len(self._files)), block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Inside the epoch's function, hence for it alone: the order must not depend on what seed the
    # program has set globally.
    tf.random.set_seed(seed + 1)
    return records.shuffle(max(buffer_size, 1), seed=epoch + 1)

  def load(self, record: tf.Tensor, file: tf.Tensor) -> structures.LabeledImage:
    """Decodes a record."""
    return tfrecord.parse(record, file, self._info, self._with_label)


def _records(file):
  return tf.data.TFRecordDataset(file).map(lambda record: (record, file))


class IndexSource:
  """Images that are loaded by index."""

  def __init__(self, direct: sources.DirectSource):
    self._direct = direct

  def count(self) -> int:
    """Returns the number of images."""
    return self._direct.count

  def count_exactly(self) -> int:
    """Returns the number of images."""
    return self._direct.count

  def in_order(self) -> tf.data.Dataset:
    """Returns the argument of `load` for every image, in order."""
    return tf.data.Dataset.range(self._direct.count).map(lambda index: (index,))

  def shuffled(self, seed: int, epoch: tf.Tensor, buffer_size: int) -> tf.data.Dataset:
    """Returns the argument of `load` for every image in the order of an epoch, int64 []."""
    del buffer_size  # All indices are shuffled.
    order = tf.random.experimental.stateless_shuffle(
        tf.range(self._direct.count, dtype=tf.int64),
        tf.stack([tf.constant(seed, tf.int64), epoch]))
    return tf.data.Dataset.from_tensor_slices((order,))

  def load(self, index: tf.Tensor) -> structures.LabeledImage:
    """Loads an image."""
    return self._direct.load(index)


def open_source(options, info: catalog.DatasetInfo,
                field: str) -> Union[RecordSource, IndexSource]:
  """Returns the RecordSource or IndexSource that DatasetOptions name.

  Args:
    options: DatasetOptions.
    info: Their data set.
    field: Their name in errors.

  Raises:
    ConfigError: They name no data.
    ValueError: The data cannot be used; one line with the file.
    FileNotFoundError: A pattern matches no file.
  """
  direct = _direct(options, info, only=bool(options.file_pattern))
  if direct is not None:
    return IndexSource(direct)
  if not options.file_pattern:
    raise config_lib.ConfigError(
        f'{field}.file_pattern is not set: name the record files of data set '
        f'"{options.dataset}", made by python -m deeplab_tf.data.build')
  patterns = [config_lib.require_value(pattern, f'{field}.file_pattern')
              for pattern in options.file_pattern]
  files = tfrecord.matching_files(patterns)
  return RecordSource(files, info, options.decode_groundtruth_label)


def _direct(options, info, only):
  """The data set's own images; with record files named, only where the options ask for it."""
  if options.dataset not in modules.available('data.sources'):
    return None
  if only and options.dataset != 'coco_format':
    return None
  module = modules.load('data.sources', options.dataset)
  return module.direct(options, info) if hasattr(module, 'direct') else None


def count_examples(options) -> Optional[int]:
  """Returns the number of images that DatasetOptions name, or None where counting takes long.

  Raises:
    As open_source.
  """
  return open_source(options, catalog.from_options(options), 'dataset_options').count()
