"""Image files as users have them: any usual format and orientation, without a label."""

import contextlib

import numpy as np
from PIL import Image, ImageOps

from deeplab_tf import image_limits

# Some that are not here run programs, or unpack more than their first bytes state.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM')


def read(path: str) -> np.ndarray:
  """Reads an image file, upright as its EXIF data say.

  Args:
    path: Of a JPEG, PNG, WebP, TIFF, BMP, GIF (its first picture) or PPM file.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: It is no image, damaged, or larger than deeplab_tf.image_limits.
  """
  image = image_limits.load(path, path, _FORMATS)
  with contextlib.suppress(Exception):  # Damaged EXIF data say nothing.
    ImageOps.exif_transpose(image, in_place=True)
  if image.mode.startswith('I'):  # 16 bits, which Pillow would clip.
    high_byte = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
    image = Image.fromarray(high_byte.astype(np.uint8))
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
