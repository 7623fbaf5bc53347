"""A training survives kills, signals, corrupt and missing files, a full disk, and NaN."""

import os
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import tiny_centers
import training_runs

from deeplab_tf.checkpoints import files

STEPS = 24
LONG = ('--override=trainer_options { num_checkpoints_to_keep: 2 save_checkpoints_steps: 2 '
        f'solver_options {{ training_number_of_steps: {STEPS} }} }}')


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  # Of the tiny networks the one whose training starts soonest.
  return tiny_centers.write_config(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module')
def uninterrupted_dir(config_file, tmp_path_factory):
  """The model directory of a training that nothing happens to."""
  model_dir = tmp_path_factory.mktemp('uninterrupted')
  training_runs.run(config_file, model_dir, LONG)
  return model_dir


@pytest.fixture(scope='module')
def uninterrupted(uninterrupted_dir):
  """The losses of a training that nothing happens to, by step."""
  return {step: values[0] for step, values in training_runs.losses(uninterrupted_dir).items()}


def wait_for_step(process, model_dir, step, timeout=120):
  """Waits until a running training has logged a step."""
  end = time.monotonic() + timeout
  while time.monotonic() < end and process.poll() is None:
    if any(event['step'] >= step for event in training_runs.read_log(model_dir)
           if event['event'] == 'train'):
      return
    time.sleep(0.02)
  raise AssertionError(f'no step {step}: {process.communicate()}')


def assert_like_uninterrupted(model_dir, uninterrupted):
  """Checks that all steps were done, each time with the loss of the uninterrupted run."""
  found = training_runs.losses(model_dir)
  assert sorted(found) == list(range(1, STEPS + 1))
  for step, values in found.items():
    np.testing.assert_allclose(values, uninterrupted[step], rtol=1e-5, err_msg=str(step))


def assert_tidy(model_dir):
  """Checks that the last two checkpoints are whole and that nothing else is left of any."""
  names = {p.name for p in pathlib.Path(model_dir).iterdir()}
  kept = {f'ckpt-{step}' for step in (STEPS - 2, STEPS)}
  expected = {f'{name}.{end}' for name in kept for end in ('index', 'data-00000-of-00001')}
  assert {name for name in names if 'ckpt' in name or 'temp' in name} == expected
  for name in kept:
    assert files.corruption(str(pathlib.Path(model_dir) / name)) is None


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_at_random_ends_like_one_that_is_not(
    config_file, uninterrupted, tmp_path):
  rng = random.Random(0)
  done = 0
  for _ in range(10):
    process = training_runs.start(config_file, tmp_path, LONG)
    # Kills come between the first new step and some time after, in or between checkpoints; those
    # before a step would change nothing.
    goal = min(done + rng.randint(1, 4), STEPS - 1)
    wait_for_step(process, tmp_path, goal)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    newest = files.newest_whole(str(tmp_path))
    # At most what was done since the last checkpoint is lost.
    saved = int(newest.split('-')[-1]) if newest else 0
    assert saved >= goal - 2
    done = saved
  finished = training_runs.run(config_file, tmp_path, LONG)
  assert f'resuming from {tmp_path}/ckpt-{done}, step {done}' in finished.out
  assert_like_uninterrupted(tmp_path, uninterrupted)
  assert_tidy(tmp_path)


def test_sigterm_saves_and_corrupt_checkpoints_are_passed_over(config_file, uninterrupted,
                                                               tmp_path):
  process = training_runs.start(config_file, tmp_path, LONG)
  wait_for_step(process, tmp_path, 6)
  process.send_signal(signal.SIGTERM)
  done = training_runs.finish(process, expect=128 + signal.SIGTERM)
  step = max(training_runs.losses(tmp_path))
  assert f'stopped at step {step} and saved {tmp_path}/ckpt-{step}' in done.out
  assert training_runs.read_log(tmp_path)[-1]['event'] == 'stop'
  # The newest loses its end, and what names the newest its content.
  data = tmp_path / f'ckpt-{step}.data-00000-of-00001'
  os.truncate(data, data.stat().st_size - 1000)
  (tmp_path / 'checkpoint').write_text('')
  before = max(s for s in range(2, step, 2))
  finished = training_runs.run(config_file, tmp_path, LONG)
  assert f'ckpt-{step} is not whole' in finished.err
  assert f'resuming from {tmp_path}/ckpt-{before}, step {before}' in finished.out
  assert_like_uninterrupted(tmp_path, uninterrupted)
  # The corrupt one is left to whoever may want to look at it, if no other took its place.
  for path in tmp_path.glob(f'ckpt-{step}.*'):
    path.unlink()
  assert_tidy(tmp_path)


@pytest.fixture
def small_disk(uninterrupted_dir, tmp_path):
  """A folder with room for a checkpoint and a half, and for the other files of a training."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  checkpoint = sum(p.stat().st_size for p in uninterrupted_dir.glob(f'ckpt-{STEPS}.*'))
  others = sum(p.stat().st_size for p in uninterrupted_dir.rglob('*')
               if p.is_file() and 'ckpt' not in p.name)
  size = f'size={others + int(1.5 * checkpoint)}'
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', str(folder)],
                           capture_output=True, check=False)
  if mounted.returncode:
    pytest.skip('mounting a small disk needs root')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=False)


def test_a_full_disk_stops_with_one_line_and_a_whole_checkpoint(config_file, small_disk):
  process = training_runs.run(config_file, small_disk / 'model', LONG, expect=1)
  line = training_runs.error_line(process)
  assert 'no space left on the disk; the last checkpoint, ' in line
  newest = files.newest_whole(str(small_disk / 'model'))
  assert newest is not None and newest in line
  assert files.corruption(newest) is None


def test_numbers_that_are_not_finite_stop_naming_step_and_loss(config_file, tmp_path):
  # A rate that no network survives; the checkpoint of step 2 is from before.
  override = ('--override=trainer_options { solver_options { base_learning_rate: 1e30 '
              'warmup_steps: 2 use_gradient_clipping: false } }')
  process = training_runs.run(config_file, tmp_path, LONG, override, expect=1)
  line = training_runs.error_line(process)
  assert line.startswith('error: step 3: not finite: ')
  assert 'loss "total"' in line
  assert training_runs.read_log(tmp_path)[-1]['event'] == 'error'
  newest = files.newest_whole(str(tmp_path))
  assert newest == str(tmp_path / 'ckpt-2')
