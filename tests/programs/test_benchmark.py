"""evaluation/benchmark.py."""

import json

import numpy as np
import programs
import pytest
import tiny
import tiny_centers
import tiny_mask2former

import deeplab_tf
from deeplab_tf.benchmark import network, synthetic_batches
from deeplab_tf.benchmark.measuring import MeasureOptions
from deeplab_tf.data import catalog
from deeplab_tf.structures import OverlappingMaskTargets

PROGRAM = 'evaluation/benchmark.py'


@pytest.mark.parametrize('what, names', [
    ('inference', ['inference']), ('postprocess', ['postprocess']),
    ('matching', ['scipy', 'native']), ('input_pipeline', ['input_pipeline', 'unaugmented']),
    ('train_step', ['train_step'])])
def test_every_measurement_reports_times_and_memory(tmp_path, what, names):
  done = programs.run(PROGRAM, f'--config_file={tiny.write_config(tmp_path)}', f'--what={what}',
                      '--repeats=2', '--format=json')
  report = json.loads(done.stdout)
  assert list(report['results']) == names and report['what'] == what
  for values in report['results'].values():
    assert values['first_s'] > values['median_s'] > 0 and values['images_per_s'] > 0
    assert values['processor_s'] > 0
  assert 0.1 < report['peak_gb'] < 20
  assert report['machine']['cores'] >= 1


@pytest.mark.slow
def test_each_form_of_attention_is_measured_on_its_own(tmp_path):
  done = programs.run(PROGRAM, f'--config_file={tiny.write_config(tmp_path)}', '--what=attention',
                      '--repeats=1', '--format=json')
  results = json.loads(done.stdout)['results']
  forms = {name.rsplit(', ', 1)[0] for name in results}
  assert set(results) == {f'{form}, {what}' for form in forms
                          for what in ('inference', 'train step')}
  assert all('8 heads, whole axis' in form for form in forms)
  for values in results.values():
    assert values['layers'] >= 1 and values['processor_s'] > 0 and 0.1 < values['peak_gb'] < 20


def test_the_table_names_size_and_batch(tmp_path):
  done = programs.run(PROGRAM, f'--config_file={tiny.write_config(tmp_path)}', '--repeats=1',
                      '--input_size=33x49', '--batch_size=2', '--what=postprocess')
  assert 'postprocess at 33x49, batch 2' in done.stdout and 'peak memory' in done.stdout


def test_scoring_is_measured_without_a_config_and_without_tensorflow():
  done = programs.run(PROGRAM, '--what=evaluation', '--input_size=128x256', '--format=json')
  report = json.loads(done.stdout)
  assert list(report['results']) == ['pq', 'boundary_pq']
  for values in report['results'].values():
    assert values['first_s'] > 0 and values['images_per_s'] == 1 / values['median_s']
  assert report['repeats'] == 20 and 'tensorflow' not in report['machine']
  table = programs.run(PROGRAM, '--what=evaluation', '--input_size=64x128').stdout
  assert 'evaluation at 64x128' in table and 'boundary_pq' in table


def test_a_network_without_attention_has_none_to_measure(tmp_path):
  assert 'has no axial or local attention' in programs.error_line(
      PROGRAM, f'--config_file={tiny_centers.write_config(tmp_path)}', '--what=attention')


def test_what_needs_a_config_says_so():
  assert '--what=postprocess needs a --config_file' in programs.error_line(
      PROGRAM, '--what=postprocess')


@pytest.mark.parametrize('what', ['inference', 'postprocess', 'train_step'])
@pytest.mark.parametrize('overrides', [
    pytest.param(['task: INSTANCE'], marks=pytest.mark.slow), ['task: SEMANTIC'],
    ['task: INSTANCE', 'train_dataset_options { dataset: "coco_instances" } '
     'eval_dataset_options { dataset: "coco_instances" }']],
                         ids=['instance', 'semantic', 'overlapping'])
def test_every_task_is_measured(tmp_path, what, overrides):
  config = deeplab_tf.load_config(tiny_mask2former.write_config(tmp_path), overrides)
  options = MeasureOptions(input_size=(64, 96), batch_size=2, repeats=1)
  (result,) = getattr(network, what)(config, options).values()
  assert result['median_s'] > 0


def test_synthetic_instances_may_overlap(tmp_path):
  config = deeplab_tf.load_config(tiny_mask2former.write_config(tmp_path), [
      'task: INSTANCE', 'train_dataset_options { dataset: "coco_instances" } '
      'eval_dataset_options { dataset: "coco_instances" }'])
  _, targets = synthetic_batches.training_batch(
      config, catalog.from_config(config), 'mask', 2, (64, 96))
  assert isinstance(targets, OverlappingMaskTargets)
  masks = np.unpackbits(targets.mask_bits, axis=-1, bitorder='little')
  assert (masks.sum((1, 2)) > 0).sum() == 2 * 16 and masks.sum(-1).max() > 1
