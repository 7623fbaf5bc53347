"""Waits for the checkpoints of a training that runs elsewhere."""

import os
import time
from typing import Callable, Iterator

from deeplab_tf.checkpoints import files
from deeplab_tf.training.signals import Stopped
from deeplab_tf.user_errors import CheckpointError

_POLL_SECONDS = 2.0


def new_checkpoints(model_dir: str, timeout: float, stop_requested: Callable[[], bool],
                    poll_seconds: float = _POLL_SECONDS) -> Iterator[str]:
  """Yields the newest whole checkpoint of a folder whenever there is a newer one.

  Half-written and damaged ones are passed over; those that came and went during an evaluation
  too.

  Args:
    model_dir: The folder; it may not exist yet.
    timeout: Seconds without a new one after which this ends; negative: never.
    stop_requested: Asked while waiting.
    poll_seconds: Time between two looks.

  Raises:
    Stopped: A stop was requested.
    HostError: The files cannot be opened.
  """
  last, looked_at, since = None, None, time.monotonic()
  while True:
    if stop_requested():
      raise Stopped
    listed = _listing(model_dir)
    # Reading a checkpoint through takes time: only when something has changed.
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
  """Names, sizes and times of the files of checkpoints."""
  found = []
  for entry in os.scandir(model_dir) if os.path.isdir(model_dir) else ():
    if entry.name.startswith('ckpt-'):
      try:
        status = entry.stat()
      except FileNotFoundError:  # Removed since.
        continue
      found.append((entry.name, status.st_size, status.st_mtime_ns))
  return sorted(found)


def _newest(model_dir: str):
  try:
    return files.newest_whole(model_dir, warn=lambda line: None)
  except CheckpointError:  # None is whole yet.
    return None
