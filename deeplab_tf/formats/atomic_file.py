"""Files that are written whole or not at all, and whether they can be."""

import contextlib
import os
import pathlib
from typing import IO, Iterator, Optional, Union

_Path = Union[str, 'os.PathLike[str]']


@contextlib.contextmanager
def replacing(path: _Path) -> Iterator[str]:
  """Yields another path to write to; it becomes `path` when the context ends without an error.

  It is hidden and has the same ending, since some writers choose the format by it.
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
  """Opens a text file that takes its name only when the context ends without an error."""
  with replacing(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    yield file


def why_not_writable(path: _Path) -> Optional[str]:
  """Returns what keeps this process from writing to a file or a folder, or None.

  Nothing is written to find out.

  Args:
    path: If it does not exist, the nearest folder above it counts, in which it would be made.
  """
  place = pathlib.Path(os.path.abspath(path))
  while not os.path.lexists(place) and place != place.parent:
    place = place.parent
  is_folder = place.is_dir()
  if not is_folder and str(place) != os.path.abspath(path):
    return f'{place} is no folder'
  if not os.access(place, os.W_OK | os.X_OK if is_folder else os.W_OK):
    return f'no permission to write to {place}, or it is on a read-only disk'
  return None
