"""Reads PNGs whose pixels are class ids or other labels."""

import os
from typing import Optional, Union

import numpy as np
from PIL import Image

from deeplab_tf.formats import image_limits


def read(path: Union[str, os.PathLike]) -> np.ndarray:
  """Reads a semantic map.

  Returns:
    int32 [height, width], gray values, or palette indices.

  Raises:
    ValueError: The file is not a PNG, is too large, or has several channels.
  """
  image = image_limits.load(path, str(path), ('PNG',), _mode_problem)
  return np.asarray(image).astype(np.int32)


def _mode_problem(image: Image.Image) -> Optional[str]:
  if image.mode in ('1', 'L', 'P', 'I') or image.mode.startswith('I;16'):
    return None
  return (f'the image has mode {image.mode}; a semantic map has one channel of class ids, gray '
          'with 8 or 16 bits or with a palette')


def read_rgb(path: Union[str, os.PathLike]) -> np.ndarray:
  """Reads a label map whose labels are encoded in three channels.

  Returns:
    uint8 [height, width, 3].

  Raises:
    ValueError: The file is not a PNG, is too large, or is not 8-bit RGB.
  """

  def problem(image):
    sixteen_bit = bool(image.tile) and '16' in str(image.tile[0][3])
    return None if image.mode == 'RGB' and not sixteen_bit else (
        f'has color mode {image.mode}{" with 16 bits" * sixteen_bit}; 8-bit RGB is expected')

  return np.asarray(image_limits.load(path, str(path), ('PNG',), problem))
