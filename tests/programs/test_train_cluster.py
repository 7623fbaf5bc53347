"""Two processes on loopback give the losses of one device, and end when one of them dies."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
import tiny_centers
import tiny_runs
import training_runs

LONG = '--override=trainer_options { solver_options { training_number_of_steps: 3000 } }'
NO_EVALUATION = '--override=evaluator_options { eval_interval: 3000 }'
SHORT = ('--override=trainer_options { ema_decay: 0.9 } evaluator_options { '
         'extra_scores: PANOPTIC_MAP_AP }')


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  # Of the tiny networks the one whose training starts soonest.
  return tiny_centers.write_config(tmp_path_factory.mktemp('config'))


def _free_ports(number):
  sockets = [socket.socket() for _ in range(number)]
  for s in sockets:
    s.bind(('localhost', 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


def start_workers(config_file, model_dir, *arguments) -> list[subprocess.Popen]:
  """Starts two workers on this machine."""
  workers = [f'localhost:{port}' for port in _free_ports(2)]
  return [training_runs.start(
      config_file, model_dir, *arguments,
      TF_CONFIG=json.dumps({'cluster': {'worker': workers},
                            'task': {'type': 'worker', 'index': index}}))
          for index in range(2)]


def finish_all(processes, expect=0):
  """Waits for the end of all workers; kills them where that takes too long."""
  try:
    for process in processes:
      training_runs.finish(process, expect)
  finally:
    for process in processes:
      process.kill()


@pytest.mark.slow
def test_two_workers_give_the_losses_and_the_scores_of_one_device(config_file, tmp_path):
  training_runs.run(config_file, tmp_path / 'one', '--mode=train_and_eval', SHORT)
  workers = start_workers(config_file, tmp_path / 'two', '--mode=train_and_eval', SHORT)
  finish_all(workers)
  assert '1 CPU on this worker, 1 of 2; 2 in all' in workers[0].out
  assert 'batch: 2 images per step, 1 per device' in workers[0].out
  one, two = (tiny_runs.read_scalars(tmp_path / name / 'train') for name in ('one', 'two'))
  assert set(one) == set(two)
  for tag in (t for t in one if t.startswith(('losses/', 'gradient_norm', 'weight_norm'))):
    for step, value in one[tag].items():
      np.testing.assert_allclose(two[tag][step], value, rtol=1e-4, atol=1e-6, err_msg=tag)
  scores = [json.loads((tmp_path / name / 'metrics.json').read_text()) for name in ('one', 'two')]
  assert scores[0] == scores[1]
  # The chief alone has written, and the others have left nothing behind.
  names = [sorted(p.name for p in (tmp_path / name).iterdir() if 'tfevents' not in p.name)
           for name in ('one', 'two')]
  assert names[0] == names[1]
  assert 'train ' not in workers[1].out


@pytest.mark.slow
def test_all_workers_end_when_one_dies_and_go_on_when_started_again(config_file, tmp_path):
  arguments = ('--mode=train_and_eval', LONG, NO_EVALUATION)
  for victim in (1, 0):
    workers = start_workers(config_file, tmp_path, *arguments)
    before = max(training_runs.losses(tmp_path), default=0)
    wait_for_step(workers, tmp_path, before + 5)
    workers[victim].send_signal(signal.SIGKILL)
    survivor = training_runs.finish(workers[1 - victim], expect=1, timeout=120)
    line = training_runs.error_line(survivor)
    assert 'another worker has stopped' in line
    assert 'start all workers again with the same command' in line
    workers[victim].communicate()
  workers = start_workers(config_file, tmp_path, *arguments)
  wait_for_step(workers, tmp_path, max(training_runs.losses(tmp_path)) + 2)
  # A stop that one worker is asked for is one of all, after the same step.
  workers[1].send_signal(signal.SIGTERM)
  finish_all(workers, expect=128 + signal.SIGTERM)
  found = training_runs.losses(tmp_path)
  assert f'and saved {tmp_path}/ckpt-{max(found)}' in workers[0].out
  assert 'resuming from' in workers[0].out
  # Steps that were done twice had the same losses.
  for step, values in found.items():
    np.testing.assert_allclose(values, values[0], rtol=1e-4, err_msg=str(step))


def wait_for_step(workers, model_dir, step, timeout=180):
  """Waits until running workers have logged a step."""
  end = time.monotonic() + timeout
  while time.monotonic() < end and all(w.poll() is None for w in workers):
    if max(training_runs.losses(model_dir), default=0) >= step:
      return
    time.sleep(0.05)
  for worker in workers:
    worker.kill()
  raise AssertionError(f'no step {step}: {[w.communicate() for w in workers]}')


def test_a_wrong_tf_config_is_refused_in_one_line(config_file, tmp_path):
  process = training_runs.run(config_file, tmp_path, expect=2, TF_CONFIG='{"cluster": {}}')
  assert 'TF_CONFIG cannot be used' in training_runs.error_line(process)
  assert not os.listdir(tmp_path)
  assert pathlib.Path(tmp_path).exists()
