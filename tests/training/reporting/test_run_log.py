"""The log of a run: one JSON object per line, whatever happened to earlier runs."""

import datetime
import json

import numpy as np

from deeplab_tf.training.reporting import run_log


def _entries(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_each_event_is_a_line_with_time_event_step_and_values(tmp_path):
  path = tmp_path / 'model' / 'log.jsonl'
  log = run_log.RunLog(str(path))
  log.write('start', 0)
  log.write('train', 20, **{'losses/total': 1.5, 'seconds_left': None})
  first, second = _entries(path)
  assert first['event'] == 'start'
  assert (second['event'], second['step'], second['losses/total']) == ('train', 20, 1.5)
  assert second['seconds_left'] is None
  time = datetime.datetime.fromisoformat(second['time'])
  assert time.utcoffset() == datetime.timedelta(0)
  assert abs(datetime.datetime.now(datetime.timezone.utc) - time) < datetime.timedelta(minutes=1)
  assert list(second)[:3] == ['time', 'event', 'step']


def test_what_is_not_finite_becomes_null_and_numpy_becomes_plain(tmp_path):
  path = tmp_path / 'log.jsonl'
  run_log.RunLog(path).write(
      'train', np.int64(3), nan=float('nan'), infinity=np.float32(np.inf), half=np.float32(0.5),
      flag=np.bool_(True), count=np.int32(7), names=['loss "a"', 'größe'],
      inner={'x': [np.float64(-np.inf), 1]}, array=np.array([1.0, np.nan]))
  entry = _entries(path)[0]
  del entry['time']
  assert entry == {
      'event': 'train', 'step': 3, 'nan': None, 'infinity': None, 'half': 0.5, 'flag': True,
      'count': 7, 'names': ['loss "a"', 'größe'], 'inner': {'x': [None, 1]},
      'array': [1.0, None]}


def test_a_line_that_was_cut_off_spoils_only_itself(tmp_path):
  path = tmp_path / 'log.jsonl'
  log = run_log.RunLog(path)
  log.write('start', 0)
  path.write_bytes(path.read_bytes() + b'{"time": "2024-0')
  log.write('train', 1)
  log.write('train', 2)
  lines = path.read_text().splitlines()
  assert lines[1] == '{"time": "2024-0'
  assert [json.loads(lines[i])['step'] for i in (0, 2, 3)] == [0, 1, 2]
  assert path.read_text().endswith('\n')


def test_a_second_run_appends(tmp_path):
  path = tmp_path / 'log.jsonl'
  run_log.RunLog(path).write('stop', 5)
  run_log.RunLog(path).write('start', 5)
  assert [entry['event'] for entry in _entries(path)] == ['stop', 'start']


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_log.RunLog(None).write('start', 0)
  assert not list(tmp_path.iterdir())
