"""The progress line."""

import io
import time

from deeplab_tf.training import progress


class _Clock:

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def _lines(stream):
  return stream.getvalue().splitlines()


def test_line_has_step_values_speed_and_time_left():
  clock = _Clock()
  display = progress.Progress('train', 100, 4, stream=io.StringIO(), clock=clock)
  with display:
    display.update(1, loss=2.5, lr=0.001)
    clock.now = 10.0
    display.update(11, loss=1.25, lr=0.0005)
    # 10 steps of 4 images in 10 s; 89 steps are left.
    assert display.line() == 'train 11/100 | loss 1.25 | lr 0.0005 | 4 images/s | 1m 29s left'
    assert display.images_per_second == 4.0


def test_plain_lines_come_at_most_ten_seconds_apart_and_not_each_step():
  clock, stream = _Clock(), io.StringIO()
  with progress.Progress('train', 100, stream=stream, clock=clock) as display:
    times = []
    for step in range(1, 61):
      clock.now = float(step)
      before = len(_lines(stream))
      display.update(step)
      if len(_lines(stream)) > before:
        times.append(clock.now)
  gaps = [b - a for a, b in zip(times, times[1:])]
  assert times[0] == 1.0
  assert max(gaps) <= 10.0
  assert len(times) <= 10


def test_terminal_line_is_rewritten():
  clock, stream = _Clock(), _Terminal()
  with progress.Progress('train', 3, stream=stream, clock=clock) as display:
    for step in (1, 2, 3):
      clock.now += 1.0
      display.update(step)
  text = stream.getvalue()
  assert text.count('\r') >= 3
  assert text.count('\n') == 1
  assert text.endswith('\n')


def test_a_silent_loop_still_shows_that_it_lives():
  stream = io.StringIO()
  with progress.Progress('train', 3, stream=stream, interval=0.2):
    time.sleep(0.7)
  assert len(_lines(stream)) >= 2
  assert all('preparing the first step' in line for line in _lines(stream))


def test_first_step_does_not_count_for_the_speed():
  clock = _Clock()
  display = progress.Progress('train', None, 2, stream=io.StringIO(), clock=clock)
  with display:
    clock.now = 100.0
    display.update(1)
    assert display.images_per_second is None
    clock.now = 101.0
    display.update(2)
    assert display.images_per_second == 2.0


def test_durations():
  assert progress.format_duration(7.4) == '7s'
  assert progress.format_duration(69) == '1m 09s'
  assert progress.format_duration(7500) == '2h 05m'
  assert progress.format_duration(3 * 86400 + 4 * 3600) == '3d 04h'
