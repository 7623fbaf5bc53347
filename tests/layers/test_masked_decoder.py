"""The decoder layer of Mask2Former against PyTorch's recorded one and its equation in numpy."""

import numpy as np
import plain_decoder
import pytest
import shared
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.attention_records import recording
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.masked_decoder import (
    CrossAttention,
    MaskedDecoderLayer,
    MaskedDecoderOptions,
    Memory,
    attention_mask,
)
from deeplab_tf.layers.recomputation import recompute


def _layer(**options):
  keras.utils.set_random_seed(0)
  layer = MaskedDecoderLayer(MaskedDecoderOptions(8, 20, 2, **options))
  for i, variable in enumerate(layer.variables):
    variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, [2, i]))
  return layer


def _inputs(maps=1):
  queries, positions, values, embedding = (tf.random.stateless_normal(shape, [3, i]) for i, shape in
                                           enumerate(([2, 5, 8], [5, 8], [2, 6, 8], [6, 8])))
  blocked = attention_mask(tf.random.stateless_normal([2, 5, 6], [3, 4]))
  # Of several maps, one with two by two pixels and one with one by two.
  sizes = [(2, 3)] if maps == 1 else [(2, 2), (1, 2)]
  return queries, positions, Memory(values, values + embedding, sizes), blocked


FORMS = {
    'post-norm': {},
    'pre-norm': {'pre_norm': True},
    'self-attention first': {'self_attention_first': True},
    'SMCA': {'cross_attention': CrossAttention.SMCA},
    'mask pooling': {'cross_attention': CrossAttention.MASK_POOLING},
    'pre-norm, self-attention first': {'pre_norm': True, 'self_attention_first': True},
}


@pytest.mark.parametrize('maps', [1, 2])
@pytest.mark.parametrize('form', FORMS)
def test_it_is_the_equation(form, maps):
  layer, inputs = _layer(**FORMS[form]), _inputs(maps)
  for own in (inputs, inputs[:3]):  # With masks and without.
    expected = plain_decoder.decoder_layer(layer, *own)
    np.testing.assert_allclose(layer(*own), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pools', [False, True], ids=['attention', 'mask pooling'])
def test_dropout_is_where_detr_has_it(pools):
  kind = CrossAttention.MASK_POOLING if pools else CrossAttention.MASKED
  layer = _layer(dropout_rate=0.3, cross_attention=kind)
  inputs = _inputs()

  def drop(x):
    return x * dropout(tf.ones(x.shape), 0.3, True).numpy()

  with randomness.seeded(tf.constant([0, 1])):
    expected = plain_decoder.decoder_layer(layer, *inputs, drop=drop)
  with randomness.seeded(tf.constant([0, 1])):
    found = layer(*inputs, training=True)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  inference = layer(*inputs)
  assert np.abs(found - inference).max() > 0.1
  np.testing.assert_array_equal(inference, _layer(cross_attention=kind)(*inputs))


def test_pooling_and_attention_to_several_maps_are_no_attention_to_pixels():
  sizes = []
  for kind, maps in ((CrossAttention.SMCA, 1), (CrossAttention.FULL, 2),
                     (CrossAttention.MASK_POOLING, 1)):
    with recording() as records:
      _layer(cross_attention=kind)(*_inputs(maps))
    sizes.append([record.key_size for record in records])
  assert sizes == [[(2, 3), None], [None, None], [None]]


def test_a_query_with_an_empty_mask_attends_to_all_pixels():
  logits = tf.constant([[[-1.0, 2.0, 0.0], [-1.0, -2.0, -1e-6]]])
  np.testing.assert_array_equal(attention_mask(logits),
                                [[[True, False, False], [False, False, False]]])


def test_recomputation_gives_the_same_gradients():
  layer, (x, positions, memory, _) = _layer(), _inputs()
  logits = tf.random.stateless_normal([2, 5, 6], [3, 4])

  def run(x, values, keys, logits):
    return layer(x, positions, Memory(values, keys, memory.sizes), attention_mask(logits))

  inputs = [x, memory.values, memory.keys, logits]
  gradients = []
  for call in (run, lambda *inputs: recompute(run, *inputs)):
    with tf.GradientTape() as tape:
      tape.watch(inputs[:3])
      loss = tf.reduce_sum(call(*inputs)**2)
    gradients.append(tape.gradient(loss, [*inputs[:3], *layer.trainable_variables]))
  for once, twice in zip(*gradients):
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-5)


