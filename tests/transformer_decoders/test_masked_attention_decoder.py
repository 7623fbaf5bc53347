"""Mask2Former's transformer decoder: predictions, attention masks, projections, initial weights."""

import numpy as np
import plain_decoder
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.attention_records import recording
from deeplab_tf.layers.masked_decoder import (
    CrossAttention,
    MaskedDecoderOptions,
    Memory,
    attention_mask,
)
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.training import precision
from deeplab_tf.transformer_decoders.masked_attention_decoder import (
    MaskedAttentionDecoder,
    QueryFeatures,
    Scales,
)

_CHANNELS, _MASK_CHANNELS, _QUERIES, _CLASSES = 16, 12, 6, 5
# Odd sizes: those of stride 32, 16, 8 and 4.
_SIZES = [(2, 3), (3, 5), (6, 9), (11, 18)]


def _decoder(num_layers=4, feature_channels=_CHANNELS, **options):
  keras.utils.set_random_seed(0)
  layer = {name: options.pop(name) for name in MaskedDecoderOptions._fields if name in options}
  return MaskedAttentionDecoder(
      feature_channels=feature_channels, mask_channels=_MASK_CHANNELS, num_queries=_QUERIES,
      num_classes=_CLASSES, num_layers=num_layers,
      options=MaskedDecoderOptions(_CHANNELS, 24, 4, **layer), **options)


def _inputs(feature_channels=_CHANNELS):
  *levels, mask_features = (
      tf.random.stateless_normal([2, *size, channels], [0, i]) for i, (size, channels) in enumerate(
          zip(_SIZES, [feature_channels] * 3 + [_MASK_CHANNELS])))
  return levels, mask_features


# What queries read in each layer: places of the levels, first the coarsest.
READ = {Scales.ALTERNATING: [[0], [1], [2], [0]], Scales.CONCATENATED: [[0, 1, 2]] * 4,
        Scales.STRIDE_32: [[0]] * 4, Scales.STRIDE_16: [[1]] * 4, Scales.STRIDE_8: [[2]] * 4}
# Options that do not interact are tested together.
FORMS = {
    'as published': {},
    'pre-norm': {'pre_norm': True},
    'full attention': {'cross_attention': CrossAttention.FULL},
    'SMCA, stride 8': {'cross_attention': CrossAttention.SMCA, 'scales': Scales.STRIDE_8},
    'mask pooling, zero queries': {'cross_attention': CrossAttention.MASK_POOLING,
                                   'query_features': QueryFeatures.ZERO},
    'queries without loss, stride 16': {'query_features': QueryFeatures.LEARNED_WITHOUT_LOSS,
                                        'scales': Scales.STRIDE_16},
    'naive multi-scale': {'scales': Scales.CONCATENATED},
    'stride 32, self-attention first': {'scales': Scales.STRIDE_32, 'self_attention_first': True},
}


@pytest.mark.parametrize('form', FORMS)
def test_layers_and_predictions_are_the_equations(form):
  decoder, (levels, mask_features) = _decoder(**FORMS[form]), _inputs()
  chosen = decoder.scales.select(levels, None)
  values, keys = [], []
  for i, level in enumerate(level for level in levels if any(level is own for own in chosen)):
    value = np.reshape(level, [2, -1, _CHANNELS])
    if decoder.level_embedding is not None:
      value = value + decoder.level_embedding[i].numpy()
    values.append(value)
    keys.append(value + plain_decoder.sine_embedding(*level.shape[1:3], _CHANNELS))
  queries = np.zeros((2, _QUERIES, _CHANNELS))
  if decoder.query_features is not None:
    queries = queries + decoder.query_features.numpy()
  has_masks = decoder.layers[0].pools_masks or 'cross_attention' not in FORMS[form]
  expected = []
  if FORMS[form].get('query_features') is None:
    expected.append(plain_decoder.heads(decoder, queries, mask_features))
  read = READ[decoder.scales]
  first = min(place for places in read for place in places)
  for layer, places in zip(decoder.layers, read):
    sizes = [_SIZES[place] for place in places]
    memory = Memory(*(np.concatenate([own[place - first] for place in places], 1)
                      for own in (values, keys)), sizes)
    blocked = None
    if has_masks and expected:
      # The mask logits themselves are resized, by TensorFlow's own kernel.
      logits = np.concatenate([np.reshape(tf.image.resize(expected[-1][1], size), [2, -1, _QUERIES])
                               for size in sizes], 1)
      blocked = attention_mask(np.swapaxes(logits, 1, 2)).numpy()
    queries = plain_decoder.decoder_layer(layer, queries, decoder.query_positions, memory, blocked)
    expected.append(plain_decoder.heads(decoder, queries, mask_features))
  found = decoder(chosen, mask_features, all_predictions=True)
  assert len(found) == len(expected) == 5 - decoder.first_prediction
  for prediction, (class_logits, mask_logits) in zip(found, expected):
    np.testing.assert_allclose(prediction['class_logits'], class_logits, atol=2e-5)
    np.testing.assert_allclose(prediction['mask_logits'], mask_logits, atol=1e-4)
  (last,) = decoder(chosen, mask_features)
  np.testing.assert_allclose(last['mask_logits'], expected[-1][1], atol=1e-4)


