"""Multi-head attention against its equation in numpy; blocked keys, precision, initial weights."""

import numpy as np
import plain_decoder
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.attention_records import recording
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.multi_head_attention import MultiHeadAttention
from deeplab_tf.training import precision
from deeplab_tf.user_errors import ConfigError

_CHANNELS, _HEADS = 12, 3


def _layer(dropout_rate=0.0):
  keras.utils.set_random_seed(0)
  layer = MultiHeadAttention(_CHANNELS, _HEADS, dropout_rate)
  for i, variable in enumerate(layer.variables):  # Biases too.
    variable.assign(0.3 * tf.random.stateless_normal(variable.shape, [0, i]))
  return layer


def _inputs():
  return [tf.random.stateless_normal([2, n, _CHANNELS], [1, i]) for i, n in enumerate((4, 7, 7))]


def _blocked():
  blocked = np.random.default_rng(0).random((2, 4, 7)) < 0.5
  blocked[..., 0] = False
  return blocked


@pytest.mark.parametrize('blocked', [None, _blocked()], ids=['all keys', 'blocked keys'])
def test_it_is_the_papers_equation(blocked):
  layer, inputs = _layer(), _inputs()
  np.testing.assert_allclose(layer(*inputs, blocked),
                             plain_decoder.attention(layer, *inputs, blocked),
                             rtol=1e-4, atol=1e-4)


def test_a_modulation_multiplies_the_weights_before_they_are_normalized():
  layer, inputs = _layer(), _inputs()
  modulation = np.random.default_rng(1).random((2, _HEADS, 4, 7))
  found = layer(*inputs, log_modulation=tf.constant(np.log(modulation), tf.float32))
  expected = plain_decoder.attention(layer, *inputs, modulation=modulation)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert np.abs(found - layer(*inputs)).max() > 0.1


def test_weights_are_dropped_after_the_softmax_in_training():
  layer, inputs, seed = _layer(0.4), _inputs(), tf.constant([2, 3])
  with randomness.seeded(seed):
    kept = dropout(tf.ones([2, _HEADS, 4, 7]), 0.4, True).numpy()
  with randomness.seeded(seed), recording() as records:
    found = layer(*inputs, training=True)
  expected = plain_decoder.attention(layer, *inputs, drop=lambda weights: weights * kept)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  # Records are of the attention itself.
  np.testing.assert_allclose(tf.reduce_sum(records[0].weights, -1), 1, rtol=1e-5)
  np.testing.assert_array_equal(layer(*inputs), _layer()(*inputs))


def test_blocked_keys_have_no_weight_and_no_gradient():
  layer, (queries, keys, values) = _layer(), _inputs()
  blocked = np.zeros((2, 4, 7), bool)
  blocked[:, :, 5] = True
  with tf.GradientTape() as tape:
    tape.watch([keys, values])
    output = layer(queries, keys, values, blocked)
  for gradient in tape.gradient(output, [keys, values]):
    assert not np.any(gradient[:, 5]) and np.all(np.abs(gradient[:, :5]).max(-1) > 0)


def test_a_query_without_keys_reads_all_of_them_equally():
  layer, (queries, keys, values) = _layer(), _inputs()
  blocked = np.zeros((2, 4, 7), bool)
  blocked[1, 2] = True
  output = layer(queries, keys, values, blocked)
  mean = layer.output_projection(layer.value(tf.reduce_mean(values[1:], axis=1, keepdims=True)))
  np.testing.assert_allclose(output[1, 2], mean[0, 0], rtol=1e-4, atol=1e-5)


def test_it_reports_its_weights():
  layer, inputs = _layer(), _inputs()
  with recording() as records:
    layer(*inputs, _blocked(), key_size=(1, 7))
  (record,) = records
  assert record.layer is layer and record.key_size == (1, 7)
  assert [x.shape for x in record.inputs] == [(2, _HEADS, n, 4) for n in (4, 7, 7)]
  np.testing.assert_allclose(tf.reduce_sum(record.weights, -1), 1, rtol=1e-5)
  assert np.array_equal(record.weights == 0, np.repeat(_blocked()[:, None], _HEADS, 1))


def test_the_softmax_is_float32_in_mixed_precision():
  expected = _layer()(*_inputs(), _blocked())
  with precision.scope('BFLOAT16'):
    layer = _layer()
  with recording() as records:
    output = layer(*(tf.cast(x, tf.bfloat16) for x in _inputs()), _blocked())
  assert output.dtype == tf.bfloat16 and records[0].weights.dtype == tf.float32
  np.testing.assert_allclose(tf.reduce_sum(records[0].weights, -1), 1, rtol=1e-5)
  np.testing.assert_allclose(tf.cast(output, tf.float32), expected,
                             atol=0.03 * np.abs(expected).max())


def test_initial_weights_are_pytorchs():
  keras.utils.set_random_seed(0)
  layer = MultiHeadAttention(64, 8)
  # Xavier of a matrix [3 * 64, 64] and of [64, 64].
  bounds = [(6 / (4 * 64))**0.5] * 3 + [(6 / (2 * 64))**0.5]
  projections = (layer.query, layer.key, layer.value, layer.output_projection)
  kernels = [projection.kernel.numpy() for projection in projections]
  for kernel, bound in zip(kernels, bounds):
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.03)
  assert not np.array_equal(kernels[0], kernels[1])
  assert not any(np.any(projection.bias) for projection in projections)
  assert len(layer.trainable_variables) == 8


def test_channels_that_do_not_divide_into_heads_are_one_line():
  with pytest.raises(ConfigError, match='12 channels do not divide into 5 heads'):
    MultiHeadAttention(12, 5)
