"""The files of checkpoints: finds whole ones, removes leftovers, writes and copies.

TensorFlow saves 'ckpt-STEP' in this order: it writes into the folder 'ckpt-STEP_temp', renames
the data file into place, writes 'ckpt-STEP.index' in place, removes the folder and replaces the
file `checkpoint`, which names the checkpoints. A save may be killed between any two steps or
within one.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import uuid
from typing import Callable, Optional

import tensorflow as tf
from google.protobuf import text_encoding

from deeplab_tf.checkpoints import literal_paths
from deeplab_tf.user_errors import CheckpointError, HostError, MissingFileError

# Errors that reading a corrupt checkpoint raises.
READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)

_INDEX = re.compile(r'ckpt-(\d+)\.index')
_DATA = re.compile(r'(ckpt-\d+)\.data-\d{5}-of-\d{5}')
_ENDING = re.compile(r'\.(?:index|data-\d{5}-of-\d{5})$')
_TEMPORARY_FOLDER = re.compile(r'ckpt-\d+_temp|\.ckpt-\d+\.\w{8}')
_TEMPORARY_FILE = re.compile(r'checkpoint\.tmp[0-9a-f]{32}')
_STATE = 'checkpoint'


def first_line(error: Exception) -> str:
  """Returns the message of a TensorFlow error as one short line."""
  return str(error).strip().split('\n')[0][:200]


def to_standard_error(line: str) -> None:
  """Prints a warning where it does not mix with a program's output."""
  print(line, file=sys.stderr, flush=True)


# === Which are whole ===


def corruption(prefix: str) -> Optional[str]:
  """Reads a checkpoint through, one tensor at a time, and verifies its checksums.

  Args:
    prefix: Prefix of the checkpoint, e.g. '.../ckpt-1000'.

  Returns:
    None if the checkpoint is whole, else the reason in one line.

  Raises:
    HostError: The checkpoint cannot be opened, and may be whole.
  """
  if not has_index(prefix):
    return 'its index file is missing'
  check_readable(prefix)
  name = 'index'
  try:
    reader = tf.train.load_checkpoint(literal_paths.prefix(prefix))
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except READ_ERRORS as error:
    return f'{name}: {first_line(error)}'
  return None


def has_index(prefix: str) -> bool:
  """Returns whether a checkpoint exists.

  Raises:
    HostError: The folder cannot be read.
  """
  try:
    os.stat(f'{prefix}.index')
  except (FileNotFoundError, NotADirectoryError):
    return False
  except OSError as error:
    raise _not_opened(f'{prefix}.index', error) from None
  return True


def check_readable(prefix: str) -> None:
  """Opens the files of a checkpoint, so that a lack of permission is not taken for corruption.

  Raises:
    HostError: One of them cannot be opened.
  """
  folder, name = os.path.split(prefix)
  path = folder
  try:
    for part in [f'{name}.index', *_data_files(folder or '.', name)]:
      path = os.path.join(folder, part)
      with contextlib.suppress(FileNotFoundError), open(path, 'rb') as file:
        file.read(1)
  except OSError as error:
    raise _not_opened(path, error) from None


def _not_opened(path: str, error: OSError) -> HostError:
  return HostError(f'{path} cannot be opened: {error.strerror}')


def newest_whole(folder: str,
                 warn: Callable[[str], None] = to_standard_error) -> Optional[str]:
  """Returns the prefix of the checkpoint 'ckpt-STEP' of the highest step that is whole.

  It looks at the checkpoints themselves, since the file `checkpoint` may be missing or stale.

  Args:
    folder: Folder of checkpoints; it may hold other files too, or not exist.
    warn: Function that is called with a line for each corrupt checkpoint that is skipped.

  Returns:
    The prefix, or None if the folder holds no checkpoint of such a name.

  Raises:
    CheckpointError: There are checkpoints, and all are corrupt.
    HostError: The newest one that is not corrupt cannot be opened.
  """
  corrupt = []
  for prefix in reversed(numbered(folder)):
    reason = corruption(prefix)
    if reason is None:
      for other, why in corrupt:
        warn(f'WARNING: {other} is not whole ({why}); using the one before, {prefix}')
      return prefix
    corrupt.append((prefix, reason))
  if corrupt:
    prefix, reason = corrupt[0]
    raise CheckpointError(
        f'{folder}: none of its {len(corrupt)} checkpoints is whole, the newest '
        f'{os.path.basename(prefix)} is not for this reason: {reason}; put a whole one there, or '
        'move its ckpt-* files to another folder')
  return None


def numbered(folder: str) -> list[str]:
  """Returns the prefixes of 'ckpt-STEP' in a folder by ascending step."""
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return []
  except OSError as error:
    raise _not_opened(folder, error) from None
  found = [match for match in map(_INDEX.fullmatch, names) if match]
  return [os.path.join(folder, match[0][:-len('.index')])
          for match in sorted(found, key=lambda match: int(match[1]))]


# === What is left over ===


