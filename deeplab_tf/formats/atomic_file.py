"""Atomic writing of files, and checks of write permission."""

import contextlib
import os
import pathlib
from typing import IO, Iterator, Optional, Union

_Path = Union[str, 'os.PathLike[str]']


@contextlib.contextmanager
def replacing(path: _Path) -> Iterator[str]:
  """Yields a temporary path, which is renamed to `path` if the context ends without an error.

  The temporary file is hidden and has the same extension, since some writers infer the format from
  the extension.
  """
  folder, name = os.path.split(os.fspath(path))
  temporary = os.path.join(folder, f'.{os.getpid()}.{name}')
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)


@contextlib.contextmanager
def writing(path: _Path) -> Iterator[IO[str]]:
  """Opens a text file that gets its name only if the context ends without an error."""
  with replacing(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    yield file


def why_not_writable(path: _Path) -> Optional[str]:
  """Returns why this process cannot write to a file or folder, or None if it can.

  Nothing is written for this check.

  Args:
    path: Path of the file or folder. If it does not exist, the nearest existing folder above it is
      checked.
  """
  place = pathlib.Path(os.path.abspath(path))
  while not os.path.lexists(place) and place != place.parent:
    place = place.parent
  is_folder = place.is_dir()
  if not is_folder and str(place) != os.path.abspath(path):
    return f'{place} is not a folder'
  if not os.access(place, os.W_OK | os.X_OK if is_folder else os.W_OK):
    return f'no permission to write to {place}, or it is on a read-only disk'
  return None
