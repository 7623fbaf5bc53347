"""Lists the files of folders, without those that operating systems leave there.

Every listing of a user's folder goes through here: `._a.png` of macOS, `.DS_Store`, `Thumbs.db`
and their like are not data, whatever they end in.
"""

import os
from typing import Sequence, Union

_Path = Union[str, 'os.PathLike[str]']

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.tif', '.tiff', '.bmp', '.gif', '.ppm',
                    '.pgm')

# In small letters.
_LEFT_BY_SYSTEMS = ('.ds_store', '.localized', 'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db',
                    'desktop.ini', '__macosx', '@eadir', '$recycle.bin')


def is_hidden(name: str) -> bool:
  """Whether the name of a file or a folder says that it is no data.

  Args:
    name: The name alone, without the folders that lead to it.
  """
  return name.startswith('.') or is_left_by_system(name)


def is_left_by_system(name: str) -> bool:
  """Whether an operating system makes files of a name by itself: a folder of these alone is empty.

  Args:
    name: The name alone, without the folders that lead to it.
  """
  return name.startswith('._') or name.lower() in _LEFT_BY_SYSTEMS


def files(folder: _Path, extensions: Sequence[str] = ()) -> list[str]:
  """Returns the names of the files in a folder, sorted, without hidden ones and sub-folders.

  A link that leads nowhere is among them, so that whoever opens it says so.

  Args:
    folder: Path of the folder.
    extensions: Those wanted, in small letters with their dot; a name may have capitals. Default:
      all.

  Raises:
    OSError: The folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(entry.name for entry in entries
                  if _is_wanted(entry.name, extensions) and not entry.is_dir())


def folders(folder: _Path) -> list[str]:
  """Returns the names of the sub-folders of a folder, sorted, without hidden ones.

  Raises:
    OSError: The folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def files_below(folder: _Path, extensions: Sequence[str] = ()) -> list[str]:
  """Returns the files in a folder and in those below it, sorted, without hidden files and folders.

  Links to folders are followed, each folder only once on the way down.

  Args:
    folder: Path of the folder.
    extensions: As of `files`.

  Returns:
    Paths relative to the folder, with `/` between their parts.

  Raises:
    OSError: A folder cannot be read.
  """
  found = []
  waiting = [('', (os.path.realpath(folder),))]
  while waiting:
    prefix, above = waiting.pop()
    here = os.path.join(folder, prefix) if prefix else folder
    found += [prefix + name for name in files(here, extensions)]
    for name in folders(here):
      target = os.path.realpath(os.path.join(here, name))
      if target not in above:
        waiting.append((f'{prefix}{name}/', (*above, target)))
  return sorted(found)


def _is_wanted(name, extensions):
  return not is_hidden(name) and (not extensions or name.lower().endswith(tuple(extensions)))
