"""Reports of a run while it trains: means over intervals, skipped steps, pictures."""

import json
import types

import numpy as np
import pytest
import step_outputs
import tensorflow as tf
import tiny_runs

from deeplab_tf.data import catalog, label_maps
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.training.evaluator import Sample
from deeplab_tf.training.reporting import monitor, run_log, summaries
from deeplab_tf.visualization.instances import Instances


@pytest.fixture(name='run')
def make_run(tmp_path):
  """Returns function(outputs, **options) -> (curves, events) of a training."""

  def run(outputs, **options):
    writer = summaries.Writer(tmp_path, summaries.TRAIN)
    watching = monitor.TrainingMonitor(writer, run_log.RunLog(tmp_path / 'log.jsonl'),
                                       total_steps=len(outputs), batch_size=2, summary_steps=2,
                                       **options)
    with watching.progress(0):
      for step, output in enumerate(outputs, 1):
        watching.on_step(step, output, 0.1)
    writer.close()
    events = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    return tiny_runs.read_scalars(tmp_path / summaries.TRAIN), events

  return run


def test_curves_and_events_are_means_over_intervals(run):
  curves, events = run([step_outputs.make(total) for total in (2, 4, 6, 10, 12)])
  assert curves['losses/total'] == {2: 3.0, 4: 8.0, 5: 12.0}
  assert curves['losses_unweighted/a'] == {2: 1.0, 4: 3.5, 5: 5.5}
  assert curves['statistics/mask_id_accuracy'][2] == 0.5
  assert curves['learning_rate/backbone'][2] == pytest.approx(0.001)
  assert curves['gradient_norm'][2] == 4.0
  assert curves['weight_norm'][2] == 90.0
  assert curves['images_per_second'][4] > 0
  assert not {'loss_scale', 'skipped_steps'} & set(curves)
  assert [event['step'] for event in events] == [2, 4, 5]
  assert {event['event'] for event in events} == {'train'}
  assert events[1]['losses/total'] == 8.0
  assert events[1]['images_per_second'] > 0
  assert events[1]['seconds_left'] >= 0


def test_memory_is_among_the_curves(run, monkeypatch):
  monkeypatch.setattr(monitor.memory, 'in_use', lambda: {'host_gb': 1.5, 'gpu0_peak_gb': 7.0})
  curves, events = run([step_outputs.make()] * 2)
  assert curves['memory/host_gb'] == {2: 1.5}
  assert events[0]['memory/gpu0_peak_gb'] == 7.0


def test_a_step_that_is_not_finite_is_told_and_left_out_of_the_means(run, capsys):
  good = step_outputs.make
  curves, events = run([good(2), step_outputs.broken(), step_outputs.broken(), good(6)])
  assert curves['losses/total'] == {2: 2.0, 4: 6.0}
  assert curves['losses/b'] == {2: 1.0, 4: 1.0}
  assert curves['skipped_steps'] == {2: 1.0, 4: 2.0}
  lines = capsys.readouterr().out.splitlines()
  assert 'step 2: skipped, not finite: mask_logits, loss "total"' in lines
  assert 'nan' not in '\n'.join(lines)
  skips = [event for event in events if event['event'] == 'skip']
  assert [(skip['step'], skip['not_finite']) for skip in skips] == [
      (step, ['mask_logits', 'loss "total"']) for step in (2, 3)]


def test_an_interval_without_a_good_step_has_only_what_can_be_told(run):
  curves, events = run([step_outputs.broken()] * 2)
  assert 'losses/total' not in curves
  assert curves['skipped_steps'] == {2: 2.0}
  assert [event['event'] for event in events] == ['skip', 'skip', 'train']


def test_losses_of_steps_that_only_overflowed_count(run, capsys):
  overflow = step_outputs.make(4, gradient_norm=np.float32(np.inf), loss_scale=np.float32(1024),
                               applied=np.bool_(False))
  curves, events = run([step_outputs.make(2, loss_scale=np.float32(512)), overflow])
  assert curves['losses/total'] == {2: 3.0}
  assert curves['gradient_norm'] == {2: 4.0}
  assert curves['loss_scale'] == {2: 768.0}
  assert 'skipped_steps' not in curves
  assert [event['event'] for event in events] == ['skip', 'train']
  assert events[0]['loss_scale'] == 1024
  assert 'skipped' not in capsys.readouterr().out


def test_other_workers_print_and_write_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  watching = monitor.TrainingMonitor(summaries.Writer(None, summaries.TRAIN),
                                     run_log.RunLog(None), total_steps=3, batch_size=2,
                                     summary_steps=1, quiet=True)
  with watching.progress(0):
    for step in (1, 2, 3):
      watching.on_step(step, step_outputs.broken() if step == 2 else step_outputs.make(), 0.1)
  assert capsys.readouterr().out == ''
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['../../out', '/out', 'a/../../../out'])
def test_the_name_of_a_record_leads_nowhere_else(tmp_path, name):
  folder = tmp_path / 'one' / 'two' / 'vis'
  options = types.SimpleNamespace(num_vis_samples=0, save_predictions=True,
                                  save_raw_predictions=False, override_save_dir=str(folder))
  watching = monitor.SampleMonitor(summaries.Writer(tmp_path, summaries.EVAL),
                                   catalog.built_in('shapes'), options, str(tmp_path),
                                   tf.Variable(7))
  image, label = _shape_scenes.generate('val', 0)
  watching.on_sample(0, Sample(name, image, label, label))
  (written,) = tmp_path.rglob('*_overlay.png')
  assert folder in written.parents


def test_samples_of_instances_become_pictures_and_files(tmp_path):
  info = catalog.built_in('shapes')
  options = types.SimpleNamespace(num_vis_samples=1, save_predictions=True,
                                  save_raw_predictions=False, override_save_dir='')
  writer = summaries.Writer(tmp_path, summaries.EVAL)
  watching = monitor.SampleMonitor(writer, info, options, str(tmp_path), tf.Variable(7))
  image, label = _shape_scenes.generate('val', 0)
  truth = Instances.of_annotations(label.shape, label_maps.annotations(label, info))
  found = truth._replace(scores=[0.9] * len(truth.masks), is_crowd=())
  watching.on_sample(0, Sample('val_0', image, truth, found))
  writer.close()
  assert tiny_runs.read_scalars(tmp_path / summaries.EVAL) == {'pictures/00': {7: None}}
  assert [path.name for path in (tmp_path / 'vis').iterdir()] == ['val_0_overlay.png']


def test_samples_become_pictures_and_files(tmp_path):
  info = catalog.built_in('shapes')
  options = types.SimpleNamespace(
      num_vis_samples=1, save_predictions=True, save_raw_predictions=False,
      override_save_dir=str(tmp_path / 'vis'))
  writer = summaries.Writer(tmp_path, summaries.EVAL)
  watching = monitor.SampleMonitor(writer, info, options, str(tmp_path), tf.Variable(7))
  for position in range(2):
    image, label = _shape_scenes.generate('val', position)
    watching.on_sample(position, Sample(f'val_{position}', image, label, label))
  writer.close()
  assert tiny_runs.read_scalars(tmp_path / summaries.EVAL) == {'pictures/00': {7: None}}
  assert sorted(path.name for path in (tmp_path / 'vis').iterdir()) == [
      'val_0_overlay.png', 'val_1_overlay.png']
