"""Recomputed activations give the same gradients and statistics as stored ones."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathLayers, DualPathOptions
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.variable_paths import variables_by_path

_OPTIONS = BlockGroupOptions(output_stride=16, axial_beyond_stride=16, drop_path_keep_prob=0.5)


def _group(recomputed: str, with_memory: bool) -> BlockGroup:
  keras.utils.set_random_seed(0)
  options = _OPTIONS._replace(recomputed=recomputed)
  norm = functools.partial(BatchNorm, momentum=0.5)
  layers = DualPathLayers(DualPathOptions(channels=8, feed_forward_channels=16), 12, norm, 16)
  # One convolutional block (its input has stride 8), then an axial one; a path is dropped.
  group = BlockGroup(
      in_channels=16, filters=8, num_blocks=2, stride=2, input_stride=8, options=options, norm=norm,
      query_layer=functools.partial(layers, 16) if with_memory else None)
  for path, variable in variables_by_path(group).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.2))
  return group


def _step(group: BlockGroup, with_memory: bool, compiled: bool, seeded: bool = True):
  rng = np.random.default_rng(0)
  pixels = tf.constant(rng.standard_normal((3, 9, 11, 16)), tf.float32)
  memory = tf.constant(rng.standard_normal((3, 5, 12)), tf.float32) if with_memory else None
  variables = group.trainable_variables

  def step():
    with tf.GradientTape() as tape:
      tape.watch(pixels)
      if seeded:
        with randomness.seeded(tf.constant([1, 2])):
          outputs = group(pixels, memory, training=True)
      else:
        outputs = group(pixels, memory, training=True)
      loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in outputs if x is not None])
    gradients = tape.gradient(loss, [pixels, *variables])
    return loss, [None if g is None else tf.convert_to_tensor(g) for g in gradients]

  loss, gradients = (tf.function(step) if compiled else step)()
  by_id = {id(v): path for path, v in variables_by_path(group).items()}
  gradients = dict(zip(['pixels'] + [by_id[id(v)] for v in variables], gradients))
  statistics = {path: v.numpy() for path, v in variables_by_path(group).items() if 'moving' in path}
  return loss.numpy(), gradients, statistics


@pytest.fixture(scope='module')
def kept():
  """Results with all activations kept: with memory (compiled) and without."""
  return {with_memory: _step(_group('nothing', with_memory), with_memory, compiled=with_memory)
          for with_memory in (True, False)}


@pytest.mark.parametrize('recomputed,with_memory', [
    ('axial_blocks', False), ('blocks', True), ('block_groups', True), ('block_groups', False)])
def test_a_step_is_the_same_as_with_kept_activations(kept, recomputed, with_memory):
  expected = kept[with_memory]
  actual = _step(_group(recomputed, with_memory), with_memory, compiled=with_memory)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  scale = max(np.abs(g).max() for g in expected[1].values() if g is not None)
  for path, gradient in expected[1].items():
    other = actual[1][path]
    if gradient is None:
      assert other is None or not np.any(other), path
      continue
    np.testing.assert_allclose(other, gradient, rtol=1e-3, atol=1e-5 * scale, err_msg=path)
  # Recorded once: a second time would bring them nearer to the batch's.
  moved = 0
  for path, value in expected[2].items():
    np.testing.assert_allclose(actual[2][path], value, rtol=1e-4, atol=1e-6, err_msg=path)
    moved += np.abs(value - (1.0 if 'variance' in path else 0.0)).max() > 1e-3
  assert moved > len(expected[2]) / 2


def test_without_a_seed_both_runs_drop_the_same_branches():
  group = _group('blocks', False)
  drawn = []

  def block(x):
    mask = tf.floor(0.5 + randomness.uniform([64, 1]))
    drawn.append(mask)
    return x * mask

  x = tf.ones([64, 4])
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = recompute(block, x)
  gradient = tape.gradient(y, x)
  assert len(drawn) == 2
  np.testing.assert_array_equal(drawn[0], drawn[1])
  np.testing.assert_array_equal(gradient, np.broadcast_to(drawn[0], [64, 4]))
  assert 0 < drawn[0].numpy().sum() < 64
  _step(group, False, False, seeded=False)


def test_nothing_is_recomputed_at_inference():
  runs = []
  group = _group('blocks', False)
  original = group.blocks[0].call
  group.blocks[0].call = lambda *a, **k: runs.append(1) or original(*a, **k)
  x = tf.ones([1, 9, 9, 16])
  with tf.GradientTape() as tape:
    tape.watch(x)
    y, _ = group(x, None, training=False)
  tape.gradient(y, x)
  assert len(runs) == 1
