"""The Gaussian of SMCA against its equation in numpy; initial values, several maps, precision."""

import numpy as np
import plain_decoder
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.spatial_modulation import SpatialModulation
from deeplab_tf.training import precision

_CHANNELS, _HEADS = 12, 3
_SIZES = [(2, 3), (5, 4)]


def _layer(noise=0.3):
  keras.utils.set_random_seed(0)
  layer = SpatialModulation(_CHANNELS, _HEADS)
  for i, variable in enumerate(layer.variables):
    variable.assign_add(noise * tf.random.stateless_normal(variable.shape, [0, i]))
  return layer


def _queries():
  return tf.random.stateless_normal([2, 4, _CHANNELS], [1, 0])


def test_it_is_the_equation():
  layer = _layer()
  expected = plain_decoder.gaussian(layer, _queries(), _SIZES)
  assert expected.shape == (2, _HEADS, 4, 26) and expected.std() > 0.1
  found = layer(_queries(), _SIZES).numpy()
  np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=1e-5)
  is_small = (expected > 1e-300) & (expected < 1e-5)
  np.testing.assert_allclose(found[is_small], np.log(expected[is_small]), rtol=1e-4)


def test_maps_of_any_resolution_have_the_same_gaussian():
  layer = _layer()
  # The pixel in the middle of three by three is where the middle of one pixel is.
  coarse, fine = layer(_queries(), [(2, 1)]), layer(_queries(), [(6, 3)])
  np.testing.assert_allclose(coarse[..., 0], fine[..., 4], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(coarse[..., 1], fine[..., 13], rtol=1e-4, atol=1e-5)


def test_at_first_all_heads_have_one_center_and_a_quarter_of_the_map():
  found = np.exp(_layer(noise=0)(_queries(), [(400, 400)]).numpy()).reshape(2, _HEADS, 4, 400, 400)
  np.testing.assert_array_equal(found, np.repeat(found[:, :1], _HEADS, 1))
  assert len(np.unique(found[:, 0].reshape(8, -1).argmax(-1))) == 8
  # exp(-1/2) is one standard deviation from the center.
  center = found[0, 0, 0].max(axis=1).argmax()
  beyond = center + (100 if center < 200 else -100)
  np.testing.assert_allclose(found[0, 0, 0].max(axis=1)[beyond], np.exp(-0.5), atol=0.01)


def test_a_scale_of_zero_and_a_far_center_stay_finite():
  layer = _layer()
  layer.offsets_and_scales.kernel.assign(tf.zeros([_CHANNELS, 4 * _HEADS]))
  layer.offsets_and_scales.bias.assign([50.0, 0, 0, 0] * _HEADS)
  with tf.GradientTape() as tape:
    weights = tf.nn.softmax(layer(_queries(), _SIZES))
    loss = tf.reduce_sum(weights**2)
  assert np.isfinite(weights).all()
  assert all(np.isfinite(g).all() for g in tape.gradient(loss, layer.trainable_variables))


def test_a_gradient_reaches_every_variable_of_a_new_layer():
  layer = _layer(noise=0)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(_queries(), _SIZES)**2)
  for gradient in tape.gradient(loss, layer.trainable_variables):
    assert np.abs(gradient).max() > 0
  assert len(layer.trainable_variables) == 6


def test_it_is_float32_in_mixed_precision():
  expected = _layer()(_queries(), _SIZES)
  with precision.scope('BFLOAT16'):
    layer = _layer()
  found = layer(tf.cast(_queries(), tf.bfloat16), _SIZES)
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_sizes_that_are_unknown_while_tracing_give_the_same():
  layer = _layer()
  run = tf.function(lambda x: layer(x, [(tf.shape(x)[1], tf.shape(x)[1] + 1)]), autograph=False,
                    input_signature=[tf.TensorSpec([None, 4, _CHANNELS])])
  np.testing.assert_allclose(run(_queries()), layer(_queries(), [(4, 5)]), rtol=1e-5, atol=1e-5)
