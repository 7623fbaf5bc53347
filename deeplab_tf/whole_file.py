"""Text files that are written whole or not at all."""

import contextlib
import os
from typing import IO, Iterator, Union


@contextlib.contextmanager
def writing(path: Union[str, 'os.PathLike[str]']) -> Iterator[IO[str]]:
  """Opens a text file that takes its name only when the context ends without an error."""
  path = os.fspath(path)
  temporary = f'{path}.{os.getpid()}.tmp'
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      yield file
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)
