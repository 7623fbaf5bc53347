"""Image files on disk as the examples of records."""

import functools
import io
import os
from typing import Optional

import numpy as np
from PIL import Image

from deeplab_tf.data import tfrecord

_FORMATS = {'JPEG': 'jpeg', 'PNG': 'png'}
_EXTENSIONS = ('.jpg', '.jpeg', '.png')


def example(path: str, label: Optional[np.ndarray]) -> tfrecord.SourceExample:
  """Reads an image; its bytes are kept unless it is not RGB.

  Args:
    path: A JPEG or PNG file.
    label: int32 [height, width] panoptic map, or None.

  Raises:
    ValueError: It is no image, or the label has another size.
  """
  with open(path, 'rb') as file:
    encoded = file.read()
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      if image.format not in _FORMATS:
        raise ValueError(f'{path}: is a {image.format} image; JPEG and PNG can be used')
      image.load()
      if image.mode != 'RGB':
        encoded = _as_rgb(image)
      width, height, kind = image.width, image.height, _FORMATS[image.format]
  except (OSError, SyntaxError) as error:
    raise ValueError(f'{path}: is no image, or damaged ({error})') from None
  if label is not None and label.shape != (height, width):
    raise ValueError(f'{path}: is {height}x{width}, but its panoptic PNG is '
                     f'{label.shape[0]}x{label.shape[1]}')
  name = os.path.splitext(os.path.basename(path))[0]
  return tfrecord.SourceExample(name, encoded, kind, height, width, label)


def _as_rgb(image):
  stream = io.BytesIO()
  options = {'quality': 95} if image.format == 'JPEG' else {}
  image.convert('RGB').save(stream, image.format, **options)
  return stream.getvalue()


def unlabeled_examples(folder: str) -> list:
  """Returns functions that each read one image of a folder, in order of the names."""
  return [functools.partial(example, path, None) for path in in_folder(folder)]


def in_folder(folder: str) -> list[str]:
  """Returns the paths of the JPEG and PNG files in a folder, in order of the names.

  Raises:
    FileNotFoundError: There is no such folder.
    ValueError: There are no such files.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{folder}: no such folder; images are expected in it')
  names = sorted(name for name in os.listdir(folder)
                 if name.lower().endswith(_EXTENSIONS) and not name.startswith('.'))
  if not names:
    raise ValueError(f'{folder}: holds no JPEG or PNG images')
  return [os.path.join(folder, name) for name in names]
