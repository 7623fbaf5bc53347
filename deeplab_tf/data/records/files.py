"""TFRecord files as containers: where records begin, and whether they are complete.

A record consists of its length (uint64), the checksum of the length, the data and their checksum.
"""

import fnmatch
import os
import struct
import zlib
from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf import listing
from deeplab_tf.data import errors
from deeplab_tf.user_errors import DataError

_HEADER, _FOOTER = 12, 4
_UNPACK = {'GZIP': 'gzip -dc FILE > NEW_FILE',
           'ZLIB': 'python -c "import sys, zlib; sys.stdout.buffer.write(zlib.decompress('
                   'sys.stdin.buffer.read()))" < FILE > NEW_FILE'}
# A larger record length means that the bytes are not a length.
_MAX_RECORD = 2**31


class RecordIndex(NamedTuple):
  """Positions of the records in a file.

  Attributes:
    offsets: Byte offset of each complete record.
    end: Size of the file. Reading a record at this offset fails, while after the last complete
      record TensorFlow would allocate memory for whatever length stands there.
    problem: One line about what follows the last complete record; None if the file ends there.
  """
  offsets: list
  end: int
  problem: Optional[str]


def matching(pattern: str) -> list[str]:
  """Returns the files that match a pattern, except hidden ones; see tfrecord.matching_files."""
  if os.path.isfile(pattern):
    return [pattern]
  folder, name = os.path.split(pattern)
  if not os.path.isdir(folder or '.'):
    with errors.opening(pattern):
      return [file for file in tf.io.gfile.glob(pattern)
              if not listing.is_hidden(os.path.basename(file))]
  names = listing.files(folder or '.')
  found = fnmatch.filter(names, name) or fnmatch.filter(names, name.replace('[', '[[]'))
  return [os.path.join(folder, file) for file in found]


def size(file: str) -> int:
  """Returns the size of a file in bytes.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file cannot be accessed.
  """
  with errors.opening(file):
    return tf.io.gfile.stat(file).length


def index_records(file: str) -> RecordIndex:
  """Finds the records of a file by reading only their lengths.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file cannot be opened.
  """
  length = size(file)
  offsets, position = [], 0
  with errors.opening(file), tf.io.gfile.GFile(file, 'rb') as stream:
    while position < length:
      stream.seek(position)
      try:
        end = position + _HEADER + _read_length(stream, file, len(offsets)) + _FOOTER
      except DataError as error:
        return RecordIndex(offsets, length, str(error))
      if end > length:
        return RecordIndex(offsets, length, truncated(file, len(offsets)))
      offsets.append(position)
      position = end
  return RecordIndex(offsets, length, None)


def count_records(file: str) -> int:
  """Counts the records of a file by reading only their lengths.

  Raises:
    ValueError: The file is truncated or not a TFRecord file.
  """
  index = index_records(file)
  if index.problem:
    raise DataError(index.problem)
  return len(index.offsets)


def record_at(file: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
  """Reads the record at an offset; fails if its checksums are wrong.

  Args:
    file: string [], path of the file.
    offset: int64 [], byte offset of the record.

  Returns:
    string [].
  """
  variant = tf.raw_ops.TFRecordDatasetV2(
      filenames=file[None], compression_type='', buffer_size=tf.constant(0, tf.int64),
      byte_offsets=offset[None])
  records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
  # The data set contains the following records too.
  return records.take(1).get_single_element()


class RawRecord(NamedTuple):
  """The unverified bytes of a record.

  Attributes:
    data: The data, shorter than the header states if the file ends before.
    footer: The checksum stated in the file.
    is_whole: Whether the file contains the complete record.
  """
  data: bytes
  footer: bytes
  is_whole: bool

  def has_right_checksum(self) -> bool:
    """Returns whether the checksum matches the data; takes 0.2 seconds per megabyte."""
    return self.footer == _checksum(self.data)


def read_record(file: str, number: int, offset: int) -> RawRecord:
  """Reads a record without verifying it.

  Args:
    file: Path of the file.
    number: Number of the record in the file, for the error.
    offset: Byte offset of the record.

  Raises:
    ValueError: There is no record header at the offset.
  """
  with errors.opening(file), tf.io.gfile.GFile(file, 'rb') as stream:
    stream.seek(offset)
    length = _read_length(stream, file, number)
    data, footer = stream.read(length), stream.read(_FOOTER)
  return RawRecord(data, footer, len(data) + len(footer) == length + _FOOTER)


def truncated(file: str, number: int) -> str:
  """Returns the message about an incomplete record."""
  return (f'{file}: is truncated or corrupt: record {number} is incomplete. Build the file again '
          '(python -m deeplab_tf.data.build)')


def _read_length(stream, file, number):
  header = stream.read(_HEADER)
  if len(header) < _HEADER:
    raise DataError(truncated(file, number))
  length = struct.unpack('<Q', header[:8])[0]
  kind = _compression(header) if number == 0 and header[8:] != _checksum(header[:8]) else None
  if kind:
    raise DataError(f'{file}: is compressed ({kind}), and records are read as they are: unpack it '
                    f'({_UNPACK[kind]}), or write it without compression_type')
  if length > _MAX_RECORD:
    kind = 'is no TFRecord file' if number == 0 else 'is corrupt'
    raise DataError(f'{file}: {kind} (record {number} would be {length} bytes long)')
  # A wrong length would lead into the middle of a record, where zeros look like empty records.
  if header[8:] != _checksum(header[:8]):
    raise DataError(truncated(file, number))
  return length


def _compression(header):
  """Returns the compression that the first bytes of a file indicate, or None."""
  if header.startswith(b'\x1f\x8b\x08'):
    return 'GZIP'
  try:
    zlib.decompressobj().decompress(header)
  except zlib.error:
    return None
  return 'ZLIB'


def _crc_row(value):
  for _ in range(8):
    value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
  return value


_CRC_TABLE = [_crc_row(value) for value in range(256)]


def _checksum(data):
  """Returns the 4 bytes that follow `data` in a file, its masked CRC-32C."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
  crc ^= 0xFFFFFFFF
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
