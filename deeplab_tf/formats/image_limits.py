"""Limits of the image size, enforced before the pixels of a file are decoded.

The header of an image file states the size, and a file of a few bytes can state any size, so the
header is checked before memory is allocated. For images that TensorFlow decodes, see
data.records.encoded_images.
"""

import os
from typing import IO, Callable, Optional, Sequence, Union

from PIL import Image

from deeplab_tf.user_errors import DataError, HostError, MissingFileError, UserError

MAX_PIXELS = 2**27
MAX_SIDE = 65535
RULE = (f'at most {MAX_PIXELS} pixels ({MAX_PIXELS // 10**6} megapixels) and {MAX_SIDE} on a side '
        'are read; make it smaller')


def load(file: Union[str, os.PathLike, IO[bytes]], name: str, formats: Sequence[str],
         problem: Callable[[Image.Image], Optional[str]] = lambda image: None) -> Image.Image:
  """Reads an image file with Pillow.

  Args:
    file: Path of the file, or a file object.
    name: Prefix of error messages, usually the path.
    formats: Pillow's names of the allowed formats.
    problem: Function that describes what is wrong with an image whose pixels are not decoded yet,
      or returns None.

  Returns:
    The image, with its pixels decoded and its file closed.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file cannot be opened, has another format, is corrupt or too large, or has a
      problem. The message is one line that begins with the name.
  """
  line = None
  try:
    with Image.open(file, formats=tuple(formats)) as image:
      line = _size_problem(*image.size) or problem(image)
      if line is None:
        image.load()
        return image
  except Image.DecompressionBombError:  # More than twice the size at which Pillow warns.
    line = f'the image is too large: {RULE}'
  except Image.UnidentifiedImageError:
    line = f'is not an image, or is corrupt (it does not begin like {" or ".join(formats)})'
  except OSError as error:
    if error.errno is not None:  # Errors raised by Pillow itself have none.
      raise not_opened(name, error) from None
    line = f'is not an image, or is corrupt ({_reason(error)})'
  except Exception as error:  # pylint: disable=broad-except; corrupt files raise errors of any kind.
    line = f'is not an image, or is corrupt ({_reason(error)})'
  raise DataError(f'{name}: {line}')


def read_bytes(path: Union[str, os.PathLike]) -> bytes:
  """Returns the content of a file.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file cannot be opened or read. The message is one line with the path.
  """
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise not_opened(os.fspath(path), error) from None


def not_opened(name: str, error: OSError) -> UserError:
  """Returns the exception to raise if the system cannot open a file, whatever its content.

  Args:
    name: Path with which the message begins.
    error: Exception that the system raised.
  """
  if isinstance(error, FileNotFoundError):
    return MissingFileError(f'{name}: {error.strerror}')
  return HostError(f'{name}: cannot be opened: {error.strerror}')


def _size_problem(width, height):
  if 0 < max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
    return None
  return f'the image is {height}x{width}: {RULE}'


def _reason(error):
  return ' '.join(str(error).split())[:200] or type(error).__name__