def remove_leftovers(folder: str) -> list[str]:
  """Removes leftovers of killed saves and copies: temporary files, and data without an index.

  Only the program that writes the checkpoints may do so: an ongoing save looks the same.

  Args:
    folder: Folder of checkpoints; it may not exist.

  Returns:
    The names of the removed files and folders.
  """
  removed = []
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  for name in names:
    path = os.path.join(folder, name)
    data = _DATA.fullmatch(name)
    if os.path.isdir(path):
      if not _TEMPORARY_FOLDER.fullmatch(name):
        continue
      shutil.rmtree(path, ignore_errors=True)
    elif _TEMPORARY_FILE.fullmatch(name) or (data and f'{data[1]}.index' not in names):
      os.remove(path)
    else:
      continue
    removed.append(name)
  return removed


# === Writing ===


def write_state(prefix: str) -> None:
  """Writes the file `checkpoint` of a checkpoint's folder, whole or not at all.

  From it tf.train.latest_checkpoint knows the checkpoint, and a tf.train.CheckpointManager the
  older ones, which it will delete in time. Later ones in the folder are not listed.

  Args:
    prefix: Prefix of an existing checkpoint, which becomes the latest.
  """
  folder, name = os.path.split(prefix)
  names = [os.path.basename(path) for path in numbered(folder or '.')]
  names = names[:names.index(name) + 1] if name in names else [name]
  times = [os.path.getmtime(os.path.join(folder, f'{name}.index')) for name in names]
  # The names are relative, so that the folder can be moved. The manager keeps checkpoints
  # for good unless they are later than last_preserved_timestamp.
  lines = [f'model_checkpoint_path: {_quoted(name)}',
           *(f'all_model_checkpoint_paths: {_quoted(name)}' for name in names),
           *(f'all_model_checkpoint_timestamps: {time!r}' for time in times),
           f'last_preserved_timestamp: {min(times) - 1!r}']
  temporary = os.path.join(folder, f'{_STATE}.tmp{uuid.uuid4().hex}')
  with open(temporary, 'w', encoding='utf-8') as file:
    file.write('\n'.join(lines) + '\n')
  os.replace(temporary, os.path.join(folder, _STATE))


def _quoted(name: str) -> str:
  return f'"{text_encoding.CEscape(name, as_utf8=True)}"'


def move_in(temporary: str, folder: str, name: str) -> None:
  """Moves the files of a checkpoint into a folder, where it appears whole or not at all.

  Args:
    temporary: Folder of the same file system that holds only these files.
    folder: Existing folder; a checkpoint of that name in it is replaced.
    name: Name of the checkpoint in the folder; the files in `temporary` may have another one.
  """
  # Without its index a checkpoint does not exist: the old one goes first, the new one comes last.
  _remove(os.path.join(folder, f'{name}.index'))
  for part in sorted(os.listdir(temporary), key=lambda part: part.endswith('.index')):
    os.replace(os.path.join(temporary, part),
               os.path.join(folder, name + _ENDING.search(part)[0]))


def copy_checkpoint(prefix: str, folder: str) -> str:
  """Copies a checkpoint into a folder of its own, then removes other 'ckpt-STEP' there.

  Data files are linked if the file system can, so a copy takes no space while both exist.

  Args:
    prefix: Prefix of a checkpoint 'ckpt-STEP'.
    folder: Folder other than the checkpoint's own; it is created if needed, and leftovers of
      killed copies in it are removed.

  Returns:
    The prefix of the copy.

  Raises:
    FileNotFoundError: There is no such checkpoint.
    ValueError: The folder is the checkpoint's own.
  """
  source, name = os.path.split(os.path.abspath(prefix))
  if os.path.realpath(source) == os.path.realpath(folder):
    raise CheckpointError(f'{folder} is the folder of {prefix} itself; give another one for the '
                          'copy')
  if not os.path.exists(f'{prefix}.index'):
    raise MissingFileError(f'{prefix}: no such checkpoint')
  os.makedirs(folder, exist_ok=True)
  remove_leftovers(folder)
  temporary = tempfile.mkdtemp(prefix=f'.{name}.', dir=folder)
  try:
    for part in _data_files(source, name):
      _link_or_copy(os.path.join(source, part), os.path.join(temporary, part))
    # Never a link: TensorFlow overwrites an index in place when it saves the same step again.
    shutil.copyfile(f'{prefix}.index', os.path.join(temporary, f'{name}.index'))
    move_in(temporary, folder, name)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  copy = os.path.join(folder, name)
  for other in numbered(folder):
    if os.path.basename(other) != name:
      _remove_checkpoint(other)
  write_state(copy)
  return copy


def _data_files(folder: str, name: str) -> list[str]:
  return sorted(part for part in os.listdir(folder) if part.startswith(f'{name}.data-'))


def _link_or_copy(source: str, target: str) -> None:
  try:
    os.link(source, target)
  except OSError:  # Another file system, or one without links.
    shutil.copyfile(source, target)


def _remove_checkpoint(prefix: str) -> None:
  _remove(f'{prefix}.index')
  folder, name = os.path.split(prefix)
  for part in _data_files(folder, name):
    _remove(os.path.join(folder, part))


def _remove(path: str) -> None:
  if os.path.exists(path):
    os.remove(path)
