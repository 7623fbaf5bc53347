"""Multi-scale deformable attention: the sampling, its gradients, and the layer."""

import math

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.layers import deformable_attention
from deeplab_tf.layers.deformable_attention import DeformableAttention, initial_offsets
from deeplab_tf.layers.precision import policy
from deeplab_tf.user_errors import ConfigError

SIZES = ((3, 4), (1, 7), (6, 5))
PIXELS = sum(h * w for h, w in SIZES)


def numpy_sample(values, locations, weights, sizes):
  """Sums weighted samples one by one, in float64."""
  batch, _, heads, channels = values.shape
  output = np.zeros([batch, locations.shape[1], heads, channels])
  for b, q, m, level, p in np.ndindex(weights.shape):
    height, width = sizes[level]
    start = sum(h * w for h, w in sizes[:level])
    x, y = (locations[b, q, m, level, p].astype(np.float64) * (width, height) - 0.5)
    for row in (math.floor(y), math.floor(y) + 1):
      for column in (math.floor(x), math.floor(x) + 1):
        if 0 <= row < height and 0 <= column < width:
          share = (1 - abs(x - column)) * (1 - abs(y - row))
          output[b, q, m] += (weights[b, q, m, level, p] * share
                              * values[b, start + row * width + column, m])
  return output


def _inputs(seed=0, batch=2, queries=9, heads=3, points=4, channels=5, sizes=SIZES, spread=0.4):
  """Returns random values, locations (some outside the maps) and weights."""
  random = np.random.default_rng(seed)
  pixels = sum(h * w for h, w in sizes)
  shape = [batch, queries, heads, len(sizes), points]
  return (random.standard_normal([batch, pixels, heads, channels]).astype(np.float32),
          random.uniform(-spread, 1 + spread, [*shape, 2]).astype(np.float32),
          random.standard_normal(shape).astype(np.float32))


def sample(values, locations, weights, sizes):
  """Samples at locations from 0 to 1 instead of positions in pixels, as in the original."""
  values, locations, weights = (tf.convert_to_tensor(x) for x in (values, locations, weights))
  extents = tf.cast(tf.stack([tf.stack([w, h]) for h, w in sizes]), tf.float32)
  return deformable_attention.sample(values, locations * extents[:, None] - 0.5, weights, sizes)


def _gradients(inputs, sizes, upstream, run=sample):
  inputs = [tf.convert_to_tensor(x) for x in inputs]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    output = run(*inputs, sizes)
  return output, tape.gradient(output, inputs, upstream)


@pytest.mark.parametrize('options', [
    {}, {'spread': 3.0}, {'sizes': ((1, 1),)}, {'sizes': ((9, 2), (2, 9)), 'points': 1},
    {'batch': 1, 'heads': 1, 'queries': 1, 'channels': 40}])
def test_sums_of_bilinear_samples(options):
  inputs, sizes = _inputs(**options), options.get('sizes', SIZES)
  np.testing.assert_allclose(sample(*inputs, sizes), numpy_sample(*inputs, sizes),
                             rtol=1e-5, atol=2e-5)


def test_centers_of_pixels_read_the_pixel_and_corners_a_quarter():
  values, sizes = np.arange(1, 7, dtype=np.float32).reshape(1, 6, 1, 1), ((2, 3),)
  points = [[(c + 0.5) / 3, (r + 0.5) / 2] for r in range(2) for c in range(3)]
  points += [[0, 0], [1, 1], [-0.5 / 3, 0.25], [1 + 0.5 / 3, 0.25], [0.5, -9], [7, 0.5]]
  locations = np.reshape(points, [1, 12, 1, 1, 1, 2]).astype(np.float32)
  found = sample(values, locations, np.ones([1, 12, 1, 1, 1], np.float32), sizes)
  expected = [1, 2, 3, 4, 5, 6, 1 / 4, 6 / 4, 0, 0, 0, 0]
  np.testing.assert_allclose(tf.reshape(found, [-1]), expected, atol=2e-6)


