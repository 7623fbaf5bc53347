"""Activations by name, and the layers that take one."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from deeplab_tf.compat import keras
from deeplab_tf.heads.convolution_head import ConvolutionHead
from deeplab_tf.heads.mask_head import MaskHead
from deeplab_tf.layers import activation
from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.convolution import convolution_block
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.hourglass import Hourglass
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.resized_fuse import ResizedFuse
from deeplab_tf.layers.stem import make_stem
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.pixel_decoders.aspp_decoder import ASPPDecoder, DecoderOptions
from deeplab_tf.user_errors import ConfigError

NORM = functools.partial(BatchNorm, epsilon=1e-3)
PIXELS = tf.random.stateless_normal([2, 5, 7, 16], [0, 1])
QUERIES = tf.random.stateless_normal([2, 3, 12], [0, 2])
# Layers of 16 channels, from the name of their activation.
LAYERS = {
    'standard': lambda name: convolution_block('standard_conv', 16, 8, 3, norm=NORM,
                                               activation=name),
    'separable': lambda name: convolution_block('depthwise_separable_conv', 16, 8, 3, norm=NORM,
                                                activation=name),
    'head': lambda name: ConvolutionHead(16, 8, 4, norm=NORM, activation=name),
    'aspp': lambda name: ASPP(
        in_channels=16, channels=8, rates=(1, 2, 3), norm=NORM, activation=name),
    'aspp projection': lambda name: ASPP(
        in_channels=16, channels=8, rates=(), norm=NORM, only_projection=True, activation=name),
    'inception stem': lambda name: make_stem('inception', 0.25, NORM, name),
    'resnet': lambda name: _group(name, 'resnet', 0, 16),
    'wide_resnet': lambda name: _group(name, 'wide_resnet', 0, 16),
    'sac': lambda name: _group(name, 'resnet', 0, 32),
    'axial': lambda name: _group(name, 'resnet', 16, 16),
}


def _group(name, kind, axial_beyond_stride, stride):
  options = BlockGroupOptions(kind=kind, axial_beyond_stride=axial_beyond_stride,
                              sac_beyond_stride=32).with_blocks(activation=name)
  return BlockGroup(
      in_channels=16, filters=8, num_blocks=2, stride=1, input_stride=stride, options=options,
      norm=NORM)


def _features():
  return {name: tf.random.stateless_normal([2, size, size, channels], [0, size])
          for name, size, channels in (('high', 17, 8), ('low', 5, 16))}


def _fuse(name):
  layer = ResizedFuse((16, 8), (16, 4), 12, 8, norm=NORM, activation=name)
  return layer, lambda: layer([_features()['low'], _features()['high']], (9, 9))


def _decoder(name):
  layer = ASPPDecoder([Feature('high', 4, 8), Feature('low', 16, 16)], DecoderOptions(
      feature='low', channels=8, aspp_channels=4, atrous_rates=(1, 2, 3),
      convolution='standard_conv', only_projection=False, pool_size=None, low_level=(('high', 4),),
      activation=name), NORM)
  return layer, lambda: layer(_features())


def _hourglass(name):
  options = BlockGroupOptions(axial_beyond_stride=0).with_blocks(activation=name)
  layer = Hourglass(
      strides=[8, 4], features=[Feature('high', 4, 8), Feature('low', 16, 16)], num_blocks=1,
      width=0.0625, options=options, norm=NORM)
  return layer, lambda: layer(_features())[0]['decoder2']


def _dual_path(name):
  layer = DualPathLayer(16, 12, DualPathOptions(8, 24, 2, activation=name), NORM)
  return layer, lambda: layer(PIXELS, QUERIES)


def _mask_head(name):
  layer = MaskHead(
      memory_channels=12, feature_channels=10,
      pixel_head=ConvolutionHead(16, 8, 4, norm=NORM,
                                 activation=name), pixel_channels=4, num_classes=3,
      norm=NORM, activation=name)
  return layer, lambda: layer(QUERIES, PIXELS)


def _of_pixels(make, name):
  layer = make(name)
  images = PIXELS[..., :3] if hasattr(layer, 'conv3') else PIXELS
  return layer, lambda: layer(images)


CASES = {**{key: functools.partial(_of_pixels, make) for key, make in LAYERS.items()},
         'fuse': _fuse, 'decoder': _decoder, 'hourglass': _hourglass, 'dual path': _dual_path,
         'mask head': _mask_head}


def _run(make, name):
  """The outputs of a new layer, the same weights for every activation."""
  keras.utils.set_random_seed(0)
  layer, call = make(name)
  for path, variable in variables_by_path(layer).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.5))
  return [x.numpy() for x in tf.nest.flatten(call()) if x is not None]


@pytest.mark.parametrize('case', CASES)
def test_a_layer_has_one_activation_throughout(case, monkeypatch):
  relu = _run(CASES[case], 'relu')
  gelu = _run(CASES[case], 'gelu')
  assert any(not np.allclose(a, b) for a, b in zip(relu, gelu))
  # Wherever the default activates, the argument does.
  monkeypatch.setattr(tf.nn, 'relu', tf.nn.gelu)
  monkeypatch.setitem(activation._FUNCTIONS, 'relu', tf.nn.gelu)
  for actual, expected in zip(gelu, _run(CASES[case], 'relu')):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_gelu_is_exact():
  x = np.linspace(-6, 6, 101)
  expected = x * 0.5 * (1 + special.erf(x / np.sqrt(2)))
  # The approximation by tanh is 5e-4 away.
  np.testing.assert_allclose(activation.by_name('gelu')(tf.constant(x)), expected, atol=1e-7)


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(ConfigError, match='unknown activation "mish": allowed are relu, swish'):
    activation.by_name('mish')
