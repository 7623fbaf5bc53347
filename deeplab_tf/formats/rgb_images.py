"""Reads image files, and defines the rules by which all images are read.

The same rules hold everywhere: when TFRecords are built, when image files are read directly, in a
dry run, in prediction (with Pillow), and in the exported model (with TensorFlow, see
data.records.encoded_images).

content of the file           result: uint8 [height, width, 3], RGB
  ---------------------------   ----------------------------------------------------------------
  EXIF orientation 1 to 8       rotated upright; see formats.orientation
  gray, 1 bit, palette          three equal channels, or the palette's colors
  16 bits, gray or RGB          high byte of each value
  alpha, transparent colors     ignored: a pixel has the stored color, whatever its transparency
  CMYK and YCCK (JPEG)          read as inverted, like Adobe's files, with or without Adobe's marker
  several images                the first image
  gamma, color profiles         not applied

Pixels of JPEGs differ by about 1 of 255 on average between the two decoders: TensorFlow uses the
fast inverse cosine transform, as in DeepLab2, and Pillow the accurate one. Images inside TFRecords
are not rotated: here they are stored upright, and in TFRecords of other programs the label fits the
image as it is stored.
"""

import contextlib
import io
import os
from typing import IO, Union

import numpy as np
from PIL import Image, ImageOps

from deeplab_tf.formats import image_limits, orientation

# Other formats may run programs, or unpack to more than the size in the header.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM')
# MPO is Pillow's name for JPEG files with several images, which some cameras write.
_ORIENTED = ('JPEG', 'MPO', 'PNG')


def read(file: Union[str, os.PathLike, IO[bytes]]) -> np.ndarray:
  """Reads an image file by the rules above.

  Args:
    file: Path of a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM file, or a file object.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file cannot be opened, is not an image, is corrupt, or exceeds the limits of
      formats.image_limits.
  """
  is_path = isinstance(file, (str, os.PathLike))
  encoded = image_limits.read_bytes(file) if is_path else file.read()
  name = os.fspath(file) if is_path else getattr(file, 'name', 'the image')
  image = image_limits.load(io.BytesIO(encoded), name, _FORMATS)
  if image.format in _ORIENTED:
    return orientation.upright(to_rgb(image), orientation.stated(encoded))
  with contextlib.suppress(Exception):  # Corrupt EXIF data are ignored.
    ImageOps.exif_transpose(image, in_place=True)
  return to_rgb(image)


def to_rgb(image: Image.Image) -> np.ndarray:
  """Returns the pixels of an image as stored, not rotated: uint8 [height, width, 3]."""
  if image.mode == 'CMYK':  # TensorFlow's decoder rounds down, Pillow does not.
    ink = 255 - np.asarray(image).astype(np.uint16)
    return (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)
  if image.mode.startswith('I'):  # 16 bits, which Pillow would clip.
    high_byte = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
    image = Image.fromarray(high_byte.astype(np.uint8))
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