def test_gradients_equal_finite_differences():
  inputs = _inputs(seed=3)
  upstream = np.random.default_rng(4).standard_normal([2, 9, 3, 5]).astype(np.float32)
  # Between two pixels the sums are smooth; keep the points away from the kinks.
  extent = np.array([[w, h] for h, w in SIZES], np.float32)[:, None]
  position = inputs[1] * extent - 0.5
  position = np.floor(position) + np.clip(position - np.floor(position), 0.1, 0.9)
  inputs = (inputs[0], ((position + 0.5) / extent).astype(np.float32), inputs[2])
  _, gradients = _gradients(inputs, SIZES, upstream)
  for i, gradient in enumerate(gradients):
    for seed in range(3):
      direction = np.random.default_rng(seed).standard_normal(inputs[i].shape)
      step = 1e-3
      ends = []
      for sign in (1, -1):
        moved = [x.astype(np.float64) for x in inputs]
        moved[i] += sign * step * direction
        ends.append((numpy_sample(*moved, SIZES) * upstream).sum())
      np.testing.assert_allclose((gradient * direction).numpy().sum(),
                                 (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('sparse', [True, False])
@pytest.mark.parametrize('block_size', [500, 3000])
def test_blocks_and_the_form_of_the_gradient_change_nothing(monkeypatch, block_size, sparse):
  inputs = _inputs(queries=11)
  upstream = np.random.default_rng(1).standard_normal([2, 11, 3, 5]).astype(np.float32)
  monkeypatch.setattr(deformable_attention, '_has_sparse_products', lambda: not sparse)
  expected, gradients = _gradients(inputs, SIZES, upstream)
  np.testing.assert_allclose(expected, numpy_sample(*inputs, SIZES), atol=2e-5)
  monkeypatch.setattr(deformable_attention, '_BLOCK_SIZE', block_size)
  monkeypatch.setattr(deformable_attention, '_has_sparse_products', lambda: sparse)
  found, found_gradients = _gradients(inputs, SIZES, upstream)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  for a, b in zip(found_gradients, gradients):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_tensor_has_all_queries_by_all_pixels():
  inputs = [tf.convert_to_tensor(x) for x in _inputs(
      batch=1, queries=700, heads=1, points=1, channels=4, sizes=((20, 30),))]
  graph = tf.function(lambda *x: _gradients(x, ((20, 30),), tf.ones([1, 700, 1, 4])),
                      autograph=False).get_concrete_function(*inputs).graph
  sizes = [x.shape.num_elements() or 0 for op in graph.get_operations() for x in op.outputs]
  assert 600 * 4 <= max(sizes) < 700 * 600 / 10


def test_points_outside_have_no_gradient():
  values, locations, weights = _inputs()
  locations = np.where(locations < 0.5, -2, 3).astype(np.float32)
  output, gradients = _gradients((values, locations, weights), SIZES, np.ones([2, 9, 3, 5], 'f'))
  for tensor in (output, *gradients):
    np.testing.assert_array_equal(tensor, np.zeros(tensor.shape))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e30])
def test_locations_that_are_not_finite_are_no_error(bad):
  values, locations, weights = _inputs()
  locations[0, 0, 0, 0, 0] = bad
  output, _ = _gradients((values, locations, weights), SIZES, np.ones([2, 9, 3, 5], 'f'))
  assert np.isfinite(output[1:]).all() and np.isfinite(output[:, 1:]).all()


