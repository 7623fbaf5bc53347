"""Image files on disk as the examples of records."""

import io
import os
from typing import Optional

import numpy as np

from deeplab_tf import image_limits
from deeplab_tf.data import tfrecord
from deeplab_tf.user_errors import DataError, MissingFileError

# Pillow calls the JPEG of several pictures that cameras write MPO; the first is used.
_FORMATS = {'JPEG': 'jpeg', 'MPO': 'jpeg', 'PNG': 'png'}
_EXTENSIONS = ('.jpg', '.jpeg', '.png')


def example(path: str, label: Optional[np.ndarray]) -> tfrecord.SourceExample:
  """Reads an image; its bytes are kept unless it is not RGB.

  Args:
    path: A JPEG or PNG file.
    label: int32 [height, width] panoptic map, or None.

  Raises:
    ValueError: It is no image, or larger than deeplab_tf.image_limits, or the label has another
      size.
  """
  with open(path, 'rb') as file:
    return from_bytes(file.read(), path, label)


def from_bytes(encoded: bytes, path: str, label: Optional[np.ndarray]) -> tfrecord.SourceExample:
  """As `example`, of a file that is read already.

  Args:
    encoded: Its bytes.
    path, label: As of `example`; a path need not be one of a file.
  """
  image = image_limits.load(io.BytesIO(encoded), path, ('JPEG', 'PNG'))
  if image.mode != 'RGB':
    encoded = _as_rgb(image)
  width, height, kind = image.width, image.height, _FORMATS[image.format]
  if label is not None and label.shape != (height, width):
    raise DataError(f'{path}: is {height}x{width}, but its panoptic PNG is '
                    f'{label.shape[0]}x{label.shape[1]}')
  name = os.path.splitext(os.path.basename(path))[0]
  return tfrecord.SourceExample(name, encoded, kind, height, width, label)


def _as_rgb(image):
  stream = io.BytesIO()
  kind = _FORMATS[image.format]
  options = {'quality': 95} if kind == 'jpeg' else {}
  image.convert('RGB').save(stream, kind, **options)
  return stream.getvalue()


def in_folder(folder: str) -> list[str]:
  """Returns the paths of the JPEG and PNG files in a folder, in order of the names.

  Raises:
    FileNotFoundError: There is no such folder.
    ValueError: There are no such files.
  """
  if not os.path.isdir(folder):
    raise MissingFileError(f'{folder}: no such folder; images are expected in it')
  names = sorted(name for name in os.listdir(folder)
                 if name.lower().endswith(_EXTENSIONS) and not name.startswith('.'))
  if not names:
    raise DataError(f'{folder}: holds no JPEG or PNG images')
  return [os.path.join(folder, name) for name in names]
