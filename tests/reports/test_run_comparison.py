"""Curves and table of several trainings."""

import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.util import event_pb2

from deeplab_tf.reports import event_files, run_comparison
from deeplab_tf.training.reporting import summaries
from deeplab_tf.user_errors import DataError
from evaluation import compare_runs


def _write(folder, number, start, events):
  """Writes an event file with (step, seconds after the start, {tag: value}) per event."""
  folder.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(folder / f'events.out.tfevents.{number}.host')) as writer:
    writer.write(event_pb2.Event(wall_time=start, file_version='brain.Event:2').SerializeToString())
    for step, seconds, scalars in events:
      event = event_pb2.Event(step=step, wall_time=start + seconds)
      for tag, value in scalars.items():
        event.summary.value.add(tag=tag).tensor.CopyFrom(tf.make_tensor_proto(float(value)))
      writer.write(event.SerializeToString())


@pytest.fixture(name='run')
def fixture_run(tmp_path):
  """A run that was stopped after two minutes and went on a day later, repeating a step."""
  folder, day = tmp_path / 'some run', 86400
  loss = {'losses/total': 1}
  _write(folder / summaries.TRAIN, 1, 1000, [(10, 30, loss), (20, 60, loss), (30, 90, loss)])
  _write(folder / summaries.EVAL, 1, 1000, [
      (20, 120, {'All/pq': 0.1, 'Things/pq': 0.0, 'Stuff/pq': 0.2})])
  _write(folder / summaries.TRAIN, 2, 1000 + day, [(30, 30, loss), (40, 60, loss)])
  _write(folder / summaries.EVAL, 2, 1000 + day, [
      (20, 20, {'All/pq': 0.25}), (40, 180, {'All/pq': 0.5, 'Things/pq': float('nan')})])
  return folder


def test_curves_have_minutes_without_pauses_and_repeated_steps_count_once(run):
  found = run_comparison.read(str(run))
  assert found.name == 'some run'
  assert found.scores['All/pq'] == pytest.approx({20: 0.25, 40: 0.5})
  assert found.scores['Things/pq'] == {20: 0.0}
  assert found.minutes == pytest.approx({20: 2 + 1 / 3, 40: 2 + 3})
  assert found.seconds_per_step == pytest.approx(3)


def test_the_table_has_the_last_and_the_best_score(run):
  found = run_comparison.read(str(run), 'mine')
  scores = {**found.scores, 'All/pq': {20: 0.61, 40: 0.5}}
  header, line = run_comparison.table([found._replace(scores=scores)]).splitlines()
  assert line.split() == ['mine', '40', '5.0', '3.00', '50.0', '-', '-', '61.0']
  assert len(header) == len(line)


def test_the_program_draws_runs_and_prints_the_table(run, tmp_path, capsys):
  picture = tmp_path / 'curves.png'
  for axis in ('minutes', 'steps'):
    assert compare_runs.main([f'--output={picture}', str(run), str(run), '--names=one,two',
                              f'--axis={axis}']) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith('one ') and f'figure: {picture}' in printed
    with Image.open(picture) as image:
      assert len(set(image.convert('RGB').getdata())) > 20


@pytest.mark.parametrize('make, message', [
    (lambda f: [str(f / 'absent')], 'is no folder'),
    (lambda f: [str(f)], 'has no panoptic quality'),
    (lambda f: [str(f), '--names=a,b'], '--names has 2 names for 1 model directories'),
    (lambda f: [str(f)] * 9, 'at most 8')])
def test_what_cannot_be_compared_is_one_line_and_writes_nothing(tmp_path, capsys, make, message):
  assert compare_runs.main([f'--output={tmp_path / "a.png"}', *make(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1 and not (tmp_path / 'a.png').exists()


def test_a_run_without_training_events_has_no_times(tmp_path):
  _write(tmp_path / summaries.EVAL, 1, 1000, [(20, 120, {'All/pq': 0.1})])
  found = run_comparison.read(str(tmp_path))
  assert found.minutes == {} and found.seconds_per_step is None
  assert event_files.read(tmp_path / summaries.TRAIN, ['All/pq']) == {}
  with pytest.raises(DataError, match='no panoptic quality'):
    run_comparison.read(str(tmp_path / summaries.EVAL))


@pytest.mark.parametrize('output, message', [
    ('nowhere/a.png', 'there is no folder'), ('', 'is a folder; name a PNG file')])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(run, capsys, output, message):
  assert compare_runs.main([f'--output={run / output}', str(run)]) == 2
  printed = capsys.readouterr()
  assert message in printed.err and not printed.out
