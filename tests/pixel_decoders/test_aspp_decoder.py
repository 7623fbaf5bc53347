"""The forms of ASPP, and of a decoder without it, in the Axial-DeepLab paper."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.convolution import SeparableConvolution
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.pixel_decoders import aspp_decoder
from deeplab_tf.protos import model_pb2

FEATURES = (Feature('res2', 4, 6), Feature('res5', 16, 20))


def _build(**options):
  decoder = model_pb2.DecoderOptions(feature_key='res5', decoder_channels=8, aspp_channels=4,
                                     atrous_rates=(1, 2, 3), **options)
  low = model_pb2.LowLevelOptions(feature_key='res2', channels_project=3)
  return aspp_decoder.build(decoder, [low], FEATURES, (33, 49), BatchNorm)


def _features():
  return {'res2': tf.random.stateless_uniform([2, 9, 13, 6], [0, 1]),
          'res5': tf.random.stateless_uniform([2, 3, 4, 20], [0, 2])}


@pytest.mark.parametrize('rate', [1, 2, 6])
def test_a_separable_convolution_dilates_its_depthwise_part(rate):
  layer = SeparableConvolution(5, 7, 3, norm=BatchNorm, rate=rate)
  x = tf.random.stateless_normal([2, 11, 8, 5], [0, rate])
  kernel = layer.depthwise.depthwise_kernel[..., 0, None] * np.eye(5, dtype=np.float32)
  y = tf.nn.relu(layer.depthwise.norm(tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=rate)))
  np.testing.assert_allclose(layer(x), layer.pointwise(y), atol=1e-5)


def test_aspp_can_be_separable():
  dense, separable = (_build(**options).aspp for options in (
      {}, {'aspp_conv_type': 'depthwise_separable_conv'}))
  assert isinstance(separable, ASPP)
  assert [b.kernel.shape.as_list() for b in dense.branches[1:]] == [[3, 3, 20, 4]] * 3
  assert [(b.depthwise.depthwise_kernel.shape.as_list(), b.pointwise.kernel.shape.as_list(),
           b.depthwise.rate) for b in separable.branches[1:]] == [
               ([3, 3, 20, 1], [1, 1, 20, 4], rate) for rate in (1, 2, 3)]
  assert separable.branches[0].kernel.shape == dense.branches[0].kernel.shape


@pytest.mark.parametrize('options', [{'aspp_conv_type': 'depthwise_separable_conv'},
                                     {'skip_aspp': True}])
def test_every_variable_of_either_form_learns(options):
  decoder = _build(**options)
  with tf.GradientTape() as tape:
    y = decoder(_features(), training=True)
    loss = tf.reduce_sum(y * tf.random.stateless_normal(y.shape, [1, 2]))
  assert y.shape == (2, 9, 13, 8) and decoder.channels == 8
  for variable, gradient in zip(decoder.trainable_variables,
                                tape.gradient(loss, decoder.trainable_variables)):
    assert gradient is not None and np.any(gradient), variable.name


def test_without_aspp_the_feature_is_fused_as_it_is():
  decoder = _build(skip_aspp=True)
  assert decoder.aspp is None
  features = _features()
  low = decoder.low_level[0](features['res2'])
  large = tf.compat.v1.image.resize_bilinear(features['res5'], [9, 13], align_corners=True)
  expected = decoder.fusion[0](tf.concat([large, low], -1))
  np.testing.assert_allclose(decoder(features), expected, atol=1e-5)


def test_without_aspp_and_low_levels_a_decoder_is_its_feature():
  options = model_pb2.DecoderOptions(feature_key='res5', skip_aspp=True)
  decoder = aspp_decoder.build(options, [], FEATURES, (33, 49), BatchNorm)
  features = _features()
  assert decoder.channels == 20
  np.testing.assert_array_equal(decoder(features), features['res5'])


def test_without_a_key_the_decoder_reads_the_last_feature():
  options = model_pb2.DecoderOptions(decoder_channels=8, aspp_channels=4, atrous_rates=(1, 2, 3))
  features = (*FEATURES, Feature('top', 8, 5))
  decoder = aspp_decoder.build(options, [], features, (33, 49), BatchNorm)
  assert decoder.options.feature == 'top' and decoder.options.pool_size == (5, 7)
  assert decoder.aspp.pool.kernel.shape == (1, 1, 5, 4)
  assert decoder({'top': tf.ones([2, 5, 7, 5])}).shape == (2, 5, 7, 4)
