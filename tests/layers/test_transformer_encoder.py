"""The transformer encoder of a feature map: its equation and dropout."""

import numpy as np
import plain_decoder
import plain_maps
import pytest
import tensorflow as tf

from deeplab_tf.layers import multi_head_attention, randomness, transformer_encoder
from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.layers.transformer_encoder import TransformerEncoder, TransformerEncoderLayer
from deeplab_tf.user_errors import ConfigError


def _layer(**options):
  layer = TransformerEncoderLayer(8, num_heads=2, feed_forward_channels=12, **options)
  plain_maps.randomize(layer)
  return layer


def _plain(layer, x, positions):
  """x = norm1(x + attention(x + p, x + p, x)), norm2(x + fc2(relu(fc1(x))))."""
  read = plain_decoder.attention(layer.attention, x + positions, x + positions, x)
  x = plain_decoder.norm(layer.norm1, x + read)
  hidden = np.maximum(plain_decoder.linear(layer.fc1, x), 0)
  return plain_decoder.norm(layer.norm2, x + plain_decoder.linear(layer.fc2, hidden))


def _map(*shape):
  return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_a_layer_is_its_equation():
  layer, x, positions = _layer(), _map(2, 6, 8), _map(6, 8)
  np.testing.assert_allclose(layer(x, positions), _plain(layer, x, positions), atol=1e-5)


def test_the_encoder_adds_sine_positions_of_the_map_in_every_layer():
  encoder = TransformerEncoder(5, 8, num_layers=2, num_heads=2, feed_forward_channels=12)
  plain_maps.randomize(encoder)
  feature = _map(2, 3, 4, 5)
  x = plain_maps.block(encoder.input_projection, feature).reshape(2, 12, 8)
  for layer in encoder.encoder_layers:
    x = _plain(layer, x, np.reshape(sine_position_embedding(3, 4, 8), [12, 8]))
  np.testing.assert_allclose(encoder(feature), x.reshape(2, 3, 4, 8), atol=2e-5)


def test_dropout_leaves_out_and_rescales_in_training_alone():
  layer, x, positions = _layer(dropout_rate=0.25), _map(2, 6, 8), _map(6, 8)

  def run(layer, seed, training=True):
    with randomness.seeded(tf.constant([0, seed])):
      return layer(x, positions, training=training).numpy()

  np.testing.assert_array_equal(run(layer, 1), run(layer, 1))
  assert np.abs(run(layer, 1) - run(layer, 2)).max() > 0.1
  np.testing.assert_array_equal(run(layer, 1, training=False), run(_layer(), 2))


def test_dropout_is_of_weights_hidden_channels_and_both_branches(monkeypatch):
  layer, x, positions, drawn = _layer(dropout_rate=0.25), _map(2, 6, 8), _map(6, 8), []

  def record(value, rate, training):
    assert rate == 0.25 and training
    drawn.append(value.shape.as_list())
    return value

  monkeypatch.setattr(transformer_encoder, 'dropout', record)
  monkeypatch.setattr(multi_head_attention, 'dropout', record)
  layer(x, positions, training=True)
  assert drawn == [[2, 2, 6, 6], [2, 6, 8], [2, 6, 12], [2, 6, 8]]


def test_channels_divide_into_heads():
  with pytest.raises(ConfigError, match='8 channels do not divide into 3 heads'):
    TransformerEncoderLayer(8, num_heads=3, feed_forward_channels=12)
