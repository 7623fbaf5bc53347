"""Lists the files of folders, without the files that operating systems create there.

All listings of users' folders use this module, since files such as `._a.png` (macOS), `.DS_Store`
and `Thumbs.db` are not data, whatever their extension.
"""

import os
from typing import Sequence, Union

_Path = Union[str, 'os.PathLike[str]']

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.tif', '.tiff', '.bmp', '.gif', '.ppm',
                    '.pgm')

# In lower case.
_LEFT_BY_SYSTEMS = ('.ds_store', '.localized', 'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db',
                    'desktop.ini', '__macosx', '@eadir', '$recycle.bin')


def is_hidden(name: str) -> bool:
  """Returns whether a file or folder is hidden or created by an operating system.

  Args:
    name: Base name.
  """
  return name.startswith('.') or is_left_by_system(name)


def is_left_by_system(name: str) -> bool:
  """Returns whether a name is that of files or folders created by an operating system.

  A folder that contains only such files counts as empty.

  Args:
    name: Base name.
  """
  return name.startswith('._') or name.lower() in _LEFT_BY_SYSTEMS


def files(folder: _Path, extensions: Sequence[str] = ()) -> list[str]:
  """Returns the sorted names of the files in a folder, without hidden files and subfolders.

  Broken links are included, so that opening them raises an error.

  Args:
    folder: Path of the folder.
    extensions: Extensions to include, in lower case with a dot, compared case-insensitively.
      Default: all.

  Raises:
    OSError: The folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(entry.name for entry in entries
                  if _is_wanted(entry.name, extensions) and not entry.is_dir())


def folders(folder: _Path) -> list[str]:
  """Returns the sorted names of the subfolders of a folder, without hidden ones.

  Raises:
    OSError: The folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def files_below(folder: _Path, extensions: Sequence[str] = ()) -> list[str]:
  """Returns the files in a folder and its subfolders, sorted, without hidden files and folders.

  Links to folders are followed, except to folders that contain them.

  Args:
    folder: Path of the folder.
    extensions: Extensions to include, see `files`.

  Returns:
    Paths relative to the folder, with `/` as separator.

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
