"""Image files as users have them, without a label; and the rules by which any image is read.

Whoever reads an image gets the same pixels: the builder of records, files read as they are, a dry
run, prediction with Pillow, and the exported model with TensorFlow (data.records.encoded_images).

  what the file holds           what is read: uint8 [height, width, 3], RGB
  ---------------------------   ----------------------------------------------------------------
  EXIF orientation 1 to 8       turned upright; formats.orientation says where it may stand
  gray, 1 bit, palette          the three equal channels, or the palette's colors
  16 bits, gray or RGB          the high byte of each number
  alpha, transparent colors     left out: a pixel has the color that is stored, however transparent
  CMYK and YCCK (JPEG)          as Adobe writes them, inverted, with or without Adobe's mark
  several pictures              the first
  gamma, color profiles         not applied

Pixels of JPEGs differ by about 1 of 255 on average: TensorFlow decodes them with a fast inverse
cosine transform, as DeepLab2 has it, and Pillow with the accurate one. Only images inside records
are not turned: the builder has stored them upright, and in records of other programs the label
fits the image as it is stored.
"""

import contextlib
import io
import os
from typing import IO, Union

import numpy as np
from PIL import Image, ImageOps

from deeplab_tf.formats import image_limits, orientation

# Some that are not here run programs, or unpack more than their first bytes state.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM')
# Pillow calls the JPEG of several pictures that cameras write MPO.
_ORIENTED = ('JPEG', 'MPO', 'PNG')


def read(file: Union[str, os.PathLike, IO[bytes]]) -> np.ndarray:
  """Reads an image file by the rules above.

  Args:
    file: Path of a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM file, or the file opened for reading.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It cannot be opened, is no image, corrupt, or larger than formats.image_limits.
  """
  is_path = isinstance(file, (str, os.PathLike))
  encoded = image_limits.read_bytes(file) if is_path else file.read()
  name = os.fspath(file) if is_path else getattr(file, 'name', 'the image')
  image = image_limits.load(io.BytesIO(encoded), name, _FORMATS)
  if image.format in _ORIENTED:
    return orientation.upright(to_rgb(image), orientation.stated(encoded))
  with contextlib.suppress(Exception):  # Damaged EXIF data say nothing.
    ImageOps.exif_transpose(image, in_place=True)
  return to_rgb(image)


def to_rgb(image: Image.Image) -> np.ndarray:
  """Returns the pixels of an image as they are stored, not turned: uint8 [height, width, 3]."""
  if image.mode == 'CMYK':  # TensorFlow's decoder rounds down, Pillow does not.
    ink = 255 - np.asarray(image).astype(np.uint16)
    return (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)
  if image.mode.startswith('I'):  # 16 bits, which Pillow would clip.
    high_byte = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
    image = Image.fromarray(high_byte.astype(np.uint8))
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
