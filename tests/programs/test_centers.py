"""A center model in the programs: train, evaluate, export, predict, count, measure."""

import json
import re

import numpy as np
import programs
import pytest
import tensorflow as tf
import tiny_centers
import tiny_runs
import training_runs
from PIL import Image

import deeplab_tf
from deeplab_tf.data.sources import _shape_scenes


@pytest.fixture(scope='module', name='config_file')
def fixture_config_file(tmp_path_factory):
  return tiny_centers.write_config(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module', name='model_dir')
def fixture_model_dir(config_file, tmp_path_factory):
  """Of a training of four steps."""
  model_dir = tmp_path_factory.mktemp('run') / 'model'
  training_runs.run(config_file, model_dir, '--mode=train')
  return model_dir


def test_training_leaves_losses_and_pictures(model_dir):
  losses = training_runs.losses(model_dir)
  assert sorted(losses) == [1, 2, 3, 4] and np.isfinite(sum(losses.values(), [])).all()
  scalars = tiny_runs.read_scalars(model_dir / 'train')
  for tag in ('losses/semantic_loss', 'losses/center_loss', 'losses/regression_loss',
              'statistics/semantic_accuracy', 'statistics/offset_error'):
    assert set(scalars[tag]) == {1, 2, 3, 4}, tag
  assert {'pictures/00', 'pictures/01'} < set(scalars)


def test_an_evaluation_averages_over_scales_and_mirrored_images(config_file, model_dir):
  done = training_runs.run(
      config_file, model_dir, '--mode=eval',
      '--override=evaluator_options { add_flipped_images: true eval_scales: [0.75, 1.0] '
      'extra_scores: [PANOPTIC_MAP_AP, PANOPTIC_MAP_MIOU] }')
  assert 'panoptic_map_ap/AP50' in done.out and 'panoptic_map_miou/miou' in done.out
  metrics = json.loads((model_dir / 'metrics.json').read_text())
  assert metrics['step'] == 4 and 0 <= metrics['All']['pq'] <= 1
  assert metrics['panoptic_map_miou']['miou'] >= 0


@pytest.mark.slow
def test_the_exported_model_predicts_what_the_checkpoint_predicts(config_file, model_dir, tmp_path):
  programs.run('trainer/export.py', f'--config_file={config_file}', f'--checkpoint={model_dir}',
               f'--export_dir={tmp_path / "exported"}')
  image = _shape_scenes.generate('val', 3)[0][:90, :101]
  Image.fromarray(image).save(tmp_path / 'photo.png')
  programs.run('evaluation/predict.py', f'--saved_model={tmp_path / "exported"}',
               f'--output_dir={tmp_path / "out"}', tmp_path / 'photo.png')
  config = deeplab_tf.load_config(config_file)
  result = deeplab_tf.Segmenter.from_checkpoint(config, str(model_dir))(image)
  assert len(result.segments) >= 1
  assert all(0 <= segment.score <= 1 for segment in result.segments)
  predictions = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  segments = predictions['annotations'][0]['segments_info']
  assert sorted(s['area'] for s in segments) == sorted(s.area for s in result.segments)
  assert (tmp_path / 'out' / 'photo_overlay.png').is_file()
  outputs = tf.saved_model.load(str(tmp_path / 'exported')).signatures['serving_default'](
      images=tf.constant(image[None]))
  assert outputs['segment_ids'].shape == [1, 20 + 3]  # Kept centers and stuff classes.
  np.testing.assert_array_equal(outputs['panoptic_map'][0], result.panoptic_map)


@pytest.mark.slow
def test_the_dry_run_looks_at_centres(config_file, tmp_path):
  done = training_runs.run(config_file, tmp_path / 'none', '--dry_run')
  for line in (r'  center_heatmap +float32 \[2, 65, 81, 1\]',
               r'  output center_offsets +float32 \[2, 17, 21, 2\]',
               r'  loss center_loss +float32 \[\]', r'    fusion\[1\] +SeparableConvolution'):
    assert re.search(line, done.out), line
  assert not (tmp_path / 'none').exists()


def test_the_summary_counts_all_parts(config_file):
  done = programs.run('evaluation/summary.py', f'--config_file={config_file}', '--format=json')
  summary = json.loads(done.stdout)
  assert set(summary['by_part']) == {'backbone', 'semantic_decoder', 'semantic_head',
                                     'instance_decoder', 'center_head', 'offset_head'}
  assert summary['inference_parameters'] == summary['trainable_parameters'] > 0
  assert summary['madds'] == sum(part['madds'] for part in summary['by_part'].values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize('what', ['inference', 'postprocess'])
def test_the_benchmark_measures_centre_models(config_file, what):
  done = programs.run('evaluation/benchmark.py', f'--config_file={config_file}', f'--what={what}',
                      '--repeats=1', '--format=json')
  assert json.loads(done.stdout)['results'][what]['median_s'] > 0
