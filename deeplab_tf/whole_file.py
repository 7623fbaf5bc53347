"""Files that are written whole or not at all."""

import contextlib
import os
from typing import IO, Iterator, Union

_Path = Union[str, 'os.PathLike[str]']


@contextlib.contextmanager
def replacing(path: _Path) -> Iterator[str]:
  """Yields another path to write to; it becomes `path` when the context ends without an error."""
  path = os.fspath(path)
  temporary = f'{path}.{os.getpid()}.tmp'
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
