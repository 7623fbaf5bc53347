"""The layer of CMT-DeepLab against its equations in plain numpy, and finite differences."""

import functools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import attention_records, clustering
from deeplab_tf.layers.clustering import ClusteringLayer, ClusteringOptions, Clusters
from deeplab_tf.layers.dual_path_attention import DualPathOptions
from deeplab_tf.layers.normalization import BatchNorm

_SIZE, _CLUSTERS, _PIXEL_CHANNELS, _CENTER_CHANNELS, _POINTS, _HEADS = (3, 4), 5, 12, 10, 3, 2
_SIZES = DualPathOptions(channels=4, feed_forward_channels=8, num_heads=_HEADS, activation='gelu')


def _layer(seed=0, **switches):
  """Returns a layer all of whose variables count."""
  keras.utils.set_random_seed(seed)
  layer = ClusteringLayer(
      _PIXEL_CHANNELS, _CENTER_CHANNELS, _SIZES,
      ClusteringOptions(**{'num_points': _POINTS, **switches}), BatchNorm)
  rng = np.random.default_rng(seed)
  for variable in layer.variables:
    if variable.name.startswith(('gamma', 'moving_variance')):
      variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    elif variable.name.startswith(('beta', 'bias', 'moving_mean')):
      variable.assign(rng.normal(0, 0.3, variable.shape))
  return layer


def _inputs(seed=1, affinities=(), num_points=_POINTS):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return tf.constant(rng.normal(size=shape), tf.float32)

  embedding = normal(2, _CLUSTERS, 2 * num_points) if num_points else None
  return normal(2, *_SIZE, _PIXEL_CHANNELS), Clusters(
      normal(2, _CLUSTERS, _CENTER_CHANNELS), embedding,
      tuple(normal(2, *size, _CLUSTERS) for size in affinities))


# === The equations ===


def _gelu(x):
  return x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2


def _softmax(x, axis):
  x = np.exp(x - x.max(axis, keepdims=True))
  return x / x.sum(axis, keepdims=True)


