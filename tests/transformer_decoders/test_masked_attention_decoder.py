"""Mask2Former's transformer decoder: predictions, attention masks, projections, initial weights."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import recording
from deeplab_tf.layers.masked_decoder import MaskedDecoderOptions, Memory, attention_mask
from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.training import precision
from deeplab_tf.transformer_decoders.masked_attention_decoder import MaskedAttentionDecoder

_CHANNELS, _MASK_CHANNELS, _QUERIES, _CLASSES = 16, 12, 6, 5
# Odd sizes: those of stride 32, 16, 8 and 4.
_SIZES = [(2, 3), (3, 5), (6, 9), (11, 18)]


def _decoder(num_layers=4, feature_channels=_CHANNELS, pre_norm=False, **options):
  keras.utils.set_random_seed(0)
  return MaskedAttentionDecoder(
      feature_channels=feature_channels, mask_channels=_MASK_CHANNELS, num_queries=_QUERIES,
      num_classes=_CLASSES, num_layers=num_layers,
      options=MaskedDecoderOptions(_CHANNELS, 24, 4, pre_norm), **options)


def _inputs(feature_channels=_CHANNELS):
  *levels, mask_features = (
      tf.random.stateless_normal([2, *size, channels], [0, i]) for i, (size, channels) in enumerate(
          zip(_SIZES, [feature_channels] * 3 + [_MASK_CHANNELS])))
  return levels, mask_features


def _heads(decoder, queries, mask_features):
  """Returns class logits and mask logits [batch, h, w, queries], by the definition."""
  z = decoder.norm(queries)
  embedding = z
  for layer in decoder.mask_head:
    embedding = layer(embedding)
  return decoder.class_head(z), tf.einsum('bqc,bhwc->bhwq', embedding, mask_features)


@pytest.mark.parametrize('pre_norm', [False, True], ids=['post-norm', 'pre-norm'])
def test_a_query_reads_inside_its_last_mask_at_strides_32_16_8_in_turn(pre_norm):
  decoder, (levels, mask_features) = _decoder(pre_norm=pre_norm), _inputs()
  memories = []
  for i, level in enumerate(levels):
    values = tf.reshape(level + decoder.level_embedding[i], [2, -1, _CHANNELS])
    position = sine_position_embedding(*_SIZES[i], _CHANNELS)
    memories.append(Memory(values, values + tf.reshape(position, [-1, _CHANNELS]), _SIZES[i]))
  queries = tf.tile(decoder.query_features[None], [2, 1, 1])
  expected = [_heads(decoder, queries, mask_features)]
  for i, layer in enumerate(decoder.layers):
    # The mask logits themselves are resized, by TensorFlow's own kernel.
    logits = tf.image.resize(expected[-1][1], _SIZES[i % 3], antialias=False)
    logits = tf.transpose(tf.reshape(logits, [2, -1, _QUERIES]), [0, 2, 1])
    queries = layer(queries, decoder.query_positions, memories[i % 3], attention_mask(logits))
    expected.append(_heads(decoder, queries, mask_features))
  found = decoder(levels, mask_features, all_predictions=True)
  assert len(found) == len(expected) == 5
  for prediction, (class_logits, mask_logits) in zip(found, expected):
    np.testing.assert_allclose(prediction['class_logits'], class_logits, atol=1e-5)
    np.testing.assert_allclose(prediction['mask_logits'], mask_logits, atol=1e-4)


def test_inference_returns_the_last_prediction_and_training_all():
  decoder, inputs = _decoder(), _inputs()
  (last,) = decoder(*inputs)
  assert last['class_logits'].shape == (2, _QUERIES, _CLASSES + 1)
  assert last['mask_logits'].shape == (2, *_SIZES[3], _QUERIES)
  every = decoder(*inputs, training=True)
  assert len(every) == 5
  for name in last:
    np.testing.assert_allclose(every[-1][name], last[name], atol=1e-5)
    assert np.abs(every[0][name] - every[-1][name]).max() > 0.1


def test_its_attention_is_recorded_with_the_sizes_of_the_maps():
  decoder, inputs = _decoder(), _inputs()
  with recording() as records:
    decoder(*inputs)
  assert [r.key_size for r in records] == [
      _SIZES[0], None, _SIZES[1], None, _SIZES[2], None, _SIZES[0], None]


def test_masks_that_queries_read_inside_have_no_gradient():
  decoder, (levels, mask_features) = _decoder(), _inputs()
  with tf.GradientTape() as tape:
    tape.watch(mask_features)
    loss = tf.reduce_sum(decoder(levels, mask_features, training=True)[-1]['class_logits'])
  gradients = tape.gradient(loss, [mask_features, *(layer.kernel for layer in decoder.mask_head)])
  assert gradients == [None] * 4


@pytest.mark.parametrize('pre_norm', [False, True], ids=['post-norm', 'pre-norm'])
def test_recomputation_gives_the_same_gradients(pre_norm):
  gradients, (levels, mask_features) = [], _inputs()
  for recomputes in (False, True):
    decoder = _decoder(pre_norm=pre_norm, recompute_layers=recomputes)

    @tf.function(autograph=False)
    def step(decoder=decoder):
      with tf.GradientTape() as tape:
        tape.watch([levels, mask_features])
        predictions = decoder(levels, mask_features, training=True)
        loss = tf.add_n([tf.reduce_sum(x**2) for p in predictions for x in p.values()])
      return tape.gradient(loss, [levels, mask_features, decoder.trainable_variables])

    gradients.append(tf.nest.flatten(step()))
  # Keys' biases change nothing: their gradients are rounding errors.
  largest = max(np.abs(gradient).max() for gradient in gradients[0])
  for kept, recomputed in zip(*gradients):
    np.testing.assert_allclose(kept, recomputed, rtol=1e-3, atol=1e-6 * largest)


def test_levels_are_projected_where_channels_differ_or_on_request():
  inputs = _inputs()
  plain, forced = _decoder(), _decoder(force_input_projections=True)
  assert plain.input_projections == []
  assert _decoder(feature_channels=20).input_projections[0].kernel.shape == (1, 1, 20, _CHANNELS)
  assert len(forced.input_projections) == 3
  ours = variables_by_path(plain)
  for path, variable in variables_by_path(forced).items():
    if path in ours:
      variable.assign(ours[path])
    elif path.endswith('kernel'):
      assert np.abs(variable).max() <= (3 / _CHANNELS)**0.5
      variable.assign(2 * np.eye(_CHANNELS)[None, None])
    else:
      assert path.startswith('input_projections/') and not np.any(variable)
  doubled = plain([2 * level for level in inputs[0]], inputs[1])
  np.testing.assert_allclose(forced(*inputs)[0]['mask_logits'], doubled[0]['mask_logits'],
                             atol=1e-4)


def test_sizes_that_are_unknown_while_tracing_give_the_same():
  decoder, (levels, mask_features) = _decoder(), _inputs()
  run = tf.function(decoder, autograph=False, input_signature=[
      [tf.TensorSpec([None, None, None, _CHANNELS])] * 3,
      tf.TensorSpec([None, None, None, _MASK_CHANNELS])])
  (expected,), (found,) = decoder(levels, mask_features), run(levels, mask_features)
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_mask_logits_are_float32_in_mixed_precision():
  levels, mask_features = _inputs()
  with precision.scope('BFLOAT16'):
    decoder = _decoder(num_layers=1)
  assert {v.dtype for v in decoder.variables} == {tf.float32}
  first, last = decoder(levels, mask_features, all_predictions=True)
  assert {x.dtype for p in (first, last) for x in p.values()} == {tf.float32}
  expected = _decoder(num_layers=1)(levels, mask_features, all_predictions=True)
  for name, value in expected[0].items():
    np.testing.assert_allclose(first[name], value, atol=0.03 * np.abs(value).max())


def test_initial_weights_are_pytorchs():
  keras.utils.set_random_seed(0)
  decoder = MaskedAttentionDecoder(
      feature_channels=64, mask_channels=64, num_queries=100, num_classes=63, num_layers=1,
      options=MaskedDecoderOptions(64, 8, 8))
  for embedding in (decoder.query_features, decoder.query_positions):
    np.testing.assert_allclose(np.std(embedding), 1, atol=0.05)
  assert not np.array_equal(decoder.query_features, decoder.query_positions)
  assert 0.8 < np.std(decoder.level_embedding) < 1.2
  for head in (decoder.class_head, *decoder.mask_head):
    for variable in (head.kernel, head.bias):
      assert 0.9 / 8 < np.abs(variable).max() <= 1 / 8
