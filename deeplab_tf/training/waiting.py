"""Waits for the checkpoints of a training that runs in another process."""

import os
import time
from typing import Callable, Iterator

from deeplab_tf.checkpoints import files
from deeplab_tf.training.signals import Stopped
from deeplab_tf.user_errors import CheckpointError

_POLL_SECONDS = 2.0


def new_checkpoints(model_dir: str, timeout: float, stop_requested: Callable[[], bool],
                    poll_seconds: float = _POLL_SECONDS) -> Iterator[str]:
  """Yields the newest intact checkpoint of a folder whenever there is a newer one.

  Incomplete and corrupt checkpoints are skipped, as are those that appeared and were replaced by
  newer ones during an evaluation.

  Args:
    model_dir: The folder, which may not exist yet.
    timeout: Number of seconds without a new checkpoint after which this ends; negative for never.
    stop_requested: Returns whether to stop; called while waiting.
    poll_seconds: Seconds between two checks.

  Raises:
    Stopped: A stop was requested.
    HostError: The files cannot be opened.
  """
  last, looked_at, since = None, None, time.monotonic()
  while True:
    if stop_requested():
      raise Stopped
    listed = _listing(model_dir)
    # Verifying a checkpoint takes time, so it is only done after a change.
    if listed != looked_at:
      newest = _newest(model_dir)
      looked_at = listed
      if newest is not None and newest != last:
        last = newest
        yield newest
        since = time.monotonic()
        continue
    if 0 <= timeout <= time.monotonic() - since:
      return
    time.sleep(poll_seconds)


def _listing(model_dir: str) -> list:
  """Returns names, sizes and modification times of checkpoint files."""
  found = []
  for entry in os.scandir(model_dir) if os.path.isdir(model_dir) else ():
    if entry.name.startswith('ckpt-'):
      try:
        status = entry.stat()
      except FileNotFoundError:  # The file has just been removed.
        continue
      found.append((entry.name, status.st_size, status.st_mtime_ns))
  return sorted(found)


def _newest(model_dir: str):
  try:
    return files.newest_whole(model_dir, warn=lambda line: None)
  except CheckpointError:  # No checkpoint is complete yet.
    return None