def _norm(norm, x):
  """Normalizes the last axis by the moving statistics."""
  mean, variance, gamma, beta = (v.numpy().astype(np.float64) for v in (
      norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta))
  return (x - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta


def _project(layer, x, activation=lambda x: x):
  kernel = layer.kernel.numpy().astype(np.float64)
  y = x @ kernel.reshape(kernel.shape[-2:])
  return activation(_norm(layer.norm, y) if layer.norm is not None else y + layer.bias.numpy())


def _convolve(layer, x):
  """A 3x3 convolution of [h, w, channels] with zeros around it, norm and activation."""
  kernel = layer.kernel.numpy().astype(np.float64)
  padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
  height, width, _ = x.shape
  y = sum(padded[i:i + height, j:j + width] @ kernel[i, j] for i in range(3) for j in range(3))
  return _gelu(_norm(layer.norm, y))


def _attend(attention, query, key, value):
  """Equation 3 by head, with the batch norms of MaX-DeepLab: [queries, value channels]."""
  depth, value_depth = query.shape[1] // _HEADS, value.shape[1] // _HEADS
  mean, variance, gamma, _ = (v.numpy() for v in (
      attention.norm_similarity.moving_mean, attention.norm_similarity.moving_variance,
      attention.norm_similarity.gamma, attention.norm_similarity.beta))
  heads = []
  for h in range(_HEADS):
    q, k = (x[:, h * depth:(h + 1) * depth] for x in (query, key))
    logits = (q @ k.T - mean[h]) / np.sqrt(variance[h] + attention.norm_similarity.epsilon)
    heads.append(_softmax(gamma[h] * logits, 1) @ value[:, h * value_depth:(h + 1) * value_depth])
  read = np.stack(heads, 1)  # [queries, heads, channels]
  return _norm(attention.norm_output, read).reshape(len(query), -1)


def _plain_layer(layer, pixels, centers, embedding, earlier):
  """One image: (pixels [h, w, c], centers [n, d], embedding, logits S) -> the same, and points."""
  options, switches = _SIZES, layer.clustering
  keys, (height, width, channels) = options.key_channels, pixels.shape
  flat = pixels.reshape(-1, channels)
  narrow_pixels = _project(layer.pixel_conv1, _gelu(flat), _gelu)
  narrow_centers = _project(layer.memory_conv1, centers, _gelu)
  points = None
  if switches.num_points:
    hidden = centers
    for part in layer.reference_mlp:
      hidden = _project(part, hidden, _gelu)
    embedding = embedding + _project(layer.reference_offset, hidden)              # Equation 9.
    points = 1 / (1 + np.exp(-embedding))                                         # Equation 10.
    if switches.coordinate_convolutions:
      narrow_centers = _project(layer.center_convolution,                         # Equation 11.
                                np.concatenate([narrow_centers, points], 1), _gelu)
      grid = np.stack(np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width),
                                  indexing='ij'), -1)
      maps = np.concatenate([narrow_pixels.reshape(height, width, -1), grid], -1)
      narrow_pixels = _convolve(layer.pixel_convolution, maps).reshape(height * width, -1)
  pixel_qkv = np.split(_project(layer.pixel_qkv, narrow_pixels), [keys, 2 * keys], 1)
  center_qkv = np.split(_project(layer.memory_qkv, narrow_centers), [keys, 2 * keys], 1)
  read = _attend(layer.memory_attention, center_qkv[0],
                 np.concatenate([pixel_qkv[1], center_qkv[1]]),
                 np.concatenate([pixel_qkv[2], center_qkv[2]]))
  logits = None
  if switches.updates_clusters:
    assign = layer.pixel_attention
    affinity = _norm(assign.norm_affinity, (pixel_qkv[0] @ center_qkv[1].T)[..., None])[..., 0]
    affinity = affinity - _norm_offset(assign.norm_affinity)
    logits = affinity + (0 if earlier is None else earlier)
    z = _softmax(logits, 1)                                                       # Equation 6.
    read = read + _norm(assign.norm_centers, z.T @ pixel_qkv[2])                  # Equation 7.
    of_pixels = _norm(assign.norm_pixels, z @ center_qkv[2])                      # Equation 8.
  else:
    of_pixels = _attend(layer.pixel_attention, pixel_qkv[0], center_qkv[1], center_qkv[2])
  centers = _gelu(centers + _project(layer.memory_conv3, _gelu(read)))
  hidden = _project(layer.feed_forward1, centers, _gelu)
  centers = _gelu(centers + _project(layer.feed_forward2, hidden))
  flat = flat + _project(layer.pixel_conv3, _gelu(of_pixels))
  return flat.reshape(pixels.shape), centers, embedding, logits, points


def _norm_offset(norm):
  """What the norm adds to all logits, which no softmax sees: the layer leaves it out."""
  return float(norm.beta - norm.gamma * norm.moving_mean
               / tf.sqrt(norm.moving_variance + norm.epsilon))


_SWITCHES = {
    'all': {},
    'no coordinates': {'coordinate_convolutions': False},
    'clustering alone': {'num_points': 0, 'coordinate_convolutions': False},
    'location alone': {'updates_clusters': False},
}


@pytest.mark.parametrize('switches', _SWITCHES.values(), ids=_SWITCHES)
@pytest.mark.parametrize('has_earlier', [False, True])
def test_a_layer_is_the_equations(switches, has_earlier):
  layer = _layer(**switches)
  pixels, clusters = _inputs(affinities=[_SIZE] if has_earlier else [],
                             num_points=switches.get('num_points', _POINTS))
  new_pixels, found = layer(pixels, clusters)
  for image in range(2):
    of_image = [None if x is None else x[image].numpy().astype(np.float64)
                for x in (pixels, clusters.centers, clusters.embedding)]
    earlier = clusters.affinities[0][image].numpy().reshape(-1, _CLUSTERS) if has_earlier else None
    expected = _plain_layer(layer, *of_image, earlier)
    np.testing.assert_allclose(new_pixels[image], expected[0], atol=2e-5)
    np.testing.assert_allclose(found.centers[image], expected[1], atol=2e-5)
    if clusters.embedding is not None:
      np.testing.assert_allclose(found.embedding[image], expected[2], atol=1e-5)
      np.testing.assert_allclose(found.references[-1][image],
                                 expected[4].reshape(_CLUSTERS, _POINTS, 2), atol=1e-5)
    if expected[3] is not None:
      np.testing.assert_allclose(found.affinities[-1][image],
                                 expected[3].reshape(*_SIZE, _CLUSTERS), atol=2e-5)
  assert len(found.affinities) == has_earlier + switches.get('updates_clusters', True)
  assert len(found.references) == (clusters.embedding is not None)


