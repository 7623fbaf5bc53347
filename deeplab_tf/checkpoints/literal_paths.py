"""Paths that TensorFlow takes literally.

TensorFlow reads checkpoints and SavedModels, and removes old checkpoints, by patterns: in a folder
named 'lr=[0.1]' it finds nothing, and in one named 'run*' it would remove files of 'run1' too. Such
a folder is given to TensorFlow by the name of a link in a temporary folder.
"""

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import tempfile

from deeplab_tf.user_errors import HostError

# The range stands for bytes that are not UTF-8, which TensorFlow does not accept at all.
_SPECIAL = re.compile('[][*?\\\\\ud800-\udfff]')
# Process -> its folder of links: a forked process must not use one that its parent removes.
_roots = {}


def folder(path: str) -> str:
  """Returns a path to a folder without pattern characters: its own, or that of a link.

  Args:
    path: Path of the folder. A link exists until the process ends, whatever is in the folder.

  Raises:
    HostError: A link is needed and cannot be made.
  """
  path = os.fspath(path)
  if not _SPECIAL.search(path):
    return path
  target = os.path.abspath(path)
  return _link(target, hashlib.sha1(os.fsencode(target)).hexdigest()[:16], path)


def prefix(path: str) -> str:
  """Returns an existing checkpoint's prefix without pattern characters, for reading."""
  path = os.fspath(path)
  where, name = os.path.split(path)
  if not _SPECIAL.search(name):
    return os.path.join(folder(where), name)
  where = os.path.abspath(where)
  found = hashlib.sha1(os.fsencode(os.path.join(where, name))).hexdigest()[:16]
  for file in os.listdir(where):
    if file.startswith((f'{name}.index', f'{name}.data-')):
      _link(os.path.join(where, file), found + file[len(name):], path)
  return os.path.join(_root(path), found)


def _link(target: str, name: str, path: str) -> str:
  """Returns a link of this name to a target; `path` is the user's path, for errors."""
  link = os.path.join(_root(path), name)
  try:
    with contextlib.suppress(FileExistsError):
      os.symlink(target, link)
  except OSError as error:
    raise _no_link(path, error) from None
  return link


def _root(path: str) -> str:
  if os.getpid() not in _roots:
    try:
      made = tempfile.mkdtemp(prefix='deeplab_tf_links_')
    except OSError as error:
      raise _no_link(path, error) from None
    _roots[os.getpid()] = made
    if _SPECIAL.search(made):
      raise _no_link(path, None)
  return _roots[os.getpid()]


def _no_link(path: str, error) -> HostError:
  reason = f' ({error.strerror})' if error else ' either'
  return HostError(
      f'{path} has one of the characters [ ] * ? \\ in its name, which TensorFlow takes for a '
      f'pattern, and a link to it cannot be made in the temporary folder{reason}; set TMPDIR to '
      'another folder, or give a path without these characters')


@atexit.register
def _remove_links() -> None:
  made = _roots.pop(os.getpid(), None)
  if made:
    shutil.rmtree(made, ignore_errors=True)  # Only the links.
