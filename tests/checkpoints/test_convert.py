"""A DeepLab2 checkpoint becomes one of ours."""

import numpy as np
import pytest
import shared
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.checkpoints import convert, restore


@pytest.mark.parity
def test_a_real_checkpoint_is_converted_and_read_back(tmp_path):
  folder = shared.path('parity', 'deeplab2', 'checkpoint_small_max_deeplab')
  config = deeplab_tf.load_config(folder / 'model.textproto')
  model = deeplab_tf.build_model(config)
  prefix = convert.convert(model, 'deeplab2', str(folder / 'ckpt'), str(tmp_path / 'ckpt-0'))
  other = deeplab_tf.build_model(config)
  restore.load_checkpoint(other, prefix)
  arrays = np.load(folder / 'io.npz')
  outputs = other(tf.constant(arrays['input'] / np.float32(127.5) - 1))
  expected = arrays['out|pixel_space_mask_logits']
  assert np.abs(outputs['mask_logits'] - expected).max() < 1e-4 * np.abs(expected).max()


def test_what_cannot_be_converted_writes_nothing(tmp_path):
  model = deeplab_tf.build_model(deeplab_tf.load_config(tiny.write_config(tmp_path)))
  tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / 'other'))
  output = tmp_path / 'out' / 'ckpt-0'
  with pytest.raises(ValueError, match='unknown source "keras": allowed are deeplab2'):
    convert.convert(model, 'keras', str(tmp_path / 'other'), str(output))
  with pytest.raises(ValueError, match='do not fit the model'):
    convert.convert(model, 'deeplab2', str(tmp_path / 'other'), str(output))
  with pytest.raises(FileNotFoundError, match='no such checkpoint'):
    convert.convert(model, 'deeplab2', str(tmp_path / 'nothing'), str(output))
  assert not output.parent.exists()
