"""Stopping by SIGTERM or Ctrl-C: the step at hand is finished and saved first."""

import contextlib
import os
import signal
from typing import Optional


class Stopped(Exception):
  """A run was asked to stop, and what it was doing is finished."""


class StopRequest:
  """Notes SIGTERM and SIGINT while it is open; a second one has its usual effect.

  Use as a context manager in the main thread.

  Attributes:
    signal: The signal that came; None: none did.
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
    """Whether a stop was asked for."""
    return self.signal is not None

  @property
  def exit_code(self) -> int:
    """What a shell calls an end by the signal; SIGTERM if it came to another worker."""
    return 128 + (self.signal or signal.SIGTERM)

  def _note(self, number, frame):
    del frame
    self.signal = signal.Signals(number)
    # On a line of its own, below the progress line; printing could meet a print that it interrupts.
    with contextlib.suppress(OSError):
      os.write(1, (f'\n{self.signal.name}: finishing this step, then saving; once more stops at '
                   'once\n').encode())
    self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}
