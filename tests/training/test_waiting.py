"""Continuous evaluation gets only complete checkpoints, and each newest one once."""

import os
import pathlib
import shutil
import threading
import time

import pytest
import tensorflow as tf

from deeplab_tf.training import waiting
from deeplab_tf.training.signals import Stopped


def _save(folder, step):
  return tf.train.Checkpoint(global_step=tf.Variable(step, dtype=tf.int64),
                             weights=tf.Variable(tf.random.normal([100]))).write(
                                 str(pathlib.Path(folder) / f'ckpt-{step}'))


def _waiting(folder, timeout=1.0):
  return waiting.new_checkpoints(str(folder), timeout, lambda: False, poll_seconds=0.02)


def test_a_half_written_checkpoint_waits_until_it_is_whole(tmp_path):
  source = tmp_path / 'source'
  folder = tmp_path / 'model'  # Does not exist yet.
  _save(source, 2)
  _save(source, 4)

  def write():
    time.sleep(0.1)
    folder.mkdir()
    for step in (2, 4):
      data = (source / f'ckpt-{step}.data-00000-of-00001').read_bytes()
      shutil.copy(source / f'ckpt-{step}.index', folder)
      (folder / f'ckpt-{step}.data-00000-of-00001').write_bytes(data[:50])
      time.sleep(0.2)
      (folder / f'ckpt-{step}.data-00000-of-00001').write_bytes(data)
      time.sleep(0.2)

  thread = threading.Thread(target=write)
  thread.start()
  found = []
  for prefix in _waiting(folder):
    found.append(os.path.basename(prefix))
    assert tf.train.load_variable(prefix, 'global_step/.ATTRIBUTES/VARIABLE_VALUE') in (2, 4)
  thread.join()
  assert found == ['ckpt-2', 'ckpt-4']


def test_waiting_ends_after_the_timeout_since_the_last_evaluation(tmp_path):
  start = time.monotonic()
  assert not list(_waiting(tmp_path, timeout=0.3))
  assert time.monotonic() - start >= 0.3
  _save(tmp_path, 2)
  for _ in _waiting(tmp_path, timeout=0.3):
    time.sleep(0.5)  # The evaluation itself is no waiting.
    _save(tmp_path, 4)
    break


def test_those_that_came_during_an_evaluation_are_passed_over_but_the_newest(tmp_path):
  _save(tmp_path, 2)
  found = []
  for prefix in _waiting(tmp_path, timeout=0.3):
    found.append(os.path.basename(prefix))
    if len(found) == 1:
      _save(tmp_path, 4)
      _save(tmp_path, 6)
  assert found == ['ckpt-2', 'ckpt-6']


def test_a_stop_ends_the_waiting(tmp_path):
  with pytest.raises(Stopped):
    next(waiting.new_checkpoints(str(tmp_path), -1, lambda: True))