def test_initial_biases_of_the_feed_forward_network_are_pytorchs():
  keras.utils.set_random_seed(0)
  layer = MaskedDecoderLayer(MaskedDecoderOptions(64, 256))
  for part, fan_in in ((layer.fc1, 64), (layer.fc2, 256)):
    assert 0.9 * fan_in**-0.5 < np.abs(part.bias).max() <= fan_in**-0.5
    assert 0.99 * (6 / 320)**0.5 < np.abs(part.kernel).max() <= (6 / 320)**0.5


# === PyTorch's layer ===


def _set(projection, weight, bias):
  projection.kernel.assign(weight.T)
  projection.bias.assign(bias)


def _set_attention(attention, weights, name):
  thirds = zip(np.split(weights[f'{name}.in_proj_weight'], 3),
               np.split(weights[f'{name}.in_proj_bias'], 3))
  for projection, third in zip((attention.query, attention.key, attention.value), thirds):
    _set(projection, *third)
  _set(attention.output_projection, weights[f'{name}.out_proj.weight'],
       weights[f'{name}.out_proj.bias'])


def _recorded_layer(arrays, pre_norm):
  weights = {name[2:]: value for name, value in arrays.items() if name.startswith('w:')}
  channels, hidden = weights['ffn.linear2.weight'].shape
  layer = MaskedDecoderLayer(MaskedDecoderOptions(channels, hidden, int(arrays['num_heads']),
                                                  pre_norm))
  _set_attention(layer.cross_attention, weights, 'cross.multihead_attn')
  _set_attention(layer.self_attention, weights, 'self.self_attn')
  _set(layer.fc1, weights['ffn.linear1.weight'], weights['ffn.linear1.bias'])
  _set(layer.fc2, weights['ffn.linear2.weight'], weights['ffn.linear2.bias'])
  for norm, name in ((layer.cross_norm, 'cross'), (layer.self_norm, 'self'),
                     (layer.feed_forward_norm, 'ffn')):
    norm.gamma.assign(weights[f'{name}.norm.weight'])
    norm.beta.assign(weights[f'{name}.norm.bias'])
  return layer


@pytest.mark.parity
@pytest.mark.parametrize('form', ['post', 'pre'])
def test_every_step_equals_the_released_code(form):
  prefix = f'decoder_layer_{form}_norm/'
  with np.load(shared.path('parity', 'mask2former', 'ops.npz')) as file:
    arrays = {name[len(prefix):]: file[name] for name in file if name.startswith(prefix)}
  layer = _recorded_layer(arrays, form == 'pre')

  def batch_first(name):
    return np.swapaxes(arrays[name], 0, 1)

  blocked = attention_mask(arrays['mask_logits_bql'])
  np.testing.assert_array_equal(blocked, arrays['blocked_after_row_rule'])
  assert np.any(arrays['blocked_after_row_rule'] != arrays['blocked_bhql_before_row_rule'])
  values = batch_first('memory_lbc')
  memory = Memory(values, values + batch_first('key_pos_lbc'), [(5, 6)])
  positions = batch_first('query_pos_qbc')
  x = layer.read_memory(batch_first('target_qbc'), positions, memory, blocked)
  np.testing.assert_allclose(x, batch_first('after_cross'), atol=2e-5)
  x = layer.exchange(x, positions)
  np.testing.assert_allclose(x, batch_first('after_self'), atol=2e-5)
  np.testing.assert_allclose(layer.feed_forward(x), batch_first('after_ffn'), atol=2e-5)
  np.testing.assert_allclose(layer(batch_first('target_qbc'), positions, memory, blocked),
                             batch_first('after_ffn'), atol=2e-5)
