"""Position-sensitive attention equals equations 3 and 4, written out in numpy."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_tf.layers.axial_attention import AxialAttention1D, AxialAttention2D
from deeplab_tf.layers.local_attention import LOCAL, LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.position_sensitive import AXIAL
from deeplab_tf.training import precision

EPSILON = 1e-3
NORM = functools.partial(BatchNorm, epsilon=EPSILON)


def _randomize(layer, seed=0):
  rng = np.random.default_rng(seed)
  for variable in layer.variables:
    positive = 'gamma' in variable.name or 'variance' in variable.name
    variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive
                    else 0.5 * rng.normal(size=variable.shape))


def _norm(norm, x):
  """A batch norm at inference over the last axes."""
  if norm is None:
    return x
  gamma, beta, mean, variance = (v.numpy() for v in (
      norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
  return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def _attend(layer, x, neighbors, positions):
  """Attention of every place of one image.

  Args:
    layer: The layer.
    x: [places, channels].
    neighbors: place -> the places that it sees.
    positions: (embeddings, place, neighbor) -> the vector of their relative position.

  Returns:
    [places, value channels].
  """
  qkv = _norm(layer.norm_qkv, x @ layer.qkv_kernel.numpy())
  query, key, value = (t.reshape(len(x), layer.num_heads, -1)
                       for t in np.split(qkv, np.cumsum(layer.sizes)[:2], -1))
  tables = [table and table.embeddings.numpy() for table in (
      layer.query_positions, layer.key_positions, layer.value_positions)]
  output = np.zeros((len(x), layer.sizes[2]))
  for o in range(len(x)):
    places = neighbors(o)
    for_query, for_key, for_value = (
        None if table is None else np.stack([positions(table, o, p) for p in places])
        for table in tables)
    terms = [np.einsum('hd,phd->ph', query[o], key[places])]
    if for_query is not None:
      terms.append(np.einsum('hd,pd->ph', query[o], for_query))
    if for_key is not None:
      terms.append(np.einsum('phd,pd->ph', key[places], for_key))
    logits = _norm(layer.norm_similarity, np.stack(terms, 1)).sum(1)
    weights = np.exp(logits - logits.max(0))
    weights /= weights.sum(0)
    terms = [np.einsum('ph,phd->hd', weights, value[places])]
    if for_value is not None:
      terms.append(np.einsum('ph,pd->hd', weights, for_value))
    output[o] = _norm(layer.norm_output, np.stack(terms)).sum(0).reshape(-1)
  return output


def _axial_reference(layer, x):
  length, span = x.shape[1], layer.options.span or 2 * x.shape[1]

  def neighbors(o):
    return [p for p in range(length) if abs(p - o) <= span // 2]

  def positions(embeddings, o, p):
    reach = layer.options.max_distance
    return embeddings[min(max(p - o, -reach), reach) + reach]

  return np.stack([_attend(layer, row, neighbors, positions) for row in x])


def _local_reference(layer, x):
  _, height, width, channels = x.shape
  margin = layer.options.span // 2

  def neighbors(o):
    return [a * width + b for a, b in itertools.product(range(height), range(width))
            if max(abs(a - o // width), abs(b - o % width)) <= margin]

  def positions(embeddings, o, p):
    return embeddings[p // width - o // width + margin, p % width - o % width + margin]

  return np.stack([_attend(layer, image.reshape(-1, channels), neighbors, positions)
                   .reshape(height, width, -1) for image in x])


SWITCHES = [
    {},
    {'key_positions': False, 'value_positions': False},
    {'query_positions': False, 'key_positions': False, 'value_positions': False},
    {'query_positions': False, 'normalized': False},
    {'key_positions': False, 'value_positions': False, 'normalized': False},
    {'max_distance': 3},
]


def _axial(switches, span, heads=2):
  layer = AxialAttention1D(5, 4 * heads, 6 * heads, heads, norm=NORM,
                           options=AXIAL._replace(span=span, **switches))
  _randomize(layer)
  return layer


def _input(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# The axis as a whole, with a mask, and in blocks that do not fill it.
@pytest.mark.parametrize('span,length', [(0, 9), (5, 9), (15, 12), (3, 29), (5, 24), (1, 7),
                                         (33, 71)])
@pytest.mark.parametrize('switches', SWITCHES, ids=str)
def test_axial_attention_is_equation_4(switches, span, length):
  layer = _axial(switches, span)
  x = _input(2, length, 5)
  np.testing.assert_allclose(layer(x), _axial_reference(layer, x), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('switches', SWITCHES[:5], ids=str)
@pytest.mark.parametrize('span,height,width', [(3, 5, 4), (5, 3, 7), (7, 2, 2), (1, 2, 3),
                                               (3, 9, 6)])
def test_local_attention_is_equation_3(switches, span, height, width):
  layer = LocalAttention2D(5, 8, 12, 2, norm=NORM, options=LOCAL._replace(span=span, **switches))
  _randomize(layer)
  x = _input(2, height, width, 5)
  np.testing.assert_allclose(layer(x), _local_reference(layer, x), rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 40), st.sampled_from([0, 1, 3, 9, 17]), st.integers(1, 3))
def test_any_length_span_and_number_of_heads(length, span, heads):
  layer = _axial({}, span, heads)
  x = _input(1, length, 5)
  np.testing.assert_allclose(layer(x), _axial_reference(layer, x), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize('length,span', [(300, 0), (300, 65)])
def test_lengths_beyond_the_tables_are_clipped(length, span):
  layer = _axial({}, span, 1)
  x = _input(1, length, 5)
  np.testing.assert_allclose(layer(x), _axial_reference(layer, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('span', [0, 5])
def test_axial_attention_of_dynamic_and_static_shapes_is_the_same(span, jit):
  layer = _axial({}, span)
  dynamic = tf.function(layer, jit_compile=jit, input_signature=[
      tf.TensorSpec([None, None, 5])])
  for length in (4, 21):
    x = _input(2, length, 5)
    np.testing.assert_allclose(dynamic(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('jit', [False, True])
def test_local_attention_of_dynamic_and_static_shapes_is_the_same(jit):
  layer = LocalAttention2D(5, 8, 12, 2, norm=NORM, stride=2, options=LOCAL._replace(span=3))
  _randomize(layer)
  dynamic = tf.function(layer, jit_compile=jit, input_signature=[
      tf.TensorSpec([None, None, None, 5])])
  x = _input(2, 5, 4, 5)
  assert dynamic(x).shape == (2, 3, 2, 12)
  np.testing.assert_allclose(dynamic(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('length', [13, 30])
def test_windows_of_a_whole_axis_train_as_global_attention(length, monkeypatch):
  """Statistics of a batch leave out what a window does not see, so that nothing else changes."""
  whole, windows = _axial({}, 0), _axial({}, 2 * length - 1)
  # Windows even where they are larger than the axis.
  monkeypatch.setattr('deeplab_tf.layers.axial_attention.max', lambda *_: 0, raising=False)
  x, results = tf.constant(_input(2, length, 5)), []
  for layer in (whole, windows):
    with tf.GradientTape() as tape:
      output = layer(x, training=True)
      loss = tf.reduce_sum(output**2 * tf.constant(_input(*output.shape)))
    results.append([output, *tape.gradient(loss, layer.trainable_variables), *layer.variables])
  for expected, actual in zip(*results):
    scale = np.abs(tf.convert_to_tensor(expected)).max()
    np.testing.assert_allclose(tf.convert_to_tensor(actual), tf.convert_to_tensor(expected),
                               atol=2e-4 * max(scale, 1), rtol=1e-3)


# Over the whole axis, in windows, and as a band of the whole axis; each with so few products that
# they are made, and with more.
@pytest.mark.parametrize('span, length', [(0, 12), (0, 20), (3, 27), (15, 40), (9, 14), (9, 18)])
def test_statistics_are_those_of_what_a_query_sees(span, length):
  layer = _axial({}, span)
  layer.norm_similarity.momentum = 0.0
  x = _input(2, length, 5)
  layer(x, training=True)
  qkv = x @ layer.qkv_kernel.numpy()
  qkv = (qkv - qkv.mean((0, 1))) / np.sqrt(qkv.var((0, 1)) + EPSILON)
  qkv = qkv * layer.norm_qkv.gamma.numpy() + layer.norm_qkv.beta.numpy()
  query, key = (t.reshape(2, length, 2, 4) for t in (qkv[..., :8], qkv[..., 8:16]))
  for_query, for_key = (table.embeddings.numpy()
                        for table in (layer.query_positions, layer.key_positions))
  middle, terms = len(for_query) // 2, ([], [], [])
  for o, p in itertools.product(range(length), repeat=2):
    if not span or abs(o - p) <= span // 2:
      terms[0].append(np.sum(query[:, o] * key[:, p], -1))
      terms[1].append(query[:, o] @ for_query[middle + p - o])
      terms[2].append(key[:, p] @ for_key[middle + p - o])
  for i, seen in enumerate(terms):
    np.testing.assert_allclose(layer.norm_similarity.moving_mean[i], np.mean(seen, (0, 1)),
                               atol=1e-4)
    np.testing.assert_allclose(layer.norm_similarity.moving_variance[i], np.var(seen, (0, 1)),
                               rtol=1e-3)


@pytest.mark.parametrize('span', [0, 3, 21])
def test_rows_in_turns_are_rows_at_once(span, monkeypatch):
  layer, x = _axial({}, span), tf.constant(_input(7, 17, 5))
  at_once = layer(x)
  monkeypatch.setattr('deeplab_tf.layers.axial_attention._LOGITS_OF_A_TURN', 1200)
  in_turns = tf.function(layer)
  graph = in_turns.get_concrete_function(x).graph
  largest = max(np.prod(t.shape) for op in graph.get_operations() if op.type == 'Softmax'
                for t in op.outputs)
  assert largest <= 2 * 1200
  np.testing.assert_allclose(in_turns(x), at_once, rtol=1e-5, atol=1e-6)


def _largest_tensor(span, length):
  layer = AxialAttention1D(8, 8, 8, 2, norm=NORM, options=AXIAL._replace(span=span))
  graph = tf.function(layer).get_concrete_function(tf.TensorSpec([1, length, 8])).graph
  return max(np.prod(t.shape) for op in graph.get_operations() for t in op.outputs
             if t.shape.is_fully_defined())


def test_memory_of_a_span_grows_with_the_length_and_not_its_square():
  assert _largest_tensor(15, 512) < 2.1 * _largest_tensor(15, 256)
  assert _largest_tensor(15, 512) < 0.2 * _largest_tensor(0, 512)


@pytest.mark.parametrize('stride_by', ['subsampling', 'average'])
def test_a_stride_leaves_out_or_averages(stride_by):
  options = AXIAL._replace(stride_by=stride_by)
  strided = AxialAttention2D(5, 8, 12, 2, norm=NORM, stride=2, options=options)
  plain = AxialAttention2D(5, 8, 12, 2, norm=NORM, stride=1, options=options)
  for layer in (strided, plain):
    _randomize(layer)
  x = _input(1, 6, 8, 5)
  expected = plain(x).numpy()
  if stride_by == 'average':
    expected = expected.reshape(1, 3, 2, 4, 2, 12).mean((2, 4))
  else:
    expected = expected[:, ::2, ::2]
  np.testing.assert_allclose(strided(x), expected, rtol=1e-4, atol=1e-5)
  assert strided(_input(1, 5, 7, 5)).shape == (1, 3, 4, 12)


def test_a_span_must_have_a_middle():
  with pytest.raises(ValueError, match='span of attention is 4: axial .* or 0 for all'):
    _axial({}, 4)
  with pytest.raises(ValueError, match='span of attention is 0: local'):
    LocalAttention2D(5, 8, 8, 2, norm=NORM, options=LOCAL._replace(span=0))
  with pytest.raises(ValueError, match='do not divide into 3 heads'):
    AxialAttention1D(5, 8, 8, 3, norm=NORM)


def test_half_precision_stays_half():
  x = _input(1, 20, 5)
  with precision.scope('BFLOAT16'):
    layer = _axial({}, 5)
  for training in (False, True):
    half = layer(tf.cast(x, tf.bfloat16), training=training)
    assert half.dtype == tf.bfloat16
  np.testing.assert_allclose(tf.cast(layer(x), tf.float32), _axial({}, 5)(x), atol=0.3)


@pytest.mark.parametrize('layer,places', [
    (AxialAttention1D(5, 8, 8, 2,
                      norm=NORM), (9,)), (AxialAttention1D(5, 8, 8, 2, norm=NORM), (8, 4)),
    (LocalAttention2D(5, 8, 8, 2, norm=NORM), (4,))])
def test_tables_have_dense_gradients(layer, places):
  table = layer.query_positions
  with tf.GradientTape() as tape:
    vectors = table(*places)
  assert isinstance(tape.gradient(vectors, table.embeddings), tf.Tensor)


def test_statistics_of_local_attention_are_those_of_regions():
  layer = LocalAttention2D(5, 8, 12, 2, norm=NORM, options=LOCAL._replace(span=3))
  _randomize(layer)
  layer.norm_similarity.momentum = 0.0
  x = _input(2, 6, 9, 5)
  layer(x, training=True)
  qkv = x @ layer.qkv_kernel.numpy()
  qkv = (qkv - qkv.mean((0, 1, 2))) / np.sqrt(qkv.var((0, 1, 2)) + EPSILON)
  qkv = qkv * layer.norm_qkv.gamma.numpy() + layer.norm_qkv.beta.numpy()
  query, key = (t.reshape(2, 6, 9, 2, 4) for t in (qkv[..., :8], qkv[..., 8:16]))
  table = layer.query_positions.embeddings.numpy()
  content, positional = [], []
  for a, b, i, j in itertools.product(range(6), range(9), range(-1, 2), range(-1, 2)):
    if 0 <= a + i < 6 and 0 <= b + j < 9:
      content.append(np.sum(query[:, a, b] * key[:, a + i, b + j], -1))
      positional.append(np.sum(query[:, a, b] * table[i + 1, j + 1], -1))
  for term, seen in enumerate((content, positional)):
    np.testing.assert_allclose(layer.norm_similarity.moving_mean[term], np.mean(seen, (0, 1)),
                               atol=1e-4)
    np.testing.assert_allclose(layer.norm_similarity.moving_variance[term], np.var(seen, (0, 1)),
                               rtol=1e-3)


def _frozen(shape, **options):
  return BatchNorm(shape, epsilon=EPSILON, frozen=True, **options)


@pytest.mark.parametrize('layer, shape', [
    (AxialAttention1D(5, 8, 12, 2, norm=_frozen), (3, 17, 5)),
    (AxialAttention1D(5, 8, 12, 2, norm=_frozen, options=AXIAL._replace(span=3)), (3, 17, 5)),
    (LocalAttention2D(5, 8, 12, 2, norm=_frozen, options=LOCAL._replace(span=3)), (2, 6, 9, 5)),
], ids=['axis', 'span', 'region'])
def test_frozen_norms_train_as_at_inference(layer, shape):
  _randomize(layer)
  before = [v.numpy() for v in layer.non_trainable_variables]
  x = tf.constant(_input(*shape))
  with tf.GradientTape() as tape:
    output = layer(x, training=True)
    loss = tf.reduce_sum(output**2)
  np.testing.assert_allclose(output, layer(x), rtol=1e-5, atol=1e-6)
  assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))
  for variable, value in zip(layer.non_trainable_variables, before):
    np.testing.assert_array_equal(variable, value)


def test_scales_of_half_precision_logits_have_whole_gradients():
  """They are sums over all queries, which float16 would lose in its eleven bits."""
  x, gradients, saved = _input(260, 65, 16), [], None
  for name in ('FLOAT32', 'FLOAT16'):
    with precision.scope(name):
      layer = AxialAttention1D(16, 16, 16, 2, norm=NORM)
    if saved is None:
      _randomize(layer)
      saved = layer.get_weights()
    layer.set_weights(saved)
    with tf.GradientTape() as tape:
      loss = 1000 * tf.reduce_mean(tf.cast(layer(tf.constant(x), training=True), tf.float32)**3)
    gradients.append(tape.gradient(loss, layer.norm_similarity.gamma).numpy())
  whole, half = gradients
  assert np.abs(half - whole).max() < 0.01 * np.abs(whole).max()


def test_training_local_attention_holds_little_more_than_its_logits():
  layer = LocalAttention2D(16, 16, 16, 2, norm=NORM)

  @tf.function
  def gradients(x):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(layer(x, training=True)**2)
    return [tf.convert_to_tensor(g) for g in tape.gradient(loss, layer.trainable_variables)]

  graph = gradients.get_concrete_function(tf.TensorSpec([1, 56, 56, 16])).graph
  largest = max(np.prod(t.shape) for op in graph.get_operations() for t in op.outputs
                if t.shape.is_fully_defined())
  logits = 14 * 14 * 2 * 16 * 100
  assert largest <= logits
