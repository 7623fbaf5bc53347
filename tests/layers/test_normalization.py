"""Layer, group and frozen batch norms equal the published definitions, in any rank."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution, SeparableConvolution
from deeplab_tf.layers.normalization import BatchNorm, FrozenBatchNorm, GroupNorm, LayerNorm
from deeplab_tf.layers.residual_block import BlockOptions, BottleneckBlock
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.training import precision
from deeplab_tf.user_errors import ConfigError

EPSILON = 1e-2
SHAPES = ([5, 12], [2, 7, 12], [2, 5, 3, 12], [2, 3, 1, 5, 12])


def _layer_norm(x, gamma, beta):
  """torch.nn.functional.layer_norm over the last axis, and its normalized input and deviation."""
  mean = x.mean(-1, keepdims=True)
  deviation = np.sqrt(((x - mean)**2).mean(-1, keepdims=True) + EPSILON)
  return (x - mean) / deviation * gamma + beta, (x - mean) / deviation, deviation


def _group_norm(x, gamma, beta, groups):
  """torch.nn.functional.group_norm, with channels moved in front of the positions and back."""
  first = np.moveaxis(x, -1, 1)
  rows = first.reshape(x.shape[0], groups, -1)
  normalized, _, deviation = _layer_norm(rows, 1.0, 0.0)
  back = np.moveaxis(normalized.reshape(first.shape), 1, -1)
  return back * gamma + beta, normalized, deviation


def _set(layer, seed=0):
  rng = np.random.default_rng(seed)
  values = [rng.normal(1.0, 0.5, v.shape) for v in (layer.gamma, layer.beta)]
  layer.gamma.assign(values[0])
  layer.beta.assign(values[1])
  return values


def _input(shape, seed=1):
  return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


def _gradient_of_rows(upstream, normalized, deviation):
  """The gradient of a normalization of rows with respect to its input."""
  return (upstream - upstream.mean(-1, keepdims=True)
          - normalized * (upstream * normalized).mean(-1, keepdims=True)) / deviation


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_layer_norm_and_its_gradients_are_the_equations(shape):
  layer = LayerNorm(12, EPSILON)
  gamma, beta = _set(layer)
  x, weights = _input(shape), _input(shape, 2).astype(np.float64)
  expected, normalized, deviation = _layer_norm(x.astype(np.float64), gamma, beta)
  with tf.GradientTape() as tape:
    inputs = tf.constant(x)
    tape.watch(inputs)
    y = layer(inputs)
    loss = tf.reduce_sum(y * weights.astype(np.float32))
  np.testing.assert_allclose(y, expected, atol=2e-5)
  gradients = tape.gradient(loss, [inputs, layer.gamma, layer.beta])
  axes = tuple(range(x.ndim - 1))
  for actual, wanted in zip(gradients, (_gradient_of_rows(weights * gamma, normalized, deviation),
                                        (weights * normalized).sum(axes), weights.sum(axes))):
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('groups', [1, 3, 12])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_group_norm_and_its_gradient_are_those_of_pytorch(shape, groups):
  layer = GroupNorm(12, groups, EPSILON)
  gamma, beta = _set(layer)
  x, weights = _input(shape), _input(shape, 2).astype(np.float64)
  expected, normalized, deviation = _group_norm(x.astype(np.float64), gamma, beta, groups)
  with tf.GradientTape() as tape:
    inputs = tf.constant(x)
    tape.watch(inputs)
    y = layer(inputs)
    loss = tf.reduce_sum(y * weights.astype(np.float32))
  np.testing.assert_allclose(y, expected, atol=3e-5)
  upstream = np.moveaxis(weights * gamma, -1, 1)
  wanted = _gradient_of_rows(upstream.reshape(normalized.shape), normalized, deviation)
  wanted = np.moveaxis(wanted.reshape(upstream.shape), 1, -1)
  np.testing.assert_allclose(tape.gradient(loss, inputs), wanted, rtol=1e-3, atol=1e-4)


def test_groups_must_divide_the_channels():
  with pytest.raises(ConfigError, match='20 channels do not divide into 32 groups'):
    GroupNorm(20)


NORMS = {
    'layer': functools.partial(LayerNorm, epsilon=EPSILON),
    'group': functools.partial(GroupNorm, groups=3, epsilon=EPSILON),
    'frozen': functools.partial(FrozenBatchNorm, epsilon=EPSILON),
}


@pytest.mark.parametrize('name', NORMS)
def test_statistics_are_float32_in_half_precision(name):
  exact = NORMS[name](12)
  gamma_and_beta = _set(exact)
  # Squares and sums of these overflow in float16.
  x = tf.cast(_input([2, 40, 30, 12]) * 300.0 + 10000.0, tf.float16)
  if name == 'frozen':
    exact.moving_mean.assign(tf.fill([12], 10000.0))
    exact.moving_variance.assign(tf.fill([12], 90000.0))
  with precision.scope('FLOAT16'):
    half = NORMS[name](12)
  half.set_weights(exact.get_weights())
  assert {v.dtype for v in half.variables} == {tf.float32}
  y = half(x)
  assert y.dtype == tf.float16 and len(gamma_and_beta) == 2
  np.testing.assert_allclose(y, exact(tf.cast(x, tf.float32)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize('name', NORMS)
def test_sizes_may_be_unknown_and_xla_compiles(name):
  layer = NORMS[name](12)
  _set(layer)
  x = _input([2, 5, 7, 12])
  expected = layer(tf.constant(x)).numpy()
  unknown = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 12])])
  np.testing.assert_allclose(unknown(x), expected, atol=1e-5)

  @tf.function(jit_compile=True)
  def gradient(inputs):
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      y = layer(inputs, training=True)
      loss = tf.reduce_sum(y**3)
    return y, tape.gradient(loss, inputs)

  y, compiled = gradient(tf.constant(x))
  np.testing.assert_allclose(y, expected, atol=1e-5)
  np.testing.assert_allclose(compiled, gradient.python_function(tf.constant(x))[1], atol=1e-3)


def test_a_frozen_batch_norm_is_a_constant_affine_map():
  layer = FrozenBatchNorm(3, epsilon=EPSILON)
  values = [np.array(v, np.float32) for v in (
      [2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [1.0, -2.0, 3.0], [4.0, 0.25, 9.0])]
  layer.set_weights(values)
  gamma, beta, mean, variance = values
  scale = gamma / np.sqrt(variance + EPSILON)
  x = tf.constant(_input([2, 5, 4, 3]))
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = layer(x, training=True)
  np.testing.assert_allclose(y, x * scale + (beta - mean * scale), atol=1e-5)
  np.testing.assert_array_equal(layer(x), y)
  np.testing.assert_allclose(tape.gradient(y, x), np.broadcast_to(scale, x.shape), rtol=1e-5)
  for variable, value in zip(layer.variables, values):
    np.testing.assert_array_equal(variable, value)


def test_a_frozen_batch_norm_trains_nothing_and_reads_the_checkpoint_of_a_batch_norm(tmp_path):
  learning, frozen = (Convolution(3, 4, norm=norm) for norm in (BatchNorm, FrozenBatchNorm))
  assert list(variables_by_path(frozen)) == list(variables_by_path(learning))
  assert [v.name for v in frozen.trainable_variables] == [frozen.kernel.name]
  assert not any(v.trainable for v in frozen.norm.variables)
  # A norm with frozen statistics still trains its affine map.
  assert len(BatchNorm(4, frozen=True).trainable_variables) == 2
  _set(learning.norm)
  learning.norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
  prefix = tf.train.Checkpoint(model=learning).save(str(tmp_path / 'ckpt'))
  tf.train.Checkpoint(model=frozen).restore(prefix).assert_consumed()
  for variable, other in zip(frozen.norm.variables, learning.norm.variables):
    np.testing.assert_array_equal(variable, other)


@pytest.mark.parametrize('name', NORMS)
def test_a_norm_is_an_argument_of_layers(name):
  keras.utils.set_random_seed(0)
  norm = NORMS[name]
  layers = (Convolution(6, 12, 3, stride=2, norm=norm, activation='relu'),
            SeparableConvolution(12, 24, 3, norm=norm),
            BottleneckBlock(24, (12, 12, 48), norm, BlockOptions(activation='gelu')))
  assert set(variables_by_path(layers[0])) >= {'kernel', 'norm/gamma', 'norm/beta'}
  assert layers[0].bias is None
  variables = [v for layer in layers for v in layer.trainable_variables]
  for layer in layers:  # The last norm of a branch starts at 0, and nothing would reach inside.
    for path, variable in variables_by_path(layer).items():
      if path.endswith('gamma'):
        variable.assign(tf.ones_like(variable))
  with tf.GradientTape() as tape:
    x = tf.constant(_input([2, 9, 11, 6]))
    for layer in layers:
      x = layer(x, training=True)
    loss = tf.reduce_sum(x * _input(x.shape, 3))
  assert x.shape == (2, 5, 6, 48)
  for variable, gradient in zip(variables, tape.gradient(loss, variables)):
    assert gradient is not None and np.any(gradient), variable.name
