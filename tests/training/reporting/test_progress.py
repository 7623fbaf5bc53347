"""The progress line."""

import io
import time

from deeplab_tf.training.reporting import progress


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


def _screen(text):
  """What a terminal shows of a text: '\r' goes back to the line's start, over what is there."""
  lines = []
  for line in text.split('\n'):
    shown = ''
    for part in line.split('\r'):
      shown = part + shown[len(part):]
    lines.append(shown.rstrip())
  return lines


def test_a_note_stands_above_the_rewritten_line():
  clock, stream = _Clock(), _Terminal()
  with progress.Progress('train', 3, stream=stream, clock=clock) as display:
    for step in (1, 2, 3):
      clock.now += 1.0
      display.update(step, loss=1.0)
      if step == 2:
        display.note('step 2: skipped')
  assert _screen(stream.getvalue()) == [
      'step 2: skipped', 'train 3/3 | loss 1 | 1 images/s | 0s left', '']


def test_a_note_is_a_plain_line_in_a_file():
  stream = io.StringIO()
  with progress.Progress('train', 3, stream=stream) as display:
    display.update(1)
    display.note('step 1: skipped')
  assert _lines(stream) == ['train 1/3', 'step 1: skipped']


def test_a_line_is_no_wider_than_the_terminal(monkeypatch):
  monkeypatch.setenv('COLUMNS', '20')
  stream = _Terminal()
  with progress.Progress('train', 100000, stream=stream) as display:
    display.update(1, loss=1.2345, lr=0.01234)
  assert _screen(stream.getvalue()) == ['train 1/100000 | lo', '']


def test_quiet_measures_and_prints_nothing():
  clock, stream = _Clock(), _Terminal()
  with progress.Progress('train', 10, 4, stream=stream, clock=clock, quiet=True) as display:
    for step in (1, 2):
      clock.now += 20.0
      display.update(step)
    display.note('step 2: skipped')
    assert display.images_per_second == 0.2
    assert display.seconds_left == 160.0
  assert stream.getvalue() == ''


def test_time_left_is_unknown_without_a_speed_or_an_end():
  clock = _Clock()
  for total in (10, None):
    with progress.Progress('train', total, stream=io.StringIO(), clock=clock) as display:
      display.update(1)
      assert display.seconds_left is None
      clock.now += 1.0
      display.update(2)
      assert display.seconds_left == (8.0 if total else None)
