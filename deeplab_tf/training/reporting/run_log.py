"""What happened in a run, one JSON object per line: for programs, and for people with grep."""

import datetime
import json
import math
import os
import pathlib
from typing import Any, Optional, Union

import numpy as np


class RunLog:
  """Appends events to a file; several programs may append to the same one."""

  def __init__(self, path: Optional[Union[str, 'os.PathLike[str]']]):
    """Initializes the log; the file is made at the first event.

    Args:
      path: The file; None: nothing is written.
    """
    self._path = None if path is None else pathlib.Path(path)

  def write(self, event: str, step: int, **values) -> None:
    """Appends an event.

    Args:
      event: What happened: 'start', 'train' (an interval's means), 'skip' (a step that was left
        out), 'eval', 'checkpoint', 'stop' or 'error'.
      step: The steps that are done.
      **values: What belongs to it: numbers, texts, lists and dictionaries of them. Numbers that
        are not finite become null.
    """
    if self._path is None:
      return
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='milliseconds')
    entry = _plain({'time': now, 'event': event, 'step': step, **values})
    line = json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b'\n'
    self._path.parent.mkdir(parents=True, exist_ok=True)
    # Without a buffer: what a program writes at once does not mix with what others write.
    with open(self._path, 'ab', buffering=0) as file:
      file.write(line if self._ends_with_newline() else b'\n' + line)

  def _ends_with_newline(self) -> bool:
    """Whether the last line is whole; it is not where a run was killed or the disk was full."""
    with open(self._path, 'rb') as file:
      if not file.seek(0, os.SEEK_END):
        return True
      file.seek(-1, os.SEEK_END)
      return file.read(1) == b'\n'


def _plain(value: Any) -> Any:
  """Returns what JSON can hold."""
  if isinstance(value, dict):
    return {str(name): _plain(item) for name, item in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value
