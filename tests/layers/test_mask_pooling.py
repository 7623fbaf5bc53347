"""Mask pooling against its equation in numpy, and as attention with equal weights."""

import numpy as np
import plain_decoder
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.mask_pooling import MaskPooling
from deeplab_tf.layers.multi_head_attention import MultiHeadAttention

_CHANNELS = 12


def _layer():
  keras.utils.set_random_seed(0)
  layer = MaskPooling(_CHANNELS)
  for i, variable in enumerate(layer.variables):
    variable.assign(0.3 * tf.random.stateless_normal(variable.shape, [0, i]))
  return layer


def _blocked():
  blocked = np.random.default_rng(0).random((2, 4, 7)) < 0.5
  blocked[..., 0] = False
  return blocked


def test_queries_read_the_mean_inside_their_masks():
  layer, features = _layer(), tf.random.stateless_normal([2, 7, _CHANNELS], [1, 0])
  np.testing.assert_allclose(layer(features, 4, _blocked()),
                             plain_decoder.mask_pooling(layer, features, _blocked()), atol=1e-5)


def test_without_masks_it_is_the_mean_of_all():
  layer, features = _layer(), tf.random.stateless_normal([2, 7, _CHANNELS], [1, 0])
  expected = plain_decoder.mask_pooling(layer, features, np.zeros((2, 4, 7), bool))
  np.testing.assert_allclose(layer(features, 4), expected, atol=1e-5)


def test_it_is_attention_whose_queries_and_keys_are_all_equal():
  layer, features = _layer(), tf.random.stateless_normal([2, 7, _CHANNELS], [1, 0])
  attention = MultiHeadAttention(_CHANNELS, 3)
  for projection in (attention.query, attention.key):
    projection.kernel.assign(tf.zeros_like(projection.kernel))
  for own, other in zip((layer.value, layer.output_projection),
                        (attention.value, attention.output_projection)):
    other.kernel.assign(own.kernel)
    other.bias.assign(own.bias)
  queries = tf.random.stateless_normal([2, 4, _CHANNELS], [1, 1])
  np.testing.assert_allclose(layer(features, 4, _blocked()),
                             attention(queries, features, features, _blocked()), atol=1e-5)
  assert len(layer.variables) == len(attention.variables) - 4
