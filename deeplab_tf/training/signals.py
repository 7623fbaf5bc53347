"""Stopping by SIGTERM or Ctrl-C, after finishing and saving the current step."""

import contextlib
import os
import signal
from typing import Optional


class Stopped(Exception):
  """A run was asked to stop and has finished its current step."""


class StopRequest:
  """Records SIGTERM and SIGINT while it is open; a second signal has its usual effect.

  Use it as a context manager in the main thread.

  Attributes:
    signal: The received signal, or None.
  """

  def __init__(self):
    self.signal: Optional[signal.Signals] = None
    self._before = {}

  def __enter__(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    self._restore()

  def __call__(self) -> bool:
    """Returns whether a stop was requested."""
    return self.signal is not None

  @property
  def exit_code(self) -> int:
    """The shell's exit code for the signal; that of SIGTERM if another worker received it."""
    return 128 + (self.signal or signal.SIGTERM)

  def _note(self, number, frame):
    del frame
    self.signal = signal.Signals(number)
    # Written below the progress line with os.write, since `print` may be interrupted by the signal.
    with contextlib.suppress(OSError):
      os.write(1, (f'\n{self.signal.name}: finishing this step, then saving; once more stops at '
                   'once\n').encode())
    self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}
