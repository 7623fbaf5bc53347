"""The progress line: step, loss, learning rate, images per second and time left."""

import shutil
import sys
import threading
import time
from typing import Optional, TextIO

# Longest time between lines in seconds, regardless of the duration of a step.
INTERVAL = 10.0
_TERMINAL_INTERVAL = 0.5
# Number of seconds over which speed is measured.
_SPEED_WINDOW = 60.0


def format_duration(seconds: float) -> str:
  """Returns e.g. '3d 04h', '2h 05m', '1m 09s' or '7s'."""
  seconds = int(round(seconds))
  days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
  if days:
    return f'{days}d {hours:02d}h'
  if hours:
    return f'{hours}h {minutes:02d}m'
  if minutes:
    return f'{minutes}m {seconds % 60:02d}s'
  return f'{seconds}s'


class Progress:
  """Displays the progress of a loop: one rewritten line on a terminal, plain lines elsewhere.

  A separate thread repeats the line while there are no updates, for instance while the first step
  is compiled. Use it as a context manager.
  """

  def __init__(self, label: str, total: Optional[int], batch_size: int = 1, *,
               first_step: int = 0, stream: Optional[TextIO] = None,
               interval: float = INTERVAL, clock=time.monotonic, quiet: bool = False):
    """Initializes the display.

    Args:
      label: Name of the loop, e.g. 'train'.
      total: Number of the last step; None if unknown.
      batch_size: Images per step.
      first_step: Number of steps completed before.
      stream: Stream for the lines; None for standard output.
      interval: Longest time between lines, in seconds.
      clock: Function that returns the time in seconds.
      quiet: Whether to measure without printing.
    """
    self._label = label
    self._total = total
    self._batch_size = batch_size
    self._stream = stream or sys.stdout
    self._terminal = bool(getattr(self._stream, 'isatty', lambda: False)())
    self._interval = interval
    self._clock = clock
    self._quiet = quiet
    self._lock = threading.Lock()
    self._stop = threading.Event()
    self._thread = None
    self._step = first_step
    self._values = {}
    self._marks = []
    self._started = self._printed = clock()
    self._printed_step = None
    self._width = 0

  def __enter__(self):
    self._started = self._printed = self._clock()
    if not self._quiet:
      self._stop.clear()
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *_):
    if self._quiet:
      return
    self._stop.set()
    self._thread.join()
    with self._lock:
      if self._marks and self._printed_step != self._step:
        self._print()
      if self._terminal and self._width:
        self._stream.write('\n')
        self._stream.flush()
      self._width = 0

  @property
  def images_per_second(self) -> Optional[float]:
    """Speed over the last minute, without the first step; None if it is not known yet."""
    if len(self._marks) < 2:
      return None
    (first, start), (last, end) = self._marks[0], self._marks[-1]
    return (last - first) * self._batch_size / max(end - start, 1e-9)

  @property
  def seconds_left(self) -> Optional[float]:
    """Time until the last step at the current speed; None if either is unknown."""
    speed = self.images_per_second
    if not self._total or not speed:
      return None
    return (self._total - self._step) * self._batch_size / speed

  def update(self, step: int, **values: float) -> None:
    """Reports a completed step.

    Args:
      step: Number of completed steps.
      **values: Values shown with their names, e.g. loss=1.5.
    """
    now = self._clock()
    with self._lock:
      self._step, self._values = step, values
      self._marks.append((step, now))
      while len(self._marks) > 2 and now - self._marks[1][1] > _SPEED_WINDOW:
        self._marks.pop(0)
      first = len(self._marks) == 1
      wait = min(_TERMINAL_INTERVAL, self._interval) if self._terminal else self._interval
      # Printed a quarter of the interval early, since the next step may take that long.
      if first or now - self._printed >= (wait if self._terminal else 0.75 * wait):
        self._print()

  def note(self, text: str) -> None:
    """Prints a separate line, above the progress line on a terminal."""
    if self._quiet:
      return
    with self._lock:
      if not self._terminal:
        self._stream.write(text + '\n')
        self._stream.flush()
        return
      self._stream.write('\r' + text.ljust(self._width) + '\n')
      self._width = 0
      self._print()

  def line(self) -> str:
    """Returns the progress line without a newline."""
    step = f'{self._step}/{self._total}' if self._total else str(self._step)
    if not self._marks:
      waited = format_duration(self._clock() - self._started)
      return f'{self._label}: preparing the first step, {waited}'
    parts = [f'{self._label} {step}']
    parts += [f'{name} {value:.4g}' for name, value in self._values.items()]
    speed = self.images_per_second
    if speed is not None:
      parts.append(f'{speed:.3g} images/s')
    if self.seconds_left is not None:
      parts.append(f'{format_duration(self.seconds_left)} left')
    return ' | '.join(parts)

  def _watch(self):
    while not self._stop.wait(self._interval / 10):
      with self._lock:
        if self._clock() - self._printed >= 0.9 * self._interval:
          self._print()

  def _print(self):
    if self._quiet:
      return
    text = self.line()
    if self._terminal:
      # A line that is wider than the window cannot be rewritten.
      text = text[:shutil.get_terminal_size().columns - 1]
      self._stream.write('\r' + text.ljust(self._width))
      self._width = len(text)
    else:
      self._stream.write(text + '\n')
    self._stream.flush()
    self._printed = self._clock()
    self._printed_step = self._step if self._marks else None
