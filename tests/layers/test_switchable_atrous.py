"""Switchable atrous convolution equals its equation and starts as a plain convolution."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.switchable_atrous import SwitchableAtrousConvolution

_NORM = functools.partial(BatchNorm, synchronized=True)


def _layer_and_input(stride, rate):
  keras.utils.set_random_seed(1)
  layer = SwitchableAtrousConvolution(3, 4, 3, stride=stride, rate=rate, norm=_NORM,
                                      activation='relu')
  return layer, tf.random.normal([2, 11, 14, 3])


@pytest.mark.parametrize('stride, rate', [(1, 1), (1, 2), (2, 1)])
def test_a_new_layer_is_the_convolution_of_the_smaller_dilation(stride, rate):
  layer, x = _layer_and_input(stride, rate)
  plain = Convolution(3, 4, 3, stride=stride, rate=rate, norm=_NORM, activation='relu')
  plain.kernel.assign(layer.kernel)
  np.testing.assert_allclose(layer(x), plain(x), atol=1e-6)


def _numpy_convolution(x, kernel, stride, rate):
  pad = rate
  padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
  height, width = x.shape[1:3]
  total = sum(padded[:, i * rate:i * rate + height, j * rate:j * rate + width] @ kernel[i, j]
              for i in range(3) for j in range(3))
  return total[:, ::stride, ::stride]


def _mean_of_window(x):
  height, width = x.shape[1:3]
  means = np.zeros_like(x)
  for i in range(height):
    for j in range(width):
      means[:, i, j] = x[:, max(i - 2, 0):i + 3, max(j - 2, 0):j + 3].mean((1, 2))
  return means


@pytest.mark.parametrize('stride, rate', [(1, 1), (1, 2), (2, 1)])
def test_output_is_the_equation(stride, rate):
  layer, x = _layer_and_input(stride, rate)
  rng = np.random.default_rng(0)
  for part in (layer.switch, layer.before, layer.after):
    for variable in part.trainable_variables:
      variable.assign(rng.standard_normal(variable.shape))
  weights = lambda part: (part.kernel.numpy()[0, 0], part.bias.numpy())  # noqa: E731
  kernel = layer.kernel.numpy()
  x = x.numpy()
  matrix, bias = weights(layer.before)
  y = x + x.mean((1, 2), keepdims=True) @ matrix + bias
  matrix, bias = weights(layer.switch)
  share = (_mean_of_window(y) @ matrix + bias)[:, ::stride, ::stride]
  y = (share * _numpy_convolution(y, kernel, stride, 3 * rate)
       + (1 - share) * _numpy_convolution(y, kernel, stride, rate))
  matrix, bias = weights(layer.after)
  y = y + y.mean((1, 2), keepdims=True) @ matrix + bias
  expected = np.maximum(y / np.sqrt(1 + 1e-3), 0)
  np.testing.assert_allclose(layer(tf.constant(x)), expected, rtol=1e-3, atol=1e-4)
