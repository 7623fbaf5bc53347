"""Convolutions and projections against plain numpy."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.convolution import (
  Convolution,
  DepthwiseConvolution,
  Projection,
  SeparableConvolution,
  convolution_block,
  merge_heads,
  split_heads,
)
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.user_errors import ConfigError

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(1, 7, 6, 3)).astype(np.float32)


def _convolve(image, kernel, stride, rate):
  """A convolution as a sum over taps, with zeros around the image on all sides alike."""
  size, _, _, channels = kernel.shape
  pad = rate * (size - 1) // 2
  padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = (-(-n // stride) for n in image.shape[1:3])
  out = np.zeros((len(image), height, width, channels))
  for i in range(size):
    for j in range(size):
      taken = padded[:, i * rate:, j * rate:][:, :stride * height:stride, :stride * width:stride]
      out += taken[:, :height, :width] @ kernel[i, j]
  return out


@pytest.mark.parametrize('size, stride, rate', [(1, 1, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1),
                                                (3, 1, 2), (3, 1, 3), (1, 2, 1)])
def test_a_convolution_pads_with_zeros_on_all_sides_alike(size, stride, rate):
  layer = Convolution(3, 4, size, stride=stride, rate=rate)
  layer.bias.assign([0.0, 1.0, 2.0, 3.0])
  expected = _convolve(IMAGE, layer.kernel.numpy(), stride, rate) + np.arange(4)
  np.testing.assert_allclose(layer(IMAGE), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_and_activation_follow():
  layer = Convolution(3, 4, norm=BatchNorm, activation='relu')
  assert layer.bias is None
  layer.norm.moving_mean.assign([0.1, 0.2, 0.3, 0.4])
  layer.norm.moving_variance.assign([1.0, 2.0, 3.0, 4.0])
  x = _convolve(IMAGE, layer.kernel.numpy(), 1, 1)
  expected = (x - [0.1, 0.2, 0.3, 0.4]) / np.sqrt(np.arange(1, 5) + layer.norm.epsilon)
  np.testing.assert_allclose(layer(IMAGE), np.maximum(expected, 0), rtol=1e-4, atol=1e-5)
  assert not Convolution(3, 4, norm=BatchNorm, zero_gamma=True)(IMAGE).numpy().any()


@pytest.mark.parametrize('rate', [1, 2])
def test_a_depthwise_convolution_keeps_channels_apart(rate):
  layer = DepthwiseConvolution(3, 3, norm=BatchNorm, rate=rate)
  found = layer(IMAGE).numpy()
  for channel in range(3):
    kernel = layer.depthwise_kernel.numpy()[:, :, channel:channel + 1]
    expected = _convolve(IMAGE[..., channel:channel + 1], kernel, 1, rate)
    np.testing.assert_allclose(found[..., channel:channel + 1] * np.sqrt(1 + layer.norm.epsilon),
                               expected, rtol=1e-4, atol=1e-5)


def test_a_separable_convolution_is_depthwise_and_then_pointwise():
  layer = SeparableConvolution(3, 5, 3, norm=BatchNorm)
  expected = layer.pointwise(layer.depthwise(IMAGE))
  np.testing.assert_array_equal(layer(IMAGE), expected)
  assert layer.depthwise(IMAGE).numpy().min() == 0 == expected.numpy().min()


def test_kinds_of_blocks():
  assert isinstance(convolution_block('standard_conv', 3, 4, 3, norm=BatchNorm), Convolution)
  assert isinstance(convolution_block('depthwise_separable_conv', 3, 4, 3, norm=BatchNorm),
                    SeparableConvolution)
  with pytest.raises(ConfigError, match='"x": allowed are depthwise_separable_conv, standard'):
    convolution_block('x', 3, 4, 3, norm=BatchNorm)


def test_a_projection_is_a_matrix_product_along_the_last_axis():
  layer = Projection(3, 4)
  layer.bias.assign([0.0, 1.0, 2.0, 3.0])
  sequence = IMAGE.reshape(1, 42, 3)
  np.testing.assert_allclose(layer(sequence), sequence @ layer.kernel.numpy() + np.arange(4),
                             rtol=1e-4, atol=1e-5)


def test_a_projection_may_have_neither_norm_nor_bias():
  layer = Projection(3, 4, use_bias=False)
  assert [v.name for v in layer.variables] == ['kernel:0']
  sequence = IMAGE.reshape(1, 42, 3)
  np.testing.assert_allclose(layer(sequence), sequence @ layer.kernel.numpy(), rtol=1e-4, atol=1e-5)


def test_heads_are_split_and_merged():
  x = RNG.normal(size=(2, 5, 12)).astype(np.float32)
  heads = split_heads(tf.constant(x), 3)
  assert heads.shape == (2, 3, 5, 4)
  np.testing.assert_array_equal(heads[1, 2, 4], x[1, 4, 8:])
  np.testing.assert_array_equal(merge_heads(heads), x)
