"""A start that is refused, or has nothing to do, does not change the model directory."""

import json
import pathlib
import shutil
import sys

import pytest
import tensorflow as tf
import tiny_runs
from odd_paths import as_nobody

from deeplab_tf import config as config_lib
from deeplab_tf.training import runs
from deeplab_tf.user_errors import UserError

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'trainer' / 'train.py'
STRATEGY = tf.distribute.OneDeviceStrategy('/cpu:0')
TWO_STEPS = 'trainer_options { solver_options { training_number_of_steps: 2 } }'


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  return tiny_runs.write_config(tmp_path_factory.mktemp('config'))


def _run(config_file, model_dir, mode='train', *overrides):
  config = config_lib.load_config(config_file, overrides)
  return runs.Run(config, str(model_dir), mode, STRATEGY).run()


@pytest.fixture(scope='module')
def trained(config_file, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp('run') / 'model [a]'
  _run(config_file, model_dir, 'train', TWO_STEPS)
  return model_dir


def _snapshot(folder):
  """Returns name -> time and content of everything in a folder, and of the folder."""
  paths = [folder, *sorted(folder.rglob('*'))]
  return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
          for path in paths}


def test_a_training_writes_who_has_the_folder_its_config_and_its_start(trained):
  names = {path.name for path in trained.iterdir() if 'tfevents' not in path.name}
  assert names == {'.lock', 'checkpoint', 'ckpt-2.data-00000-of-00001', 'ckpt-2.index',
                   'config.textproto', 'log.jsonl', 'train'}
  events = [json.loads(line)['event'] for line in (trained / 'log.jsonl').open()]
  assert events[0] == 'start' and 'error' not in events


@pytest.mark.parametrize('mode,override,wanted', [
    ('train', 'model_options { max_deeplab { num_queries: 8 } }',
     'another model.*; use the config that made it, {}/config.textproto, or another --model_dir'),
    ('train_and_eval', 'model_options { max_deeplab { num_queries: 8 } }', 'another model'),
    ('eval', 'model_options { max_deeplab { num_queries: 8 } }',
     'another model.*{}/config.textproto'),
    ('train', 'trainer_options { solver_options { optimizer: "sgd" } }',
     'another optimizer.*{}/config.textproto'),
    ('train', 'trainer_options { precision: FLOAT16 }', 'another precision'),
    ('train', 'train_dataset_options { file_pattern: "nowhere/none-*" }', 'nowhere/none'),
    ('eval', 'eval_dataset_options { file_pattern: "nowhere/none-*" }', 'nowhere/none'),
    ('train_and_eval', 'evaluator_options { best_checkpoint_metric: "pq" }', '"pq".*All/pq'),
])
def test_a_refused_start_changes_nothing(mode, override, wanted, config_file, trained):
  before = _snapshot(trained)
  with pytest.raises(UserError) as error:
    _run(config_file, trained, mode, override)
  for part in wanted.format(trained).split('.*'):
    assert part in str(error.value)
  assert _snapshot(trained) == before


def test_bad_records_that_show_in_the_first_batch_change_nothing(config_file, trained, tmp_path):
  with tf.io.TFRecordWriter(str(tmp_path / 'bad.tfrecord')) as writer:
    writer.write(tf.train.Example().SerializeToString())
  before = _snapshot(trained)
  with pytest.raises(UserError):
    _run(config_file, trained, 'train',
         'train_dataset_options { dataset: "coco_panoptic" '
         f'file_pattern: "{tmp_path}/bad.tfrecord" }}')
  assert _snapshot(trained) == before


def test_checkpoints_that_are_not_whole_change_nothing(config_file, trained, tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(trained, model_dir)
  data = model_dir / 'ckpt-2.data-00000-of-00001'
  data.write_bytes(data.read_bytes()[:-100])
  before = _snapshot(model_dir)
  with pytest.raises(UserError, match='none of its 1 checkpoints is whole'):
    _run(config_file, model_dir)
  assert _snapshot(model_dir) == before


@pytest.mark.parametrize('steps', [1, 2])
def test_nothing_to_train_changes_nothing(steps, config_file, trained, capsys):
  before = _snapshot(trained)
  _run(config_file, trained, 'train', f'trainer_options {{ seed: {steps} '
       f'solver_options {{ training_number_of_steps: {steps} }} }}')
  assert f'nothing to train: the checkpoint is at step 2 of {steps}' in capsys.readouterr().out
  assert _snapshot(trained) == before


@pytest.mark.parametrize('override,wanted', [
    ('model_options { initial_checkpoint: "nowhere" }', 'nowhere'),
    ('trainer_options { loss_options { semantic_loss { } } }',
     'semantic_loss has weight 1 and needs model_options.max_deeplab.auxiliary_semantic_head'),
])
def test_a_refused_start_makes_no_folder(override, wanted, config_file, tmp_path):
  with pytest.raises(UserError, match=wanted):
    _run(config_file, tmp_path / 'new' / 'model', 'train', override)
  assert not list(tmp_path.iterdir())


def test_one_warning_names_weights_that_are_not_read(config_file, trained, tmp_path, capsys):
  weights = 'model_options { backbone { pretrained_weights: "${INIT}" } }'
  config = config_lib.load_config(config_file, [weights])
  runs.Run(config, str(tmp_path / 'model'), 'train', STRATEGY)
  out = capsys.readouterr().out
  assert out.count('WARNING: model_options.backbone.pretrained_weights "${INIT}" is not read') == 1
  assert 'trainer/convert_checkpoint.py' in out and 'model_options.initial_checkpoint' in out
  config.model_options.initial_checkpoint = str(trained)
  runs.Run(config, str(tmp_path / 'model'), 'train', STRATEGY)
  runs.Run(config_lib.load_config(config_file, [weights]), str(trained), 'train', STRATEGY)
  assert 'pretrained_weights' not in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


def test_scores_of_a_folder_that_cannot_be_written_to_are_printed(config_file, trained, tmp_path):
  model_dir = tmp_path / 'model [a]'
  shutil.copytree(trained, model_dir)
  for path in (*model_dir.rglob('*'), model_dir):
    path.chmod(0o555 if path.is_dir() else 0o444)
  before = _snapshot(model_dir)
  flags = (sys.executable, str(PROGRAM), f'--config_file={config_file}',
           f'--model_dir={model_dir}', '--mode=eval')
  done = as_nobody(*flags)
  assert done.returncode == 0, done.stderr
  assert 'panoptic quality at step 2:\n' in done.stdout and 'All' in done.stdout
  assert done.stderr.count('WARNING: --model_dir=') == 1
  assert 'scores are printed and not kept' in done.stderr
  refused = as_nobody(*flags, '--override=evaluator_options { save_predictions: true }')
  assert refused.returncode == 2
  assert refused.stderr.splitlines()[-1].startswith('error: predictions cannot be saved: ')
  assert 'override_save_dir' in refused.stderr
  assert _snapshot(model_dir) == before
  for path in (model_dir, *model_dir.rglob('*')):
    path.chmod(0o755)
