"""MaX-DeepLab: any size, every option, gradients, compilation."""

import model_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny

from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.config import ConfigError, load_config
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.losses.max_deeplab import MaXDeepLabCriterion
from deeplab_tf.models import max_deeplab


def _config(tmp_path, *overrides):
  return load_config(tiny.write_config(tmp_path), overrides)


def _parts(config):
  info = catalog.from_config(config)
  return info, models.build_model(config), max_deeplab.build_criterion(config, info)


def _batch(config, info):
  return next(iter(pipeline.train_dataset(config, info, 'mask', seed=0)))


class TestMaXDeepLab(model_battery.ModelBattery):
  CONFIG = tiny.config_text()
  OPTIONS = {
      'axial': 'max_deeplab { pixel_to_pixel_attention: AXIAL }',
      'convolution': 'max_deeplab { pixel_to_pixel_attention: CONVOLUTION }',
      'no P2M': 'max_deeplab { pixel_to_memory_attention: false }',
      'no M2M': 'max_deeplab { memory_to_memory_attention: false }',
      'neither': 'max_deeplab { pixel_to_memory_attention: false '
                 'memory_to_memory_attention: false }',
      'stack and stride 8, D = 3': 'max_deeplab { num_decoder_stacks: 1 '
                                   'transformer_beyond_stride: 8 transformer_channels: 64 '
                                   'pixel_space_head { output_channels: 3 } }',
      'large': 'backbone { name: "max_deeplab_l" use_squeeze_and_excite: true recomputed: BLOCKS }',
  }
  # An offset that all logits of a softmax share changes nothing.
  INVARIANT = ('mask_head/norm_masks/beta', 'norm_similarity/beta')

  def shapes(self, network, size):
    quarter = [-(-n // 4) for n in size]
    queries = network.config.model_options.max_deeplab.num_queries
    return {'mask_logits': [*quarter, queries],
            'class_logits': [queries, len(network.info.class_ids) + 1],
            'pixel_features': [*quarter, 16],
            'semantic_logits': [*quarter, network.info.num_classes]}

  def test_pixel_features_have_length_1(self, network):
    features = network.model(tf.random.stateless_normal([1, 33, 33, 3], [0, 1]))['pixel_features']
    np.testing.assert_allclose(tf.norm(features, axis=-1), 1, atol=1e-5)

  def test_options_are_what_they_say(self, option):
    options = option.model_options.max_deeplab
    names = ' '.join(variables_by_path(models.build_model(option)))
    is_axial = options.pixel_to_pixel_attention != options.CONVOLUTION
    assert ('attention/height_axis' in names) == is_axial
    assert ('pixel_attention' in names) == options.pixel_to_memory_attention


def test_networks_that_cannot_be_are_one_line(tmp_path):
  config = _config(tmp_path, 'model_options { max_deeplab { num_backbone_decoder_stacks: 1 } }')
  with pytest.raises(ValueError, match='num_backbone_decoder_stacks is 1: it must be from 0 '
                     'to num_decoder_stacks, 0,'):
    models.build_model(config)
  config.model_options.max_deeplab.num_backbone_decoder_stacks = 0
  config.model_options.max_deeplab.transformer_channels = 12
  with pytest.raises(ValueError, match='12 channels do not divide into 8 heads'):
    models.build_model(config)
  config.model_options.backbone.name = 'max_deeplab_x'
  with pytest.raises(ValueError, match='max_deeplab takes max_deeplab_s, max_deeplab_l. Did you'):
    models.build_model(config)


def test_a_semantic_loss_needs_its_head(tmp_path):
  head, loss = ('model_options.max_deeplab.auxiliary_semantic_head',
                'trainer_options.loss_options.semantic_loss')
  config = _config(tmp_path, f'clear: "{head}"', 'trainer_options { loss_options { '
                   'semantic_loss { weight: 0.5 } } }')
  info = catalog.from_config(config)
  with pytest.raises(ConfigError) as error:
    max_deeplab.build_criterion(config, info)
  assert str(error.value) == (f'{loss} has weight 0.5 and needs {head}, which is not set: set it, '
                              'or clear semantic_loss')
  for change in (f'clear: "{loss}"', 'trainer_options { loss_options { semantic_loss { weight: 0 } '
                                     '} }'):
    config = _config(tmp_path, f'clear: "{head}"', change)
    assert isinstance(max_deeplab.build_criterion(config, info), MaXDeepLabCriterion)


def test_the_two_matching_solvers_give_the_same_losses_and_gradients(tmp_path):
  keras.utils.set_random_seed(1)
  info, model, _ = _parts(_config(tmp_path))
  images, targets = _batch(_config(tmp_path), info)
  outputs = model(images, training=True)
  found = []
  for solver in ('SCIPY', 'NATIVE'):
    config = _config(tmp_path, 'trainer_options { loss_options { '
                     f'matching_solver: {solver} }} }}')
    criterion = max_deeplab.build_criterion(config, info)
    with tf.GradientTape() as tape:
      tape.watch(outputs)
      losses = criterion(outputs, targets).losses
      total = tf.add_n(list(losses.values()))
    found.append((losses, tape.gradient(total, outputs)))
  for part, other in zip(*found):
    for name in part:
      np.testing.assert_allclose(part[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_variable_groups(tmp_path):
  _, model, _ = _parts(_config(tmp_path))
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  backbone = {paths[id(v)] for v in model_battery.backbone_variables(
      max_deeplab.ARCHITECTURE, model)}
  assert backbone
  assert all(p.startswith('backbone/') and 'transformers' not in p for p in backbone)
  inference = {paths[id(v)] for v in max_deeplab.inference_variables(model)}
  assert not any(p.startswith('semantic_') for p in inference)
  assert {p for p in paths.values() if p.startswith('mask_head') and 'moving' not in p} < inference


def test_without_the_auxiliary_head_there_are_no_semantic_logits(tmp_path):
  config = _config(tmp_path)
  config.model_options.max_deeplab.ClearField('auxiliary_semantic_head')
  config.trainer_options.loss_options.semantic_loss.weight = 0
  info, model, criterion = _parts(config)
  images, targets = _batch(config, info)
  outputs = model(images, training=True)
  assert 'semantic_logits' not in outputs
  assert np.isfinite(criterion(outputs, targets).total).all()