def test_variables_exist_only_where_they_are_used():
  published = set(variables_by_path(_decoder()))

  def difference(**options):
    return published ^ set(variables_by_path(_decoder(**options)))

  assert {'query_features', 'query_positions', 'level_embedding'} <= published
  assert difference(scales=Scales.CONCATENATED, cross_attention=CrossAttention.FULL) == set()
  assert difference(scales=Scales.STRIDE_16) == {'level_embedding'}
  assert difference(query_features=QueryFeatures.LEARNED_WITHOUT_LOSS) == set()
  assert difference(query_features=QueryFeatures.ZERO) == {'query_features'}
  assert {path.split('/')[-2] for path in difference(
      cross_attention=CrossAttention.MASK_POOLING)} == {'query', 'key'}
  assert {path.split('/')[2] for path in difference(
      cross_attention=CrossAttention.SMCA)} == {'modulation'}


def test_features_are_those_of_one_stride_or_of_all():
  levels, coarsest = ['32', '16', '8'], 'backbone'
  assert {scales.name: scales.select(levels, coarsest) for scales in Scales} == {
      'ALTERNATING': levels, 'CONCATENATED': levels, 'STRIDE_32': ['32'], 'STRIDE_16': ['16'],
      'STRIDE_8': ['8'], 'BACKBONE_STRIDE_32': ['backbone']}


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


def test_masks_that_nothing_reads_are_not_computed():
  levels, mask_features = _inputs()
  decoder = _decoder(cross_attention=CrossAttention.FULL)
  traced = tf.function(decoder, autograph=False).get_concrete_function(levels, mask_features)
  products = [operation.outputs[0].shape for operation in traced.graph.get_operations()
              if operation.type.startswith('BatchMatMul')]
  assert [shape for shape in products if _QUERIES in shape[-2:]
          and _SIZES[3][0] * _SIZES[3][1] in shape[-2:]] == [(2, 11 * 18, _QUERIES)]


@pytest.mark.slow
@pytest.mark.parametrize('kind', [CrossAttention.SMCA, CrossAttention.MASK_POOLING])
def test_xla_compiles_a_training(kind):
  levels, mask_features = _inputs()
  decoder = _decoder(num_layers=2, cross_attention=kind, scales=Scales.CONCATENATED,
                     dropout_rate=0.2, query_features=QueryFeatures.ZERO, recompute_layers=True)

  def step():
    with randomness.seeded(tf.constant([0, 1])), tf.GradientTape() as tape:
      predictions = decoder(levels, mask_features, training=True)
      loss = tf.add_n([tf.reduce_mean(x**2) for p in predictions for x in p.values()])
    return loss, tape.gradient(loss, decoder.query_positions)

  plain, compiled = (tf.function(step, autograph=False, jit_compile=jit)() for jit in (False, True))
  for expected, found in zip(plain, compiled):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_masks_that_queries_read_inside_have_no_gradient():
  decoder, (levels, mask_features) = _decoder(), _inputs()
  with tf.GradientTape() as tape:
    tape.watch(mask_features)
    loss = tf.reduce_sum(decoder(levels, mask_features, training=True)[-1]['class_logits'])
  gradients = tape.gradient(loss, [mask_features, *(layer.kernel for layer in decoder.mask_head)])
  assert gradients == [None] * 4


@pytest.mark.parametrize('options', [
    {}, {'pre_norm': True},
    {'num_layers': 2, 'dropout_rate': 0.3, 'query_features': QueryFeatures.ZERO,
     'cross_attention': CrossAttention.SMCA, 'scales': Scales.CONCATENATED},
], ids=['post-norm', 'pre-norm', 'dropout'])
def test_recomputation_gives_the_same_gradients(options):
  gradients, (levels, mask_features) = [], _inputs()
  for recomputes in (False, True):
    decoder = _decoder(recompute_layers=recomputes, **options)

    @tf.function(autograph=False)
    def step(decoder=decoder):
      with randomness.seeded(tf.constant([0, 1])), tf.GradientTape() as tape:
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
