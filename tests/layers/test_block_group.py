"""A block group passes queries of any form through the layers that a factory returns."""

import functools
from typing import NamedTuple, Optional

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathLayers, DualPathOptions
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.hourglass import Hourglass
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.stochastic_depth import drop_path
from deeplab_tf.layers.variable_paths import variables_by_path

NORM = functools.partial(BatchNorm, momentum=0.5)


class Queries(NamedTuple):
  """A state of more than features, as that of clustering transformers."""
  features: tf.Tensor
  points: tf.Tensor
  affinity: Optional[tf.Tensor] = None


class Clustering(keras.layers.Layer):
  """Queries collect the pixels that are similar to them, and remember how similar."""

  def __init__(self, channels, query_channels, keep_prob):
    super().__init__()
    self.kernel = self.add_weight('kernel', (channels, query_channels), initializer='he_normal')
    self.keep_prob = keep_prob

  def call(self, pixels, queries, training=False):
    values = tf.reshape(pixels, [pixels.shape[0], -1, pixels.shape[-1]]) @ self.kernel
    logits = tf.matmul(queries.features, values, transpose_b=True) / 10.0
    if queries.affinity is not None:
      logits += queries.affinity
    update = tf.nn.softmax(logits) @ values
    features = queries.features + drop_path(update, self.keep_prob, training)
    return pixels + tf.reduce_mean(values), Queries(features, queries.points + 1.0, logits)


def _group(recomputed, places=None):
  keras.utils.set_random_seed(0)
  options = BlockGroupOptions(axial_beyond_stride=0, drop_path_keep_prob=0.5,
                              recomputed=recomputed)

  def layer(stride, channels, output_stride, keep_prob):
    if places is not None:
      places.append((stride, channels, output_stride, keep_prob))
    return Clustering(channels, 6, keep_prob)

  group = BlockGroup(
      in_channels=16, filters=8, num_blocks=2, stride=2, input_stride=16, options=options,
      norm=NORM, query_layer=functools.partial(layer, 8))
  for path, variable in variables_by_path(group).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.3))
  return group


def _queries(with_affinity=False):
  rng = np.random.default_rng(1)
  affinity = rng.normal(size=(2, 4, 35)) if with_affinity else None
  return Queries(*(None if x is None else tf.constant(x, tf.float32) for x in (
      rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 4, 2)), affinity)))


def test_the_factory_is_told_the_place_of_each_layer():
  places = []
  group = _group('nothing', places)
  assert places == [(8, 32, 32, 0.5)] * 2
  assert [path for path in variables_by_path(group) if path.startswith('transformers')] == [
      'transformers/0/kernel', 'transformers/1/kernel']


@pytest.mark.parametrize('with_affinity', [False, True])
def test_queries_pass_from_layer_to_layer(with_affinity):
  group = _group('nothing')
  pixels, queries = tf.random.stateless_normal([2, 5, 7, 16], [0, 1]), _queries(with_affinity)
  y, result = group(pixels, queries)
  expected, state = pixels, queries
  for block, layer in zip(group.blocks, group.transformers):
    expected, state = layer(block(expected), state)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  assert isinstance(result, Queries)
  for actual, wanted in zip(result, state):
    np.testing.assert_allclose(actual, wanted, atol=1e-5)
  np.testing.assert_allclose(result.points, queries.points + 2.0, rtol=1e-6)


def _step(recomputed, with_affinity):
  group, queries = _group(recomputed), _queries(with_affinity)
  pixels = tf.random.stateless_normal([2, 5, 7, 16], [0, 1])
  sources = [pixels, *(x for x in queries if x is not None), *group.trainable_variables]

  @tf.function
  def step():
    with tf.GradientTape() as tape, randomness.seeded(tf.constant([3, 4])):
      tape.watch([x for x in sources if not isinstance(x, tf.Variable)])
      outputs = tf.nest.flatten(group(pixels, queries, training=True))
      loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in outputs])
    return loss, tape.gradient(loss, sources)

  loss, gradients = step()
  return [loss.numpy(), *(np.asarray(g) for g in gradients)]


@pytest.mark.parametrize('recomputed, with_affinity', [('blocks', False), ('blocks', True),
                                                       ('block_groups', False),
                                                       ('block_groups', True)])
def test_recomputation_takes_queries_of_any_form(recomputed, with_affinity):
  kept = _step('nothing', with_affinity)
  for actual, expected in zip(_step(recomputed, with_affinity), kept):
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_dual_path_layers_follow_blocks_from_a_stride_on():
  layers = DualPathLayers(DualPathOptions(channels=16, num_heads=2), 12, NORM, 16)
  options = BlockGroupOptions(axial_beyond_stride=0)
  groups = [BlockGroup(
      in_channels=16, filters=8, num_blocks=1, stride=1, input_stride=stride, options=options,
      norm=NORM, query_layer=functools.partial(layers, stride))
            for stride in (8, 16, 32)]
  # Their channels grow with the stride.
  assert [group.transformers[0] and group.transformers[0].options.channels
          for group in groups] == [None, 16, 32]
  none = BlockGroup(
      in_channels=16, filters=8, num_blocks=1, stride=1, input_stride=32, options=options,
      norm=NORM, query_layer=functools.partial(layers._replace(beyond_stride=0), 32))
  assert none.transformers == [None]


def test_the_steps_of_a_decoder_ask_for_layers_at_their_stride():
  places = []

  def layers(stride, channels, output_stride, keep_prob):
    places.append((stride, channels, output_stride, keep_prob))

  options = BlockGroupOptions(axial_beyond_stride=0)
  Hourglass(
      strides=[8, 4, 8, 16], features=[Feature('stage2', 4, 32), Feature('stage5', 16, 256)],
      num_blocks=1, width=0.125, options=options, norm=NORM, query_layers=layers)
  # The lowest is that of stride 32 in the network without dilation.
  assert places == [(8, 64, 8, 1.0), (4, 32, 4, 1.0), (8, 64, 8, 1.0), (16, 256, 32, 1.0)]
