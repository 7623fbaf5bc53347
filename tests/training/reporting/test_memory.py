"""The memory that a run reports."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.training.reporting import memory


@pytest.mark.skipif(not pathlib.Path(memory._STATUS_FILE).exists(), reason='not Linux')
def test_memory_of_the_host_grows_by_what_is_allocated():
  before = memory.in_use()
  held = np.ones(2**27, np.uint8)
  after = memory.in_use()
  assert after['host_gb'] - before['host_gb'] == pytest.approx(0.125, abs=0.05)
  assert after['host_peak_gb'] >= after['host_gb']
  del held


def test_memory_of_gpus_is_reported_where_it_is_known(monkeypatch):

  def info(device):
    if device == 'GPU:1':
      raise ValueError('not known')
    return {'current': 2**30, 'peak': 3 * 2**30}

  monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind: [kind] * 3)
  monkeypatch.setattr(tf.config.experimental, 'get_memory_info', info)
  found = memory.in_use()
  assert {name: value for name, value in found.items() if 'gpu' in name} == {
      'gpu0_peak_gb': 3.0, 'gpu2_peak_gb': 3.0}


def test_systems_without_the_status_file_report_nothing_of_the_host(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, '_STATUS_FILE', str(tmp_path / 'none'))
  monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind: [])
  assert memory.in_use() == {}
