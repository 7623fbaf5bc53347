"""Reads image files on disk as examples for records."""

import io
import os
from typing import Optional, Union

import numpy as np
from PIL import Image

from deeplab_tf import file_names, listing
from deeplab_tf.data.records import tfrecord
from deeplab_tf.formats import image_limits, orientation, rgb_images
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import DataError, MissingFileError

# Pillow calls JPEG files of cameras with several images MPO; the first image is used.
_FORMATS = {'JPEG': 'jpeg', 'MPO': 'jpeg', 'PNG': 'png'}
_EXTENSIONS = ('.jpg', '.jpeg', '.png')
# Compression level of re-encoded PNGs: twice as fast as the default, and little larger.
_COMPRESSION = 3

Label = Union[np.ndarray, InstanceMasks]


def example(path: str, label: Optional[Label]) -> tfrecord.SourceExample:
  """Reads an image by the rules of formats.rgb_images.

  The bytes of an upright RGB file are kept. Any other image is re-encoded as PNG, so that every
  reader of the records gets the same pixels.

  Args:
    path: Path of a JPEG or PNG file.
    label: int32 [height, width] panoptic map, or instance masks, or None.

  Raises:
    ValueError: The file is not an image, or exceeds formats.image_limits, or the sizes of image
      and label differ.
  """
  return from_bytes(image_limits.read_bytes(path), path, label)


def from_bytes(encoded: bytes, path: str, label: Optional[Label]) -> tfrecord.SourceExample:
  """Makes the same example as `example`, from the content of a file.

  Args:
    encoded: Content of the file.
    path: Name for errors and for the example; it need not be the path of a file.
    label: int32 [height, width] panoptic map, or instance masks, or None.
  """
  image = image_limits.load(io.BytesIO(encoded), path, ('JPEG', 'PNG'))
  turned = orientation.stated(encoded)
  height, width, kind = image.height, image.width, _FORMATS[image.format]
  if image.mode != 'RGB' or turned != 1:
    pixels = orientation.upright(rgb_images.to_rgb(image), turned)
    height, width, kind = *pixels.shape[:2], 'png'
    encoded = _as_png(pixels)
  is_map = isinstance(label, np.ndarray)
  size = label.shape if is_map else label.size if label else (height, width)
  if size != (height, width):
    reason = orientation.explanation((height, width), size, turned)
    other = 'its panoptic PNG is' if is_map else 'the JSON states'
    raise DataError(f'{path}: is {height}x{width}, but {other} {size[0]}x{size[1]}{reason}')
  return tfrecord.SourceExample(name=file_names.stem(path), encoded=encoded, format=kind,
                                height=height, width=width, label=label, turned=turned)


def _as_png(pixels):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'png', compress_level=_COMPRESSION)
  return stream.getvalue()


def in_folder(folder: str) -> list[str]:
  """Returns the paths of the JPEG and PNG files in a folder, sorted by name.

  Raises:
    FileNotFoundError: The folder does not exist.
    ValueError: The folder has no such files.
  """
  if not os.path.isdir(folder):
    raise MissingFileError(f'{folder}: no such folder; images are expected in it')
  names = listing.files(folder, _EXTENSIONS)
  if not names:
    raise DataError(f'{folder}: holds no JPEG or PNG images')
  return [os.path.join(folder, name) for name in names]
