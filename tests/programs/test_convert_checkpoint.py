"""trainer/convert_checkpoint.py."""

import mask2former_checkpoints
import numpy as np
import programs
import pytest
import shared
import tensorflow as tf
import tiny
import torch_files

import deeplab_tf
from deeplab_tf.checkpoints import restore
from deeplab_tf.layers.variable_paths import variables_by_path

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


@pytest.mark.parity
def test_a_model_of_hugging_face_is_converted_with_its_config(tmp_path):
  done = programs.run(PROGRAM, '--source=huggingface',
                      f'--input={mask2former_checkpoints.folder("swin") / "hf"}',
                      f'--output={tmp_path / "out" / "ckpt"}')
  assert f'wrote {tmp_path / "out" / "config.textproto"}' in done.stdout
  assert 'The 9 classes are of no known data set: all are things' in done.stdout
  config = deeplab_tf.load_config(tmp_path / 'out' / 'config.textproto')
  model = deeplab_tf.build_model(config)
  restore.load_checkpoint(model, str(tmp_path / 'out'))
  mask2former_checkpoints.assert_outputs_are_recorded(model, 'swin')
  # The config serves for the other program's checkpoint of the same model.
  other = tmp_path / 'other' / 'ckpt'
  programs.run(PROGRAM, '--source=mask2former', f'--output={other}',
               f'--config_file={tmp_path / "out" / "config.textproto"}',
               f'--input={mask2former_checkpoints.folder("swin") / "model_final.pkl"}')
  for path, value in restore.read_variables(str(other), variables_by_path(model)).items():
    np.testing.assert_array_equal(value, variables_by_path(model)[path], path)


def test_wrong_use_for_mask2former_is_one_line_and_writes_nothing(tmp_path):
  output = f'--output={tmp_path / "out" / "ckpt"}'
  line = programs.error_line(PROGRAM, output, '--source=mask2former', '--input=x.pkl')
  assert '--source=mask2former needs --config_file' in line
  line = programs.error_line(PROGRAM, output, '--source=huggingface', f'--input={tmp_path}')
  assert f'{tmp_path / "config.json"}: no such file' in line
  assert not list(tmp_path.iterdir())