def test_sizes_unknown_while_tracing():
  run = tf.function(lambda v, l, w, s: sample(v, l, w, [(s[i, 0], s[i, 1]) for i in range(3)]),
                    input_signature=[tf.TensorSpec([None, None, 3, 5]),
                                     tf.TensorSpec([None, None, 3, 3, 4, 2]),
                                     tf.TensorSpec([None, None, 3, 3, 4]),
                                     tf.TensorSpec([3, 2], tf.int32)], autograph=False)
  for sizes in (SIZES, ((2, 2), (4, 3), (1, 1))):
    inputs = _inputs(sizes=sizes)
    np.testing.assert_allclose(run(*inputs, sizes), sample(*inputs, sizes), atol=1e-6)
    upstream = np.random.default_rng(0).standard_normal([2, 9, 3, 5]).astype(np.float32)
    for found, expected in zip(_gradients(inputs, sizes, upstream, run)[1],
                               _gradients(inputs, sizes, upstream)[1]):
      np.testing.assert_allclose(found, expected, atol=1e-5)


def test_xla_computes_the_same_sums_and_gradients():
  inputs = _inputs()
  upstream = np.random.default_rng(0).standard_normal([2, 9, 3, 5]).astype(np.float32)
  compiled = tf.function(lambda *x: _gradients(x, SIZES, upstream), jit_compile=True,
                         autograph=False)
  expected, gradients = _gradients(inputs, SIZES, upstream)
  found, found_gradients = compiled(*inputs)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  for a, b in zip(found_gradients, gradients):
    np.testing.assert_allclose(a, b, atol=5e-5)


# === The layer ===


def _layer(channels=16, heads=4, levels=3, points=2):
  layer = DeformableAttention(channels, num_heads=heads, num_levels=levels, num_points=points)
  random = np.random.default_rng(1)
  for variable in layer.variables:
    variable.assign_add(0.3 * random.standard_normal(variable.shape))
  return layer


def _layer_inputs(batch=2, queries=6, channels=16):
  random = np.random.default_rng(2)
  return (random.standard_normal([batch, queries, channels]).astype(np.float32),
          random.uniform(0, 1, [queries, 2]).astype(np.float32),
          random.standard_normal([batch, PIXELS, channels]).astype(np.float32))


def test_the_layer_follows_its_equation():
  layer = _layer()
  queries, references, pixels = _layer_inputs()

  def linear(projection, x):
    return x @ projection.kernel.numpy() + projection.bias.numpy()

  logits = linear(layer.attention_weights, queries).reshape(2, 6, 4, 6)
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  offsets = linear(layer.offsets, queries).reshape(2, 6, 4, 3, 2, 2)
  extent = np.array([[w, h] for h, w in SIZES])[:, None]
  read = numpy_sample(linear(layer.values, pixels).reshape(2, PIXELS, 4, 4),
                      references[:, None, None, None] + offsets / extent,
                      weights.reshape(2, 6, 4, 3, 2), SIZES)
  np.testing.assert_allclose(layer(queries, references, pixels, SIZES),
                             linear(layer.outputs, read.reshape(2, 6, 16)), atol=2e-5)


def test_each_head_looks_into_its_own_direction_at_first():
  layer = DeformableAttention(16, num_heads=8, num_levels=2, num_points=3)
  offsets = tf.reshape(layer.offsets(np.ones([1, 1, 16], 'f')), [8, 2, 3, 2]).numpy()
  np.testing.assert_array_equal(offsets, initial_offsets(8, 2, 3))
  np.testing.assert_allclose(offsets[:, 0, 0], [
      [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]], atol=1e-6)
  expected = np.broadcast_to(offsets[:, :1, :1] * np.arange(1, 4)[:, None], offsets.shape)
  np.testing.assert_allclose(offsets, expected, atol=1e-6)
  assert not np.any(layer.offsets.kernel) and not np.any(layer.attention_weights.kernel)
  assert not np.any(layer.attention_weights.bias)
  for projection in (layer.values, layer.outputs):
    bound = math.sqrt(6 / 32)
    assert not np.any(projection.bias) and bound / 2 < np.abs(projection.kernel).max() <= bound


