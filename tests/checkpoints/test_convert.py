"""A DeepLab2 checkpoint is converted into one of this library."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf
import tiny
import tiny_classification

import deeplab_tf
from deeplab_tf.checkpoints import convert, from_deeplab2, restore
from deeplab_tf.layers.variable_paths import variables_by_path


@pytest.mark.parity
def test_a_real_checkpoint_is_converted_and_read_back(tmp_path):
  folder = shared.path('parity', 'deeplab2', 'checkpoint_small_max_deeplab')
  config = deeplab_tf.load_config(folder / 'model.textproto')
  model = deeplab_tf.build_model(config)
  prefix, account = convert.convert(model, 'deeplab2', str(folder / 'ckpt'),
                                    str(tmp_path / 'ckpt-0'))
  # Every name of the file is a weight of the model, or known to be none.
  assert set(account.used) == set(variables_by_path(model))
  in_file = {name for name, _ in tf.train.list_variables(str(folder / 'ckpt'))}
  assert len(in_file) == len(account.used) + len(account.skipped) + 1  # The object graph.
  assert not account.initialized
  assert all(name.startswith(('global_step', 'save_counter', 'optimizer/', 'backbone_optimizer/'))
             for name in account.skipped)
  other = deeplab_tf.build_model(config)
  restore.load_checkpoint(other, prefix)
  arrays = np.load(folder / 'io.npz')
  outputs = other(tf.constant(arrays['input'] / np.float32(127.5) - 1))
  expected = arrays['out|pixel_space_mask_logits']
  assert np.abs(outputs['mask_logits'] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parity
@pytest.mark.parametrize('name', [
    'max_deeplab_s', pytest.param('max_deeplab_l', marks=pytest.mark.slow)])
def test_every_weight_of_a_published_model_has_one_variable(name):
  folder = shared.path('parity', 'deeplab2')
  description = json.loads((folder / f'weights_{name}.json').read_text())
  with tf.Graph().as_default():  # Variables without values.
    model = deeplab_tf.build_model(deeplab_tf.load_config(folder / 'configs'
                                                          / description['config']))
  weights = {w['key']: [n for n in w['shape'] if n != 1] for w in description['weights']}
  for path, variable in variables_by_path(model).items():
    found = [key for key in from_deeplab2.keys(path, model) if key in weights]
    assert len(found) == 1, path
    assert weights.pop(found[0]) == [n for n in variable.shape if n != 1], path
  assert not weights


def test_an_encoder_of_the_model_garden_becomes_a_backbone(tmp_path):
  config = deeplab_tf.load_config(tiny_classification.write_experiment(tmp_path))
  model = deeplab_tf.build_model(config)
  root = tf.train.Checkpoint()
  for path, variable in variables_by_path(model).items():
    if path.startswith('backbone/'):
      name = from_deeplab2.keys(path, model)[0].replace('encoder/', 'backbone/_encoder/', 1)
      *parents, last = name.split('/')
      node = root
      for parent in parents:
        if not hasattr(node, parent):
          setattr(node, parent, tf.train.Checkpoint())
        node = getattr(node, parent)
      setattr(node, last, tf.Variable(variable + 1.0))
  root.head = tf.Variable(tf.zeros([3]))
  root.write(str(tmp_path / 'garden'))
  prefix, account = convert.convert(model, 'deeplab2', str(tmp_path / 'garden'),
                                    str(tmp_path / 'ckpt-0'))
  assert sorted(account.initialized) == ['classifier/bias', 'classifier/kernel']
  assert any(name.startswith('head/') for name in account.skipped)
  assert 'as initialized: classifier' in '\n'.join(account.lines())
  other = deeplab_tf.build_model(config)
  restore.load_checkpoint(other, prefix)
  np.testing.assert_array_equal(other.backbone.stem.conv1.kernel, model.backbone.stem.conv1.kernel)


def test_what_cannot_be_converted_writes_nothing(tmp_path):
  model = deeplab_tf.build_model(deeplab_tf.load_config(tiny.write_config(tmp_path)))
  tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / 'other'))
  output = tmp_path / 'out' / 'ckpt-0'
  with pytest.raises(ValueError, match='unknown source "keras": allowed are .*deeplab2'):
    convert.convert(model, 'keras', str(tmp_path / 'other'), str(output))
  with pytest.raises(ValueError, match='do not fit the model'):
    convert.convert(model, 'deeplab2', str(tmp_path / 'other'), str(output))
  own = convert.save_checkpoint(model, str(tmp_path / 'own'))
  with pytest.raises(ValueError, match='a checkpoint of this library already'):
    convert.convert(model, 'deeplab2', own, str(output))
  with pytest.raises(FileNotFoundError, match='no such checkpoint'):
    convert.convert(model, 'deeplab2', str(tmp_path / 'nothing'), str(output))
  assert not output.parent.exists()
