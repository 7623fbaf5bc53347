"""Every backbone describes the features that it returns, and models accept any such backbone."""

import importlib
import pathlib
import sys
import types

import backbone_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny_centers
import tiny_classification

import deeplab_tf
from deeplab_tf import backbones, modules
from deeplab_tf.backbones import block_group_network
from deeplab_tf.backbones.block_group_network import TwoPathNetwork
from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import BatchNorm, LayerNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import model_pb2
from deeplab_tf.user_errors import ConfigError

IMAGES = backbone_battery.IMAGES


def _options(**fields):
  return model_pb2.ModelOptions.BackboneOptions(
      **{'output_stride': 16, **backbone_battery.NARROW, **fields})


def test_each_variant_is_in_the_module_that_the_package_says():
  found = {}
  for name in modules.available('backbones'):
    for variant in getattr(importlib.import_module(f'deeplab_tf.backbones.{name}'), 'VARIANTS', ()):
      assert variant not in found
      found[variant] = name
  assert found == backbones.MODULES


def test_an_unknown_variant_lists_the_known_ones():
  with pytest.raises(ConfigError, match=r'backbone.name is "resnet5": there are axial_resnet50, .*'
                                        r'resnet50, .*Did you mean "resnet50"\?'):
    backbones.build(_options(name='resnet5'), BatchNorm)


class TestDeepLab2Networks(backbone_battery.BackboneBattery):
  OPTIONS = {name: {'name': name, 'output_stride': stride, **backbone_battery.NARROW}
             for name, stride in (
                 ('resnet50_beta', 8), ('full_axial_resnet', 32), ('max_deeplab_l', 16))}

  def test_the_last_feature_is_the_output(self, options, backbone):
    assert backbone.features[-1].name == 'backbone_output'
    assert backbone.features[-1].stride == options['output_stride']


def test_a_network_of_two_paths_returns_its_queries_as_well():
  class Counter(keras.layers.Layer):

    def call(self, pixels, queries, training=False):
      return pixels, queries + 1

  def layers(stride, channels, output_stride, keep_prob):
    del stride, channels, keep_prob
    return Counter() if output_stride == 32 else None

  options = _options(name='resnet50_beta')
  keras.utils.set_random_seed(0)
  plain = backbones.build(options, BatchNorm)
  variant = importlib.import_module('deeplab_tf.backbones.resnet').VARIANTS['resnet50_beta']
  network = TwoPathNetwork(block_group_network.configured(variant, options), BatchNorm, layers)
  network.set_weights(plain.get_weights())
  assert network.features == plain.features
  features, queries = network(IMAGES, tf.zeros([]))
  assert queries == len(network.stages[-1].blocks)
  for name, value in plain(IMAGES).items():
    np.testing.assert_array_equal(features[name], value, err_msg=name)


class Patches(keras.layers.Layer):
  """A backbone that has nothing in common with the others: one cut into patches per level."""

  features = (Feature('level2', 4, 6), Feature('level3', 8, 10), Feature('level5', 32, 14))

  def __init__(self, norm):
    super().__init__()
    self.cuts = [Convolution(before, feature.channels, 3, stride=step, norm=norm)
                 for before, feature, step in zip((3, 6, 10), self.features, (4, 2, 4))]

  def call(self, images, training=False):
    features, x = {}, images
    for feature, cut in zip(self.features, self.cuts):
      x = features[feature.name] = tf.nn.gelu(cut(x, training=training))
    return features


@pytest.fixture(name='patches')
def fixture_patches(monkeypatch):
  """Puts a module into the package of backbones for the time of a test."""
  module = types.ModuleType('deeplab_tf.backbones.patches')
  module.VARIANTS = {'patches_tiny': None}
  module.build = lambda name, options, norm: Patches(LayerNorm)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.setitem(backbones.MODULES, 'patches_tiny', 'patches')


_BACKBONE = 'model_options { backbone { name: "patches_tiny" } }'


def _assert_everything_learns(model, path):
  with tf.GradientTape() as tape:
    outputs = model(IMAGES, training=True)
    loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in outputs.values()])
  variables = model.trainable_variables
  for variable, gradient in zip(variables, tape.gradient(loss, variables)):
    assert gradient is not None and np.any(tf.convert_to_tensor(gradient)), variable.name
  paths = set(variables_by_path(model))
  assert {path, 'backbone/cuts/0/kernel', 'backbone/cuts/0/norm/gamma'} <= paths


def test_a_classifier_takes_any_backbone(patches, tmp_path):
  config = deeplab_tf.load_config(tiny_classification.write_experiment(tmp_path), [_BACKBONE])
  model = deeplab_tf.build_model(config)
  assert model(IMAGES)['class_logits'].shape == (2, 2)
  pooled = model.backbone(IMAGES)['level5'].numpy().mean((1, 2))
  kernel, bias = (v.numpy() for v in model.classifier.variables)
  np.testing.assert_allclose(model(IMAGES)['class_logits'], pooled @ kernel + bias, atol=1e-5)
  _assert_everything_learns(model, 'classifier/kernel')


def test_panoptic_deeplab_takes_any_backbone(patches, tmp_path):
  config = deeplab_tf.load_config(tiny_centers.write_config(pathlib.Path(tmp_path)), [
      _BACKBONE, 'clear: "model_options.decoder.feature_key"',
      'clear: "model_options.panoptic_deeplab.low_level"',
      'clear: "model_options.panoptic_deeplab.instance.low_level_override"',
      'clear: "model_options.panoptic_deeplab.instance.instance_decoder_override"',
      'model_options { panoptic_deeplab { '
      'low_level { feature_key: "level3" channels_project: 8 } } }'])
  model = deeplab_tf.build_model(config)
  assert model.semantic_decoder.options.feature == 'level5'
  assert model.semantic_decoder.options.pool_size == (3, 3)  # Crops are 65 x 81.
  outputs = model(IMAGES)
  assert outputs['semantic_logits'].shape[:3] == outputs['center_offsets'].shape[:3] == (2, 9, 11)
  _assert_everything_learns(model, 'semantic_decoder/low_level/0/kernel')
