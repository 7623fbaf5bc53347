"""The events of a run, one JSON object per line, for programs and for reading with grep."""

import datetime
import json
import math
import os
import pathlib
from typing import Any, Optional, Union

import numpy as np


class RunLog:
  """Appends events to a file; several processes may append to the same file."""

  def __init__(self, path: Optional[Union[str, 'os.PathLike[str]']]):
    """Initializes the log; the file is created at the first event.

    Args:
      path: Path of the file; None to write nothing.
    """
    self._path = None if path is None else pathlib.Path(path)

  def write(self, event: str, step: int, **values) -> None:
    """Appends an event.

    Args:
      event: Kind of event: 'start', 'train' (means over an interval), 'skip' (a skipped step),
        'eval', 'checkpoint', 'stop' or 'error'.
      step: Number of completed steps.
      **values: Values of the event: numbers, strings, and lists and dictionaries of them. Numbers
        that are not finite become null.
    """
    if self._path is None:
      return
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='milliseconds')
    entry = _plain({'time': now, 'event': event, 'step': step, **values})
    line = json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b'\n'
    self._path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, so that a line is written at once and does not mix with those of other processes.
    with open(self._path, 'ab', buffering=0) as file:
      file.write(line if self._ends_with_newline() else b'\n' + line)

  def _ends_with_newline(self) -> bool:
    """Returns whether the last line is complete, which a killed run or a full disk prevents."""
    with open(self._path, 'rb') as file:
      if not file.seek(0, os.SEEK_END):
        return True
      file.seek(-1, os.SEEK_END)
      return file.read(1) == b'\n'


def _plain(value: Any) -> Any:
  """Converts a value to types that JSON supports."""
  if isinstance(value, dict):
    return {str(name): _plain(item) for name, item in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value
