"""Deformable convolution: its equation, gradients, shapes, precision, compilation."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.deformable_convolution import DeformableConvolution, deform_convolve
from deeplab_tf.layers.precision import policy
from deeplab_tf.user_errors import ConfigError


def _read(image, y, x):
  """Returns the bilinear interpolation of [height, width, channels], zero outside."""
  value = np.zeros(image.shape[-1])
  for row in (math.floor(y), math.floor(y) + 1):
    for column in (math.floor(x), math.floor(x) + 1):
      if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
        value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
  return value


def plain(x, offsets, weights, kernel, groups):
  """The equation, tap by tap in float64."""
  size, _, channels, out_channels = kernel.shape
  batch, height, width, _ = x.shape
  x, offsets, weights, kernel = (a.astype(np.float64) for a in (x, offsets, weights, kernel))
  offsets = offsets.reshape(batch, height, width, groups, size, size, 2)
  weights = weights.reshape(batch, height, width, groups, size, size)
  output = np.zeros([batch, height, width, out_channels])
  width_of_group = channels // groups
  for b, row, column, g, i, j in np.ndindex(batch, height, width, groups, size, size):
    part = slice(g * width_of_group, (g + 1) * width_of_group)
    dy, dx = offsets[b, row, column, g, i, j]
    read = _read(x[b, :, :, part], row + i - size // 2 + dy, column + j - size // 2 + dx)
    output[b, row, column] += weights[b, row, column, g, i, j] * read @ kernel[i, j, part]
  return output


def _convolve(inputs, groups=2):
  return deform_convolve(*(tf.convert_to_tensor(a) for a in inputs), groups)


def _inputs(height=4, width=5, batch=2, channels=4, groups=2, size=3, spread=2.5):
  """Returns random inputs; some positions are outside of the map."""
  random = np.random.default_rng(0)
  points = groups * size**2
  return [array.astype(np.float32) for array in (
      random.standard_normal([batch, height, width, channels]),
      random.uniform(-spread, spread, [batch, height, width, 2 * points]),
      random.uniform(0, 1, [batch, height, width, points]),
      random.standard_normal([size, size, channels, 3]))]


@pytest.mark.parametrize('options', [
    {}, {'height': 1, 'width': 7}, {'size': 1, 'groups': 4}, {'groups': 1, 'spread': 9.0}])
def test_it_is_the_equation(options):
  inputs, groups = _inputs(**options), options.get('groups', 2)
  np.testing.assert_allclose(_convolve(inputs, groups), plain(*inputs, groups), atol=1e-4)


def test_without_offsets_it_is_a_convolution_with_zeros_around_the_map():
  x, offsets, weights, kernel = _inputs()
  found = _convolve([x, 0 * offsets, np.ones_like(weights), kernel])
  np.testing.assert_allclose(found, tf.nn.conv2d(x, kernel, 1, 'SAME'), atol=1e-5)


def test_positions_outside_read_zero():
  x, offsets, weights, kernel = _inputs()
  offsets = np.where(offsets > 0, 9, -9).astype(np.float32)
  with tf.GradientTape() as tape:
    tape.watch(inputs := [tf.constant(a) for a in (x, offsets, weights, kernel)])
    output = _convolve(inputs)
  np.testing.assert_array_equal(output, np.zeros([2, 4, 5, 3]))
  for gradient in tape.gradient(output, inputs):
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def _gradients(inputs, upstream):
  inputs = [tf.convert_to_tensor(a) for a in inputs]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    output = _convolve(inputs)
  return tape.gradient(output, inputs, upstream)


def test_gradients_equal_finite_differences():
  inputs = _inputs()
  # Between two pixels the output is smooth; keep positions away from the kinks.
  whole = np.floor(inputs[1])
  inputs[1] = (whole + np.clip(inputs[1] - whole, 0.1, 0.9)).astype(np.float32)
  upstream = np.random.default_rng(1).standard_normal([2, 4, 5, 3]).astype(np.float32)
  for i, gradient in enumerate(_gradients(inputs, upstream)):
    direction = np.random.default_rng(i).standard_normal(inputs[i].shape)
    ends = []
    for step in (1e-3, -1e-3):
      moved = [a.astype(np.float64) for a in inputs]
      moved[i] += step * direction
      ends.append((plain(*moved, 2) * upstream).sum())
    np.testing.assert_allclose((gradient * direction).numpy().sum(), (ends[0] - ends[1]) / 2e-3,
                               rtol=1e-4, atol=1e-3)


def test_xla_and_sizes_unknown_while_tracing_give_the_same():
  inputs = _inputs()
  expected = _convolve(inputs)
  specs = [tf.TensorSpec([None, None, None, a.shape[-1]]) for a in inputs[:3]]
  run = tf.function(lambda *a: _convolve(a), autograph=False,
                    input_signature=[*specs, tf.TensorSpec(inputs[3].shape)])
  np.testing.assert_allclose(run(*inputs), expected, atol=1e-5)
  upstream = tf.ones([2, 4, 5, 3])
  compiled = tf.function(lambda *a: _gradients(a, upstream), autograph=False, jit_compile=True)
  for found, gradient in zip(compiled(*inputs), _gradients(inputs, upstream)):
    np.testing.assert_allclose(found, gradient, atol=1e-4)


# === The layer ===


def _layer(**options):
  return DeformableConvolution(16, 3, guide_channels=5, **options)


def _maps(dtype=tf.float32):
  return (tf.cast(tf.random.stateless_normal([2, 4, 5, channels], [0, channels]), dtype)
          for channels in (16, 5))


def test_a_new_layer_is_a_convolution_with_half_the_kernel():
  layer, (x, guide) = _layer(), _maps()
  np.testing.assert_allclose(layer(x, guide), tf.nn.conv2d(x, layer.kernel / 2, 1, 'SAME'),
                             atol=1e-5)


def test_offsets_come_before_the_logits_of_weights():
  layer, (x, guide) = _layer(), _maps()
  for i, variable in enumerate((layer.offsets.kernel, layer.offsets.bias, layer.bias)):
    variable.assign(0.5 * tf.random.stateless_normal(variable.shape, [3, i]))
  predicted = tf.nn.conv2d(guide, layer.offsets.kernel, 1, 'SAME') + layer.offsets.bias
  predicted = predicted.numpy()
  expected = plain(x.numpy(), predicted[..., :144], 1 / (1 + np.exp(-predicted[..., 144:])),
                   layer.kernel.numpy(), 8)
  np.testing.assert_allclose(layer(x, guide), expected + layer.bias.numpy(), atol=1e-4)


def test_every_variable_of_a_new_layer_gets_a_gradient():
  layer, (x, guide) = _layer(), _maps()
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x, guide)**2)
  assert len(layer.trainable_variables) == 4
  for variable, gradient in zip(layer.trainable_variables,
                                tape.gradient(loss, layer.trainable_variables)):
    assert np.any(gradient), variable.name


def test_mixed_precision_samples_in_float32():
  with policy('mixed_bfloat16'):
    layer = _layer()
  assert {v.dtype for v in layer.variables} == {tf.float32}
  layer.offsets.bias.assign(tf.random.stateless_normal(layer.offsets.bias.shape, [1, 2]))
  exact = _layer()
  for variable, value in zip(exact.variables, layer.variables):
    variable.assign(value)
  x, guide = _maps(tf.bfloat16)
  found = layer(x, guide)
  assert found.dtype == tf.bfloat16
  expected = exact(tf.cast(x, tf.float32), tf.cast(guide, tf.float32))
  assert np.abs(tf.cast(found, tf.float32) - expected).max() < 0.03 * np.abs(expected).max()


def test_channels_divide_into_groups():
  with pytest.raises(ConfigError, match='16 channels do not divide into 5 groups'):
    _layer(groups=5)