def test_logits_of_another_resolution_are_resized():
  layer = _layer()
  pixels, clusters = _inputs(affinities=[(2, 2)])
  corners = tf.constant([0, _SIZE[0] - 1]), tf.constant([0, _SIZE[1] - 1])
  with_earlier = layer(pixels, clusters)[1].affinities
  without = layer(pixels, clusters._replace(affinities=()))[1].affinities
  difference = (with_earlier[-1] - without[-1]).numpy()
  expected = clusters.affinities[0].numpy()
  for i, row in enumerate(corners[0]):
    for j, column in enumerate(corners[1]):
      np.testing.assert_allclose(difference[:, row, column], expected[:, i, j], atol=1e-5)


def test_coordinates_of_corners_are_0_and_1():
  grid = clustering.pixel_coordinates(3, 5).numpy()
  assert grid.shape == (3, 5, 2)
  np.testing.assert_allclose(grid[0, 0], [0, 0])
  np.testing.assert_allclose(grid[2, 4], [1, 1])
  np.testing.assert_allclose(grid[1, 1], [0.5, 0.25])
  np.testing.assert_allclose(clustering.pixel_coordinates(1, 1), np.zeros([1, 1, 2]))


def test_assignments_are_reported():
  layer = _layer()
  with attention_records.recording() as records:
    _, clusters = layer(*_inputs())
  (record,) = (r for r in records if isinstance(r, attention_records.AssignmentRecord))
  assert record.size == _SIZE
  np.testing.assert_allclose(tf.reduce_sum(record.weights, -1), 1, atol=1e-5)
  np.testing.assert_allclose(
      tf.reshape(record.weights, [2, *_SIZE, _CLUSTERS]),
      tf.nn.softmax(clusters.affinities[-1]), atol=1e-6)


# === Training ===


def test_training_normalizes_by_the_batch():
  """With the statistics of a batch as moving ones, inference gives what training gave."""
  layer = _layer()
  for norm in layer.submodules:
    if isinstance(norm, BatchNorm):
      norm.momentum = 0.0
  pixels, clusters = _inputs(affinities=[_SIZE])
  trained = layer(pixels, clusters, training=True)
  inferred = layer(pixels, clusters)
  for found, expected in zip(tf.nest.flatten(inferred), tf.nest.flatten(trained)):
    # Of rank 4, a moving variance is the unbiased one.
    np.testing.assert_allclose(found, expected, atol=0.1)


@pytest.mark.parametrize('of', ['centers', 'embedding', 'pixels'])
def test_gradients_are_finite_differences(of):
  layer = _layer()
  pixels, clusters = _inputs(affinities=[_SIZE])
  rng = np.random.default_rng(3)
  outputs = tf.nest.flatten(layer(pixels, clusters, training=True))
  weights = [tf.constant(rng.normal(size=x.shape), tf.float32) for x in outputs]

  def loss(value):
    inputs = (value, clusters) if of == 'pixels' else (pixels, clusters._replace(**{of: value}))
    found = tf.nest.flatten(layer(*inputs, training=True))
    return tf.add_n([tf.reduce_sum(w * x) for w, x in zip(weights, found)])

  value = pixels if of == 'pixels' else getattr(clusters, of)
  with tf.GradientTape() as tape:
    tape.watch(value)
    total = loss(value)
  gradient = tape.gradient(total, value)
  direction = tf.constant(rng.normal(size=value.shape), tf.float32)
  step = 1e-2
  numeric = (loss(value + step * direction) - loss(value - step * direction)) / (2 * step)
  np.testing.assert_allclose(tf.reduce_sum(gradient * direction), numeric, rtol=2e-2, atol=1e-2)


def test_the_factory_follows_the_stride():
  make = functools.partial(
      clustering.ClusteringLayers, _SIZES._replace(channels=32), ClusteringOptions(),
      _CENTER_CHANNELS, BatchNorm)
  assert make(16)(4, 12, 8, 1.0) is None
  assert make(16)(16, 12, 16, 1.0).options.channels == 32
  assert make(16)(8, 12, 16, 0.5).options.channels == 16
