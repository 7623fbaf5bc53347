"""How large an image may be, and how files are opened so that a larger one takes no memory.

The size stands in the first bytes of a file, and a file of a few bytes can state any: it is read
before the pixels are. What TensorFlow decodes is checked by data.records.encoded_images.
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
    file: Its path, or its content.
    name: What errors begin with: its path.
    formats: Pillow's names of those that it may have.
    problem: Says what is wrong with an image whose pixels are not read yet; None if nothing is.

  Returns:
    The image, its pixels read and its file closed.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It cannot be opened, is no such image, damaged, too large or has a problem; one line
      with the name.
  """
  line = None
  try:
    with Image.open(file, formats=tuple(formats)) as image:
      line = _size_problem(*image.size) or problem(image)
      if line is None:
        image.load()
        return image
  except Image.DecompressionBombError:  # Larger than twice what Pillow warns of.
    line = f'the image is too large: {RULE}'
  except Image.UnidentifiedImageError:
    line = f'is no image, or damaged (it does not begin as {" or ".join(formats)})'
  except OSError as error:
    if error.errno is not None:  # Pillow's own have none.
      raise not_opened(name, error) from None
    line = f'is no image, or damaged ({_reason(error)})'
  except Exception as error:  # pylint: disable=broad-except; what damage raises has no end.
    line = f'is no image, or damaged ({_reason(error)})'
  raise DataError(f'{name}: {line}')


def read_bytes(path: Union[str, os.PathLike]) -> bytes:
  """Returns the content of a file.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It cannot be opened or read; one line with the path.
  """
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise not_opened(os.fspath(path), error) from None


def not_opened(name: str, error: OSError) -> UserError:
  """Returns what to raise where the system does not open a file: that says nothing of its content.

  Args:
    name: Path that the error begins with.
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
