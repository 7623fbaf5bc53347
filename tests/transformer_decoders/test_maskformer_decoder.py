"""MaskFormer's transformer decoder against a plain numpy version of the whole, with dropout."""

import numpy as np
import plain_decoder
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.masked_decoder import CrossAttention, MaskedDecoderOptions
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.transformer_decoders.masked_attention_decoder import (
    MaskedAttentionDecoder,
    QueryFeatures,
    Scales,
)

_CHANNELS, _QUERIES, _SIZE = 16, 6, (3, 5)


def _decoder(feature_channels=20):
  keras.utils.set_random_seed(0)
  decoder = MaskedAttentionDecoder(
      feature_channels=feature_channels, mask_channels=12, num_queries=_QUERIES, num_classes=5,
      num_layers=2, scales=Scales.BACKBONE_STRIDE_32, query_features=QueryFeatures.ZERO,
      options=MaskedDecoderOptions(_CHANNELS, 24, 4, cross_attention=CrossAttention.FULL,
                                   self_attention_first=True, dropout_rate=0.1))
  for i, variable in enumerate(decoder.variables):  # Norms and biases, too.
    variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, [2, i]))
  return decoder


def _inputs(feature_channels=20):
  return (tf.random.stateless_normal([2, *_SIZE, feature_channels], [0, 0]),
          tf.random.stateless_normal([2, 11, 18, 12], [0, 1]))


def _plain(decoder, feature, mask_features, drop):
  """MaskFormer's decoder, step by step, without a function of the layers under test."""
  memory = np.reshape(plain_decoder.linear(decoder.input_projections[0], feature),
                      [2, -1, _CHANNELS])
  keys = memory + plain_decoder.sine_embedding(*_SIZE, _CHANNELS)
  positions = decoder.query_positions.numpy()
  x, predictions = np.zeros((2, _QUERIES, _CHANNELS)), []
  for layer in decoder.layers:
    change = plain_decoder.attention(layer.self_attention, x + positions, x + positions, x,
                                     drop=drop)
    x = plain_decoder.norm(layer.self_norm, x + drop(change))
    change = plain_decoder.attention(layer.cross_attention, x + positions, keys, memory, drop=drop)
    x = plain_decoder.norm(layer.cross_norm, x + drop(change))
    hidden = drop(np.maximum(plain_decoder.linear(layer.fc1, x), 0))
    x = plain_decoder.norm(layer.feed_forward_norm, x + drop(plain_decoder.linear(layer.fc2,
                                                                                  hidden)))
    # The heads read the normalized queries, and the next layer those without this norm.
    predictions.append(plain_decoder.heads(decoder, x, mask_features))
  return predictions


@pytest.mark.parametrize('training', [False, True], ids=['inference', 'training'])
def test_it_is_detrs_decoder_with_mask_embeddings(training):
  decoder, (feature, mask_features) = _decoder(), _inputs()

  def drop(x):
    return x * dropout(tf.ones(x.shape), 0.1, training).numpy()

  with randomness.seeded(tf.constant([0, 1])):
    expected = _plain(decoder, feature, mask_features, drop)
  with randomness.seeded(tf.constant([0, 1])):
    found = decoder(decoder.scales.select((), feature), mask_features, training=training,
                    all_predictions=True)
  assert len(found) == len(expected) == 2 and decoder.first_prediction == 1
  for prediction, (class_logits, mask_logits) in zip(found, expected):
    np.testing.assert_allclose(prediction['class_logits'], class_logits, atol=1e-5)
    np.testing.assert_allclose(prediction['mask_logits'], mask_logits, atol=1e-4)


def test_in_the_first_layer_self_attention_is_the_same_for_all_queries():
  decoder = _decoder()
  layer = decoder.layers[0]
  found = layer.exchange(tf.zeros([1, _QUERIES, _CHANNELS]), decoder.query_positions)
  of_biases = layer.self_attention.output_projection(layer.self_attention.value.bias[None, None])
  np.testing.assert_allclose(found, np.repeat(layer.self_norm(of_biases), _QUERIES, 1), atol=1e-5)


def test_its_variables_are_maskformers():
  paths = variables_by_path(_decoder())
  assert {path.split('/')[0] for path in paths} == {
      'query_positions', 'input_projections', 'layers', 'norm', 'class_head', 'mask_head'}
  assert [path for path in paths if path.startswith('input_projections')] == [
      'input_projections/0/kernel', 'input_projections/0/bias']
  # A feature that has the channels of the queries is read as it is.
  assert set(paths) - set(variables_by_path(_decoder(_CHANNELS))) == {
      'input_projections/0/kernel', 'input_projections/0/bias'}