def test_every_variable_gets_a_gradient():
  layer = _layer()
  queries, references, pixels = _layer_inputs()
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(queries, references, pixels, SIZES)**2)
  assert len(layer.trainable_variables) == 8
  for variable, gradient in zip(layer.trainable_variables,
                                tape.gradient(loss, layer.trainable_variables)):
    assert gradient is not None and np.any(gradient), variable.name


def test_mixed_precision_computes_in_float32():
  layer = _layer()
  with policy('mixed_bfloat16'):
    mixed = _layer()
  for variable, value in zip(mixed.variables, layer.variables):
    variable.assign(value)
  queries, references, pixels = _layer_inputs()
  np.testing.assert_array_equal(mixed(queries, references, pixels, SIZES),
                                layer(queries, references, pixels, SIZES))
  halves = [tf.cast(x, tf.bfloat16) for x in (queries, pixels)]
  output = mixed(halves[0], references, halves[1], SIZES)
  assert output.dtype == tf.float32
  rounded = [tf.cast(x, tf.float32) for x in halves]
  np.testing.assert_array_equal(output, layer(rounded[0], references, rounded[1], SIZES))


def test_channels_divide_into_heads():
  with pytest.raises(ConfigError, match='10 channels do not divide into 4 heads'):
    DeformableAttention(10, num_heads=4, num_levels=1, num_points=1)


# === Recorded numbers ===


def recorded(case):
  """Returns the arrays of a case of Mask2Former's operations."""
  arrays = np.load(shared.path('parity', 'mask2former', 'ops.npz'))
  return {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{case}/')}


def _sizes(arrays):
  return [tuple(int(n) for n in size) for size in arrays['spatial_shapes']]


@pytest.mark.parity
def test_recorded_sums_and_gradients():
  arrays = recorded('ms_deform_attn_core')
  inputs = [arrays[name] for name in ('value', 'sampling_locations', 'attention_weights')]
  output, gradients = _gradients(inputs, _sizes(arrays),
                                 arrays['grad_output'].reshape(2, 23, 4, 8))
  np.testing.assert_allclose(tf.reshape(output, [2, 23, 32]), arrays['output'], atol=1e-5)
  np.testing.assert_allclose(gradients[0], arrays['grad_value'], atol=1e-5)
  np.testing.assert_allclose(gradients[2], arrays['grad_attention_weights'], atol=1e-5)
  found, expected = gradients[1].numpy(), arrays['grad_sampling_locations']
  # The first points are on a pixel or a corner, where the gradient is one-sided.
  found[0, 0, 0, 0], expected[0, 0, 0, 0] = 0, 0
  np.testing.assert_allclose(found, expected, atol=5e-5)


def set_projections(layer, arrays, prefix=''):
  """Sets the variables of a DeformableAttention from recorded weights."""
  for projection, name in ((layer.offsets, 'sampling_offsets'),
                           (layer.attention_weights, 'attention_weights'),
                           (layer.values, 'value_proj'), (layer.outputs, 'output_proj')):
    projection.kernel.assign(arrays[f'w:{prefix}{name}.weight'].T)
    projection.bias.assign(arrays[f'w:{prefix}{name}.bias'])


@pytest.mark.parity
def test_recorded_layer():
  arrays = recorded('ms_deform_attn_module')
  layer = DeformableAttention(32, **{name: int(arrays[f'n_{short}']) for name, short in (
      ('num_heads', 'heads'), ('num_levels', 'levels'), ('num_points', 'points'))})
  np.testing.assert_allclose(layer.offsets.bias, arrays['init_sampling_offsets_bias'], atol=1e-6)
  assert arrays['init_sampling_offsets_weight_absmax'] == np.abs(layer.offsets.kernel).max() == 0
  set_projections(layer, arrays)
  # The reference points are the same for all images and levels.
  output = layer(arrays['query'], arrays['reference_points'][0, :, 0], arrays['input_flatten'],
                 _sizes(arrays))
  np.testing.assert_allclose(output, arrays['output'], atol=1e-5)
