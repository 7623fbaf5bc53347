"""trainer/train.py as a process: its files and its exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
import training_runs
from PIL import Image

PROGRAM = Path(__file__).resolve().parents[2] / 'trainer' / 'train.py'


def run(*arguments, **environment):
  return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True,
                        text=True, check=False, env={**os.environ, **environment})


def assert_refused(done, *parts):
  """Checks exit code 2 and one line of ours on standard error."""
  assert done.returncode == 2, done.stderr[-3000:]
  lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, done.stderr
  assert 'Traceback' not in done.stderr
  for part in parts:
    assert part in lines[0], lines[0]


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  return tiny_runs.write_config(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module')
def trained(config_file, tmp_path_factory):
  """(model directory, finished process) of four steps with an evaluation after them."""
  model_dir = tmp_path_factory.mktemp('run') / 'model'
  done = run(f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=train_and_eval')
  assert done.returncode == 0, done.stderr[-3000:]
  return model_dir, done


def test_first_lines_name_devices_data_model_batch_and_tensorboard(trained):
  model_dir, done = trained
  assert 'devices: 1 CPU' in done.stdout
  assert 'WARNING: TensorFlow sees no GPU' in done.stdout
  assert 'data: shapes, 6 thing and 3 stuff classes; train 16 images, evaluation 3 images' in (
      done.stdout)
  assert 'trainable parameters' in done.stdout
  assert 'batch: 2 images per step, 2 per device; 4 steps' in done.stdout
  assert f'tensorboard --logdir={model_dir}' in done.stdout


def test_progress_has_step_loss_rate_speed_and_time_left(trained):
  line = [line for line in trained[1].stdout.splitlines() if line.startswith('train 4/4')][-1]
  assert [part.split()[-1] for part in line.split(' | ')[3:]] == ['images/s', 'left']
  assert line.split(' | ')[1].startswith('loss ')
  assert line.split(' | ')[2].startswith('lr ')


def test_checkpoints_config_and_scores_are_written(trained):
  model_dir, done = trained
  assert sorted(p.name for p in model_dir.glob('ckpt-*.index')) == ['ckpt-2.index',
                                                                    'ckpt-4.index']
  assert 'num_queries: 16' in (model_dir / 'config.textproto').read_text()
  metrics = json.loads((model_dir / 'metrics.json').read_text())
  assert metrics['step'] == 4
  for group in ('All', 'Things', 'Stuff'):
    assert set(metrics[group]) == {'pq', 'sq', 'rq', 'n'}
  assert 0 <= metrics['All']['pq'] <= 1
  assert metrics['per_class']
  assert 'panoptic quality at step 4' in done.stdout


def test_tensorboard_has_losses_rates_norm_statistics_and_pictures(trained):
  model_dir, _ = trained
  train = tiny_runs.read_scalars(model_dir / 'train')
  losses = {tag for tag in train if tag.startswith('losses/')}
  assert 'losses/total' in losses
  assert len(losses) >= 4
  assert {'learning_rate/main', 'learning_rate/backbone', 'gradient_norm', 'weight_norm',
          'images_per_second'} <= set(train)
  assert 'config' in tiny_runs.read_scalars(model_dir)
  assert len([tag for tag in train if tag.startswith('statistics/')]) >= 4
  assert sorted(train['losses/total']) == [1, 2, 3, 4]
  rates = train['learning_rate/main'], train['learning_rate/backbone']
  assert rates[0][1] == 0.0  # Warm-up.
  assert rates[1][3] == pytest.approx(0.5 * rates[0][3])
  total = sum(train[tag][2] for tag in losses - {'losses/total'})
  assert train['losses/total'][2] == pytest.approx(total, rel=1e-5)
  evaluation = tiny_runs.read_scalars(model_dir / 'eval')
  assert {'All/pq', 'All/sq', 'Things/rq', 'Stuff/n'} <= set(evaluation)
  assert len([tag for tag in evaluation if tag.startswith('pictures/')]) == 2


def test_killed_run_goes_on_with_the_losses_of_an_uninterrupted_one(config_file, trained,
                                                                    tmp_path):
  model_dir = tmp_path / 'model'
  arguments = [f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=train']
  training_runs.kill(config_file, model_dir, after_step=3)
  again = run(*arguments)
  assert again.returncode == 0, again.stderr[-3000:]
  assert 'ckpt-2, step 2' in again.stdout
  uninterrupted = tiny_runs.read_scalars(trained[0] / 'train')['losses/total']
  written = tiny_runs.read_scalars(model_dir / 'train')
  resumed = written['losses/total']
  assert sorted(resumed) == [1, 2, 3, 4]
  # Without evaluation there are pictures of the batch, at each checkpoint.
  assert set(written['pictures/00']) == {2, 4}
  for step in (1, 2, 3, 4):
    assert resumed[step] == pytest.approx(uninterrupted[step], rel=1e-5), step


@pytest.mark.slow
def test_step_compiled_by_xla_gives_the_same_losses(config_file, trained, tmp_path):
  # Losses, native matching and updates in one program. Unoptimised code compiles 5 times faster.
  done = run(f'--config_file={config_file}', f'--model_dir={tmp_path}', '--mode=train',
             '--override=trainer_options { jit_compile: true }',
             XLA_FLAGS='--xla_backend_optimization_level=0')
  assert done.returncode == 0, done.stderr[-3000:]
  plain = tiny_runs.read_scalars(trained[0] / 'train')
  compiled = tiny_runs.read_scalars(tmp_path / 'train')
  for tag in (tag for tag in plain if tag.startswith('losses/')):
    assert compiled[tag][1] == pytest.approx(plain[tag][1], rel=1e-4), tag
  for step in (2, 3, 4):
    assert compiled['losses/total'][step] == pytest.approx(plain['losses/total'][step], rel=2e-3)


def test_eval_mode_scores_the_checkpoint_like_the_training_did(config_file, trained):
  model_dir, _ = trained
  before = json.loads((model_dir / 'metrics.json').read_text())
  (model_dir / 'metrics.json').unlink()
  done = run(f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=eval',
             '--override=evaluator_options { save_predictions: true save_raw_predictions: true }')
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'ckpt-4, step 4' in done.stdout
  assert json.loads((model_dir / 'metrics.json').read_text()) == before
  assert len(list((model_dir / 'vis').glob('*_overlay.png'))) == 3
  assert len(list((model_dir / 'vis' / 'raw_panoptic').glob('*.png'))) == 3


@pytest.mark.slow
def test_eval_mode_takes_images_of_any_size(config_file, trained, tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(trained[0], model_dir)
  shutil.rmtree(model_dir / 'vis', ignore_errors=True)
  flags = (f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=eval',
           '--override=clear: "eval_dataset_options.crop_size" eval_dataset_options { '
           'resize_rule: SHORTER_SIDE min_resize_value: 97 max_resize_value: 113 size_divisor: 8 } '
           'model_options { image_normalization: IMAGENET } '
           'evaluator_options { save_raw_predictions: true save_predictions: true }')
  done = run(*flags)
  assert done.returncode == 0, done.stderr[-3000:]
  for path in (model_dir / 'vis' / 'raw_panoptic').glob('*.png'):
    assert Image.open(path).size == (160, 128)
  assert len(list((model_dir / 'vis' / 'raw_panoptic').glob('*.png'))) == 3
  done = run(*flags, '--override=trainer_options { jit_compile: true }')
  assert_refused(done, 'eval_dataset_options.size_divisor makes evaluation images of many sizes',
                 'set eval_dataset_options.crop_size')


def test_continuous_eval_scores_the_newest_checkpoint_and_keeps_the_best(config_file, trained,
                                                                         tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(trained[0], model_dir)
  before = json.loads((model_dir / 'metrics.json').read_text())
  (model_dir / 'metrics.json').unlink()
  best = '--override=evaluator_options { best_checkpoint_metric: "All/pq" }'
  done = run(f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=continuous_eval',
             best)
  assert done.returncode == 0, done.stderr[-3000:]
  assert json.loads((model_dir / 'metrics.json').read_text()) == before
  assert sorted(p.stem for p in (model_dir / 'best_checkpoint').glob('*.index')) == ['ckpt-4']
  # Training that was stopped in its evaluation makes up for it, and knows the best score.
  (model_dir / 'metrics.json').unlink()
  done = run(f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=train_and_eval',
             best)
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'best so far: ' in done.stdout
  assert json.loads((model_dir / 'metrics.json').read_text()) == before
  done = run(f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=continuous_eval',
             '--override=evaluator_options { best_checkpoint_metric: "pq" }')
  assert_refused(done, '"pq"', 'All/pq')


def test_model_directory_of_another_model_is_refused(config_file, trained):
  done = run(f'--config_file={config_file}', f'--model_dir={trained[0]}',
             '--override=model_options { max_deeplab { num_queries: 8 } }')
  assert_refused(done, str(trained[0]), 'another model', 'queries is [1, 16, 32] there and '
                 '[1, 8, 32] in the config', '--model_dir')


def test_wrong_use_and_bad_configs_end_in_one_line(config_file, tmp_path):
  assert_refused(run('--config_file=nowhere.textproto', f'--model_dir={tmp_path}'),
                 'nowhere.textproto')
  assert_refused(run(f'--config_file={config_file}', f'--model_dir={tmp_path}',
                     '--override=trainer_options { sed: 1 }'), '"sed"', '"seed"')
  done = run(f'--config_file={config_file}')
  assert done.returncode == 2
  assert '--model_dir is needed' in done.stderr
  done = run(f'--config_file={config_file}', f'--model_dir={tmp_path}', '--mode=fit')
  assert done.returncode == 2
  assert 'train_and_eval' in done.stderr


def test_bad_data_end_in_one_line_that_names_the_file(config_file, tmp_path):
  arguments = [f'--config_file={config_file}', f'--model_dir={tmp_path / "model"}']
  pattern = '--override=train_dataset_options {{ file_pattern: "{}" }}'
  assert_refused(run(*arguments, pattern.format(tmp_path / 'none-*')), 'none-*')
  broken = tmp_path / 'broken.tfrecord'
  broken.write_bytes(bytes(range(200)))
  assert_refused(run(*arguments, pattern.format(broken)), str(broken))


def test_eval_mode_without_a_checkpoint_ends_in_one_line(config_file, tmp_path):
  done = run(f'--config_file={config_file}', f'--model_dir={tmp_path}', '--mode=eval')
  assert_refused(done, 'holds no checkpoint')


def test_help_exits_with_0():
  done = run('--help')
  assert done.returncode == 0
  assert '--dry_run' in done.stdout


def test_dry_run_reports_and_trains_nothing(config_file, tmp_path):
  done = run(f'--config_file={config_file}', f'--model_dir={tmp_path / "model"}', '--dry_run')
  assert done.returncode == 0, done.stderr[-3000:]
  for part in ('layers', 'pixel_decoder', 'stages[0]', 'output mask_logits', 'loss ', 'gradients',
               'activations', 'masks per image', 'images', 'MiB'):
    assert part in done.stdout, part
  assert not (tmp_path / 'model').exists()
