"""trainer/convert_checkpoint.py."""

import numpy as np
import programs
import pytest
import shared
import tensorflow as tf
import tiny
import torch_files

import deeplab_tf

PROGRAM = 'trainer/convert_checkpoint.py'


@pytest.mark.parity
def test_a_deeplab2_checkpoint_is_converted(tmp_path):
  folder = shared.path('parity', 'deeplab2', 'checkpoint_small_max_deeplab')
  done = programs.run(PROGRAM, '--source=deeplab2', f'--input={folder / "ckpt"}',
                      f'--config_file={folder / "model.textproto"}',
                      f'--output={tmp_path / "converted"}')
  assert 'variables' in done.stdout
  config = deeplab_tf.load_config(folder / 'model.textproto')
  deeplab_tf.Segmenter.from_checkpoint(config, str(tmp_path / 'converted'))


def test_wrong_use_is_one_line(tmp_path):
  config = f'--config_file={tiny.write_config(tmp_path)}'
  output = f'--output={tmp_path / "out"}'
  line = programs.error_line(PROGRAM, config, output, '--input=x', '--source=caffe')
  assert 'deeplab2' in line and 'caffe' in line
  tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / 'other'))
  line = programs.error_line(PROGRAM, config, output, f'--input={tmp_path / "other"}',
                             '--source=deeplab2')
  assert 'do not fit the model' in line and 'missing' in line
  torch_files.save(tmp_path / 'x.pth', {'conv1.weight': np.zeros([2, 2], np.float32)})
  line = programs.error_line(PROGRAM, output, f'--input={tmp_path / "x.pth"}',
                             '--config_file=configs/imagenet/axial26_s.textproto',
                             '--source=axial_deeplab')
  assert 'missing: fc.weight' in line and 'of the wrong shape: conv1.weight: [2, 2]' in line
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      'other.data-00000-of-00001', 'other.index', 'tiny.textproto', 'x.pth']
