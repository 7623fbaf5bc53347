"""Pre-training a backbone on a folder of images, and the segmentation model that starts from it."""

import json

import numpy as np
import programs
import pytest
import tensorflow as tf
import tiny_classification
import tiny_runs
import training_runs

import deeplab_tf
from deeplab_tf.checkpoints import restore
from deeplab_tf.layers.dual_path_attention import DualPathLayer
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.training import dry_run, runs


@pytest.fixture(name='strategy', scope='module')
def fixture_strategy():
  return tf.distribute.OneDeviceStrategy('/cpu:0')


@pytest.fixture(name='trained', scope='module')
def fixture_trained(tmp_path_factory):
  """(config file, model directory, finished process) of twelve steps and an evaluation."""
  folder = tmp_path_factory.mktemp('pretraining')
  config_file = tiny_classification.write_experiment(folder)
  done = training_runs.run(config_file, folder / 'run', '--mode=train_and_eval')
  return config_file, folder / 'run', done


def test_training_prints_and_writes_accuracy(trained):
  _, model_dir, done = trained
  assert 'data: image_folders, 2 classes; train 12 images, evaluation 6 images' in done.out
  assert 'model: classification on max_deeplab_s, ' in done.out
  assert 'accuracy at step 12' in done.out and 'of 6 images' in done.out
  metrics = json.loads((model_dir / 'metrics.json').read_text())
  assert set(metrics) == {'step', 'top1', 'top5', 'n'} and metrics['n'] == 6
  assert metrics['top1'] == 1 and metrics['top5'] == 1
  (event,) = [e for e in training_runs.read_log(model_dir) if e['event'] == 'eval']
  assert event['top1'] == metrics['top1']
  losses = training_runs.losses(model_dir)
  assert losses[12][0] < losses[1][0]
  assert (model_dir / 'best_checkpoint' / 'ckpt-12.index').exists()


def test_tensorboard_has_accuracy_and_pictures(trained):
  train, evaluation = (tiny_runs.read_scalars(trained[1] / run) for run in ('train', 'eval'))
  assert {'losses/classification_loss', 'statistics/top1', 'learning_rate/main'} <= set(train)
  assert all(0 <= value <= 1 for value in train['statistics/top1'].values())
  assert {'top1', 'top5', 'pictures/00', 'pictures/01'} <= set(evaluation)
  assert 'pictures/02' not in evaluation


def test_an_evaluation_alone_has_the_same_scores(trained, strategy):
  config_file, model_dir, _ = trained
  before = json.loads((model_dir / 'metrics.json').read_text())
  result = runs.Run(deeplab_tf.load_config(config_file), str(model_dir), 'eval', strategy).run()
  assert {'step': 12, **result} == before


def test_a_segmentation_model_takes_the_backbone_over(trained, strategy, tmp_path, capsys):
  _, model_dir, _ = trained
  config = deeplab_tf.load_config(tiny_runs.write_config(tmp_path), [
      f'model_options {{ initial_checkpoint: "{model_dir}" }}'])
  model = runs.Run(config, str(tmp_path / 'run'), 'train', strategy).model
  memory = {id(v) for layer in model.backbone.submodules if isinstance(layer, DualPathLayer)
            for v in layer.variables}
  own = {path: v for path, v in variables_by_path(model).items()
         if path.startswith('backbone/') and id(v) not in memory}
  saved = restore.read_variables(restore.find_checkpoint(str(model_dir)), own)
  assert len(own) > 100
  assert all(np.ptp(value) for path, value in saved.items() if path.endswith('gamma'))  # Learnt.
  for path, variable in own.items():
    np.testing.assert_array_equal(variable, saved[path], err_msg=path)
  assert f'initial checkpoint: {len(own)} of' in capsys.readouterr().out


def test_a_model_directory_of_other_classes_is_refused(trained, strategy, tmp_path):
  config_file, model_dir, _ = trained
  for split in ('train', 'val'):
    tiny_classification.write_images(tmp_path / split, per_class=1)
    (tmp_path / split / 'red').rename(tmp_path / split / 'x')
    tiny_classification.write_images(tmp_path / 'more' / split, per_class=1)
    (tmp_path / 'more' / split / 'red').rename(tmp_path / split / 'y')
  folders = [f'{split}_dataset_options {{ image_folders {{ image_dir: "{tmp_path}/{name}" }} }}'
             for split, name in (('train', 'train'), ('eval', 'val'))]
  with pytest.raises(ValueError, match=r'another model: classifier/bias is \[2\] there and \[3\] '):
    runs.Run(deeplab_tf.load_config(config_file, folders), str(model_dir), 'train', strategy)


def test_a_dry_run_lists_the_classes(trained, strategy, capsys):
  dry_run.run(deeplab_tf.load_config(trained[0]), strategy)
  printed = capsys.readouterr().out
  for part in ('classifier', 'class_index', 'output class_logits', 'loss classification_loss',
               'blue', 'red'):
    assert part in printed, part


def test_programs_of_segmentation_refuse_in_one_line(trained, tmp_path):
  config_file, model_dir, _ = trained
  arguments = [f'--config_file={config_file}', f'--checkpoint={model_dir}']
  for program, *more in (('trainer/export.py', f'--export_dir={tmp_path / "exported"}'),
                         ('evaluation/predict.py', f'--output_dir={tmp_path / "out"}', tmp_path)):
    line = programs.error_line(program, *arguments, *more)
    assert 'model_options.classification classifies whole images' in line
    assert 'is for segmentation' in line
  assert not list(tmp_path.iterdir())
