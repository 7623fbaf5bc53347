"""Opens the configured data set, from TFRecords or from image files."""

import sys
from typing import Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import modules, structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, errors, sources
from deeplab_tf.data.records import files as files_lib
from deeplab_tf.data.records import tfrecord
from deeplab_tf.data.sources import _labeled_files
from deeplab_tf.formats import image_limits
from deeplab_tf.user_errors import DataError, UserError

_INTERLEAVED_FILES = 16
# Data sets that raw_data supports.
_KNOWN_LAYOUTS = ('coco_panoptic', 'cityscapes_panoptic', 'ade20k_panoptic', 'mapillary_vistas',
                  *catalog.INSTANCES)
# Files of up to this total size are checked completely when they are opened.
_CHECKED_BYTES = 2 * 2**30
# First files of the record files without stated classes for which a note was printed.
_said_to_state_nothing: set[str] = set()


class RecordSource:
  """Images and labels of TFRecord files.

  Args:
    files: Paths of the record files.
    info: The data set.
    with_label: Whether labels are decoded.
  """

  def __init__(self, files: Sequence[str], info: DatasetInfo, with_label: bool):
    self._files = list(files)
    self._info = info
    self._with_label = with_label
    self._count: Optional[int] = None
    self._sound: set[bytes] = set()
    if sum(files_lib.size(file) for file in files) <= _CHECKED_BYTES:
      self.count_exactly()

  def count(self) -> Optional[int]:
    """Returns the number of records, or None if counting would take long."""
    return self._count

  def count_exactly(self) -> int:
    """Returns the number of records; scans all files once.

    Raises:
      DataError: A file is corrupt; the message names it.
    """
    if self._count is None:
      self._count = sum(self._count_file(file) for file in self._files)
    return self._count

  def in_order(self) -> tf.data.Dataset:
    """Returns a data set of the arguments of `load` for all records, in order."""
    return tf.data.Dataset.from_tensor_slices(self._files).flat_map(self._open)

  def shuffled(self, seed: int, epoch: tf.Tensor, buffer_size: int) -> tf.data.Dataset:
    """Returns the arguments of `load` for all records in the order of an epoch (int64 [])."""
    files = tf.random.experimental.stateless_shuffle(
        tf.constant(self._files), tf.stack([tf.constant(seed, tf.int64), epoch]))
    records = tf.data.Dataset.from_tensor_slices(files).interleave(
        self._open, cycle_length=min(_INTERLEAVED_FILES, len(self._files)), block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Set inside the epoch's function, so it applies only there: the order must not depend on the
    # program's global seed.
    tf.random.set_seed(seed + 1)
    return records.shuffle(max(buffer_size, 1), seed=epoch + 1)

  def load(self, record: tf.Tensor, file: tf.Tensor) -> structures.LabeledImage:
    """Decodes a record."""
    return tfrecord.parse(record, file, self._info, self._with_label)

  def _count_file(self, file):
    return files_lib.count_records(file)

  def _open(self, file):
    # Counting has checked all files. An invalid record length crashes TensorFlow.
    if self._count is None:
      file = tf.ensure_shape(tf.numpy_function(self._checked, [file], tf.string), [])
    return tf.data.TFRecordDataset(file).map(lambda record: (record, file))

  def _checked(self, file):
    """Checks the record lengths of a file, once, and returns its path."""
    if file not in self._sound:
      try:
        problem = files_lib.index_records(file.decode()).problem
      except UserError as error:
        problem = str(error)
      if problem:
        raise DataError(errors.marked(problem))
      self._sound.add(file)
    return file


class AddressedRecordSource(RecordSource):
  """TFRecord files whose records are read individually, so that a corrupt one hides no other.

  The order is that of RecordSource. An address is int64 [3]: index of the file, number of the
  record in the file, byte offset. If a file is so corrupt that the next record cannot be found,
  the rest of the file counts as one record.
  """
  is_upright = False

  def __init__(self, files: Sequence[str], info: DatasetInfo, with_label: bool):
    self._addresses: dict[str, np.ndarray] = {}
    super().__init__(files, info, with_label)

  def load(self, address: tf.Tensor) -> structures.LabeledImage:
    """Reads and decodes a record."""
    file = tf.constant(self._files)[address[0]]
    record = files_lib.record_at(file, address[2])
    return tfrecord.parse(record, file, self._info, self._with_label)

  def encoded(self, address: np.ndarray) -> bytes:
    """Returns the encoded image of a record."""
    record = files_lib.record_at(
        tf.constant(self._files[address[0]]), tf.constant(address[2])).numpy()
    return tfrecord.encoded_image(record)

  def place(self, address: np.ndarray) -> str:
    """Returns the name of a record for messages."""
    return f'{self._files[address[0]]}: record {address[1]}'

  def fault(self, address: np.ndarray) -> Optional[str]:
    """Returns one line that says what is wrong with a record; None if no problem is found."""
    file, number, offset = address.tolist()
    try:
      return tfrecord.diagnose_record(self._files[file], number, offset, self._info,
                                      self._with_label)
    except (tf.errors.OpError, UserError) as error:  # The file itself cannot be read any more.
      return f'{self.place(address)}: {errors.reason(error)}'

  def _count_file(self, file):
    return len(self._find(file))

  def _open(self, file):
    addresses = tf.numpy_function(lambda name: self._find(name.decode()), [file], tf.int64)
    addresses = tf.ensure_shape(addresses, [None, 3])
    return tf.data.Dataset.from_tensor_slices((addresses,))

  def _find(self, file):
    """Returns the addresses of a file, int64 [records, 3]; the file is read once."""
    if file not in self._addresses:
      index = files_lib.index_records(file)
      offsets = [*index.offsets, index.end] if index.problem else index.offsets
      number = np.arange(len(offsets))
      self._addresses[file] = np.stack(
          [np.full_like(number, self._files.index(file)), number, np.array(offsets, np.int64)], 1)
    return self._addresses[file]


class IndexSource:
  """Images that are loaded by index, which is also their address.

  Args:
    direct: The images.
  """
  is_upright = True

  def __init__(self, direct: sources.DirectSource):
    self._direct = direct

  def count(self) -> int:
    """Returns the number of images."""
    return self._direct.count

  def count_exactly(self) -> int:
    """Returns the number of images."""
    return self._direct.count

  def in_order(self) -> tf.data.Dataset:
    """Returns a data set of the arguments of `load` for all images, in order."""
    return tf.data.Dataset.range(self._direct.count).map(lambda index: (index,))

  def shuffled(self, seed: int, epoch: tf.Tensor, buffer_size: int) -> tf.data.Dataset:
    """Returns the arguments of `load` for all images in the order of an epoch (int64 [])."""
    del buffer_size  # All indices are shuffled.
    order = tf.random.experimental.stateless_shuffle(
        tf.range(self._direct.count, dtype=tf.int64),
        tf.stack([tf.constant(seed, tf.int64), epoch]))
    return tf.data.Dataset.from_tensor_slices((order,))

  def load(self, index: tf.Tensor) -> structures.LabeledImage:
    """Loads an image."""
    return self._direct.load(index)

  def encoded(self, index: np.ndarray) -> bytes:
    """Returns the bytes of the image file; empty for images that are not files."""
    files = self._direct.files
    return image_limits.read_bytes(files[index]) if files else b''

  def place(self, index: np.ndarray) -> str:
    """Returns the name of an image for messages."""
    return self._direct.files[index] if self._direct.files else f'image {index}'

  def fault(self, index: np.ndarray) -> Optional[str]:
    """Returns one line that says what is wrong with an image; None if no problem is found."""
    try:
      self.load(tf.constant(index))
    except (tf.errors.OpError, UserError) as error:
      place = self.place(index)
      return (errors.stated(error) or errors.cannot_open(error)
              or f'{place}: {errors.reason(error)}')
    return None


def open_source(options, info: DatasetInfo,
                field: str) -> Union[RecordSource, IndexSource]:
  """Returns the RecordSource or IndexSource that DatasetOptions describe.

  If they allow corrupt images, it is read by address and implements corrupt.Source.

  Args:
    options: DatasetOptions.
    info: The data set.
    field: Name of the options in errors.

  Raises:
    ConfigError: The options name no data.
    DataError: The data are invalid; the message names the file.
    MissingFileError: A pattern matches no file.
  """
  direct = _direct(options, info, only=bool(options.file_pattern))
  if direct is not None:
    return IndexSource(direct)
  if not options.file_pattern:
    made = ('' if options.dataset == 'imagenet' else ', made by python -m deeplab_tf.data.build')
    if options.dataset in _KNOWN_LAYOUTS:
      made += ', or the folder of its files with raw_data.root'
    raise config_lib.ConfigError(
        f'{field}.file_pattern is not set: name the record files of data set '
        f'"{options.dataset}"{made}')
  patterns = [config_lib.require_value(pattern, f'{field}.file_pattern')
              for pattern in options.file_pattern]
  if options.max_damaged_images:
    files = tfrecord.matching_files(patterns, allow_corrupt=True)
    _compare_classes(files, info, options)
    return AddressedRecordSource(files, info, options.decode_groundtruth_label)
  files = tfrecord.matching_files(patterns)
  _compare_classes(files, info, options)
  source = RecordSource(files, info, options.decode_groundtruth_label)
  errors.on_failure(files[0], lambda: tfrecord.diagnose(files, info))
  return source


def _compare_classes(files, info, options):
  """Compares the classes stated in the records with the config; notes once if none are stated."""
  if not options.decode_groundtruth_label or tfrecord.check_classes(files, info):
    return
  if files[0] not in _said_to_state_nothing:
    _said_to_state_nothing.add(files[0])
    print(f'note: {files[0]}: the records do not state their classes (an earlier version or '
          f'DeepLab2 made them); those of data set "{info.name}" are assumed', file=sys.stderr)


def _direct(options, info, only):
  """Returns the DirectSource of the data set, or None if its records are to be read."""
  name = options.dataset.split('/')[0]
  if name not in modules.available('data.sources'):
    return None
  if only and name == 'shapes':
    return None
  if only and name == 'image_folders':
    raise config_lib.ConfigError(
        'dataset "image_folders" reads image_folders.image_dir, and file_pattern is set too: clear '
        'it, or read the records as dataset "imagenet"')
  module = modules.load('data.sources', name)
  if hasattr(module, 'direct'):
    if options.raw_data.root:
      raise config_lib.ConfigError(f'raw_data is for {", ".join(_KNOWN_LAYOUTS)}; dataset "{name}" '
                                   'has options of its own')
    return module.direct(options, info)
  return _labeled_files.raw_data(module, options, info) if options.raw_data.root else None


def count_examples(options) -> Optional[int]:
  """Returns the number of images of a data set, or None if counting would take long.

  Raises:
    ConfigError, DataError, MissingFileError: See `open_source`.
  """
  return open_source(options, catalog.from_options(options), 'dataset_options').count()
