"""The model directory of a training, and which process may write to it.

It is only written to after all checks, so that a rejected start leaves it unchanged. A lock keeps
other trainings from writing; the operating system releases it when the process ends for any reason.
"""

import datetime
import errno
import fcntl
import json
import os
import socket
import weakref
from typing import Optional

from deeplab_tf.checkpoints import files
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import HostError, UsageError

CONFIG_FILE = 'config.textproto'
LOCK_FILE = '.lock'
# Files and folders that a training writes in place. Other files are replaced, so that only the
# permissions of the folder matter for them.
_WRITTEN_IN_PLACE = ('train', 'eval', 'best_checkpoint', 'log.jsonl', LOCK_FILE)
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)

# A process that is forked must not keep the lock of its parent.
_held = weakref.WeakSet()


class ModelFolder:
  """A --model_dir.

  Attributes:
    path: Path of the folder as given by the user.
  """

  def __init__(self, path: str, must_exist: bool = False):
    """Checks that the path can be a folder, without changing anything.

    Args:
      path: Path of the folder.
      must_exist: Whether the folder must exist.

    Raises:
      UsageError: The path is a file or a URL, or it does not exist although it must.
    """
    self.path = path
    if '://' in path:
      raise UsageError(f'--model_dir={path} is no folder: mount the bucket (e.g. with gcsfuse) and '
                       'give the folder that it is mounted at')
    if os.path.exists(path) and not os.path.isdir(path):
      raise UsageError(f'--model_dir={path} is a file; give a folder')
    if must_exist and not os.path.isdir(path):
      raise UsageError(f'--model_dir={path} does not exist; give the folder of a training')
    self._lock = _Lock(os.path.join(path, LOCK_FILE))
    self._seen = []

  def why_not_writable(self) -> Optional[str]:
    """Returns the reason why the folder is not writable, or None, without changing anything."""
    for path in (self.path, *(os.path.join(self.path, name) for name in _WRITTEN_IN_PLACE)):
      reason = atomic_file.why_not_writable(path)
      if reason is not None:
        return reason
    return None

  def check_for_evaluation(self, options) -> Optional[str]:
    """Checks that an evaluation can write all requested files.

    Args:
      options: EvaluatorOptions.

    Returns:
      The reason why scores cannot be written to the folder, or None.

    Raises:
      HostError: Predictions are to be saved to a folder that is not writable.
    """
    reason = self.why_not_writable()
    if options.save_predictions or options.save_raw_predictions:
      elsewhere = options.override_save_dir
      problem = atomic_file.why_not_writable(elsewhere) if elsewhere else reason
      if problem:
        raise HostError(f'predictions cannot be saved: {problem}; set '
                        'evaluator_options.override_save_dir to another folder, or clear '
                        'save_predictions and save_raw_predictions')
    return reason

  def reserve(self) -> list[str]:
    """Locks the folder, as far as that is possible without changing it.

    Returns:
      Lines for the user.

    Raises:
      HostError: The folder is not writable, or another training writes to it.
    """
    reason = self.why_not_writable()
    if reason is not None:
      raise HostError(f'--model_dir={self.path} cannot be written to: {reason}; give another '
                      'folder, or the right to write there')
    self._seen = _checkpoints(self.path)
    return self._take(create=False)

  def begin(self, config_text: str) -> None:
    """Creates the folder and writes the config and the holder of the lock.

    Args:
      config_text: The experiment as a textproto.

    Raises:
      HostError: Another training has begun since `reserve`.
    """
    os.makedirs(self.path, exist_ok=True)
    self._take(create=True)
    if _checkpoints(self.path) != self._seen:
      raise HostError(f'another training has written checkpoints to --model_dir={self.path} since '
                      'this one was started; start again to resume from them')
    self._lock.sign()
    with atomic_file.writing(os.path.join(self.path, CONFIG_FILE)) as file:
      file.write(config_text)

  def release(self) -> None:
    """Lets other trainings write to the folder."""
    self._lock.release()

  def same_model_advice(self) -> str:
    """Returns the advice for a folder whose checkpoints belong to another model."""
    path = os.path.join(self.path, CONFIG_FILE)
    named = f', {path},' if os.path.isfile(path) else ','
    return f'use the config that made it{named} or another --model_dir'

  def _take(self, create: bool) -> list[str]:
    try:
      self._lock.take(create)
    except BlockingIOError:
      raise HostError(f'another training{self._lock.holder()} writes to --model_dir={self.path}; '
                      'wait for it or give another folder') from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      return [f'note: {self.path} is on a file system without locks: nothing keeps a second '
              'training from writing there']
    return []


def _checkpoints(path: str) -> list[str]:
  return files.numbered(path) if os.path.isdir(path) else []


class _Lock:
  """A lock on a file that is held at most until this process ends."""

  def __init__(self, path: str):
    self._path = path
    self._descriptor = None
    self._close = None

  def take(self, create: bool) -> None:
    """Acquires the lock, unless this process holds it already.

    Args:
      create: Whether the file is created if it does not exist; otherwise nothing is locked then.

    Raises:
      BlockingIOError: Another process holds the lock.
      OSError: The file system has no locks.
    """
    if self._descriptor is not None:
      return
    try:
      # Python's descriptors are not inherited by child programs.
      descriptor = os.open(self._path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    except FileNotFoundError:
      return
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      os.close(descriptor)
      raise
    self._descriptor = descriptor
    self._close = weakref.finalize(self, os.close, descriptor)
    _held.add(self)

  def sign(self) -> None:
    """Writes the holder of the lock into the file."""
    if self._descriptor is None:
      return
    now = datetime.datetime.now().isoformat(timespec='minutes')
    entry = {'process': os.getpid(), 'host': socket.gethostname(), 'since': now}
    os.ftruncate(self._descriptor, 0)
    os.pwrite(self._descriptor, json.dumps(entry).encode() + b'\n', 0)

  def release(self) -> None:
    """Releases the lock; the file is kept, since another process may have opened it."""
    if self._close is not None:
      self._close()
    self._descriptor = self._close = None

  def holder(self) -> str:
    """Returns ' (process 123 on host x since 2026-11-28 10:28)', or '' if it is not known."""
    try:
      with open(self._path, encoding='utf-8') as file:
        entry = json.load(file)
      process, host = int(entry['process']), str(entry['host'])
      since = datetime.datetime.fromisoformat(entry['since'])
    except (OSError, ValueError, KeyError, TypeError):
      return ''
    if host == socket.gethostname() and not _is_alive(process):
      return ''  # This is an earlier holder; the new one has not signed yet.
    return f' (process {process} on host {host} since {since:%Y-%m-%d %H:%M})'


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except OSError:  # The process of another user.
    pass
  return True


def _forget_locks() -> None:
  for lock in list(_held):
    lock.release()


os.register_at_fork(after_in_child=_forget_locks)
