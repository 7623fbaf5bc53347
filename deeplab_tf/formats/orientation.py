"""Reads the EXIF orientation of JPEG and PNG files and rotates images upright.

EXIF data are read from the standard places: in a JPEG, the first APP1 segment "Exif" among the APPn
and COM segments at the beginning of the file; in a PNG, an eXIf chunk before the pixels. Corrupt
EXIF data, XMP and text chunks are ignored. data.records.encoded_orientation is the same in
TensorFlow.
"""

import struct

import numpy as np

# Maximum number of segments or chunks that are searched.
MAX_PARTS = 1000
TAG = 0x0112
# EXIF types of integers: BYTE, SHORT, LONG.
NUMBER_FORMATS = {1: 'B', 3: 'H', 4: 'I'}
# Orientations from 5 on: the image is transposed first, then flipped as listed.
TRANSPOSED = (5, 6, 7, 8)
MIRRORED = (2, 3, 6, 7)
FLIPPED = (3, 4, 7, 8)

_EXIF = b'Exif\0\0'
_PNG = b'\x89PNG\r\n\x1a\n'


def stated(encoded: bytes) -> int:
  """Returns the orientation stated by a file, 1 to 8, or 1 (upright) if it states none.

  Args:
    encoded: Bytes of an image file. For formats other than JPEG and PNG, the result is 1.
  """
  if encoded.startswith(b'\xff\xd8'):
    return _in_tiff(_of_jpeg(encoded))
  if encoded.startswith(_PNG):
    return _in_tiff(_of_png(encoded))
  return 1


def _of_jpeg(encoded):
  """Returns the TIFF structure inside a JPEG, or no bytes if there is none."""
  position = 2
  for _ in range(MAX_PARTS):
    start = encoded[position:position + 4]
    if len(start) < 4 or start[0] != 0xFF:
      break
    if start[1] == 0xFF:  # A fill byte.
      position += 1
      continue
    length = struct.unpack('>H', start[2:])[0]
    if not (0xE0 <= start[1] <= 0xEF or start[1] == 0xFE) or length < 2:
      break
    end = position + 2 + length
    if start[1] == 0xE1 and encoded.startswith(_EXIF, position + 4):
      return encoded[position + 4 + len(_EXIF):end]
    position = end
  return b''


def _of_png(encoded):
  """Returns the TIFF structure inside a PNG, or no bytes if there is none."""
  position = len(_PNG)
  for _ in range(MAX_PARTS):
    start = encoded[position:position + 8]
    if len(start) < 8 or start[4:] in (b'IDAT', b'IEND'):
      break
    length = struct.unpack('>I', start[:4])[0]
    if start[4:] == b'eXIf':
      content = encoded[position + 8:position + 8 + length]
      return content[len(_EXIF):] if content.startswith(_EXIF) else content
    position += 12 + length
  return b''


def _in_tiff(content):
  """Returns the orientation in the first directory of a TIFF structure."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(content[:4])
  if order is None or len(content) < 8:
    return 1
  start = struct.unpack(f'{order}I', content[4:8])[0]
  if start + 2 > len(content):
    return 1
  entries = struct.unpack(f'{order}H', content[start:start + 2])[0]
  for position in range(start + 2, start + 2 + 12 * entries, 12):
    entry = content[position:position + 12]
    if len(entry) < 12:
      break
    tag, kind, count = struct.unpack(f'{order}HHI', entry[:8])
    if tag == TAG and kind in NUMBER_FORMATS and count == 1:
      number = struct.unpack_from(order + NUMBER_FORMATS[kind], entry, 8)[0]
      return number if 1 <= number <= 8 else 1
  return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
  """Rotates an image upright.

  Args:
    image: [height, width, ...], image as stored.
    orientation: EXIF orientation, 1 to 8.

  Returns:
    The upright image. For orientations from 5 on, height and width are swapped.
  """
  if orientation in TRANSPOSED:
    image = np.swapaxes(image, 0, 1)
  if orientation in MIRRORED:
    image = image[:, ::-1]
  if orientation in FLIPPED:
    image = image[::-1]
  return np.ascontiguousarray(image)


def explanation(image_size: tuple, label_size: tuple, orientation: int) -> str:
  """Returns how EXIF may explain that an image and its label differ in size, or an empty string.

  Args:
    image_size: Height and width of the upright image.
    label_size: Height and width of the label.
    orientation: EXIF orientation, 1 to 8.
  """
  if orientation == 1:
    return ''
  line = f' (the image is turned upright by its EXIF orientation {orientation})'
  if orientation in TRANSPOSED and tuple(image_size[::-1]) == tuple(label_size):
    line += (': the label fits the image as it is stored; turn the label too, or remove the '
             'orientation from the image')
  return line
