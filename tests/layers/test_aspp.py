"""Atrous spatial pyramid pooling."""

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.aspp import ASPP, scaled_pooling
from deeplab_tf.layers.normalization import BatchNorm

IMAGE = tf.constant(np.random.default_rng(0).normal(size=(2, 9, 11, 6)), tf.float32)


def test_branches_are_concatenated_and_projected():
  layer = ASPP(in_channels=6, channels=4, rates=(1, 2, 3), norm=BatchNorm)
  branches = [branch(IMAGE) for branch in layer.branches]
  pooled = layer.pool(tf.reduce_mean(IMAGE, [1, 2], keepdims=True))
  branches.append(tf.broadcast_to(pooled, [2, 9, 11, 4]))
  assert len(branches) == 5
  np.testing.assert_allclose(layer(IMAGE), layer.projection(tf.concat(branches, -1)), atol=1e-5)


def test_dilations_reach_as_far_as_they_say():
  layer = ASPP(in_channels=6, channels=4, rates=(1, 2, 4), norm=BatchNorm)
  changed = IMAGE.numpy()
  changed[0, 4, 5] += 10
  for branch, reach in zip(layer.branches, (0, 1, 2, 4)):
    differs = np.abs(branch(tf.constant(changed)) - branch(IMAGE)).max(-1)[0] > 1e-6
    rows, columns = np.nonzero(differs)
    assert {*rows} <= {4 - reach, 4, 4 + reach} and {*columns} <= {5 - reach, 5, 5 + reach}


def test_a_pooling_window_slides_over_larger_inputs():
  layer = ASPP(in_channels=6, channels=4, rates=(1,), norm=BatchNorm, pool_size=(5, 7))
  window = np.lib.stride_tricks.sliding_window_view(IMAGE.numpy(), (5, 7), (1, 2)).mean((-1, -2))
  np.testing.assert_allclose(layer._average(IMAGE), window, rtol=1e-4, atol=1e-5)
  # A window that is larger than the input is as large as the input.
  np.testing.assert_allclose(layer._average(IMAGE[:, :3, :3]),
                             tf.reduce_mean(IMAGE[:, :3, :3], [1, 2], keepdims=True), atol=1e-6)
  model = tf.Module()
  model.decoder = layer
  with scaled_pooling(model, 2.0):
    assert layer.pool_size == (9, 13)
  assert layer.pool_size == (5, 7)


def test_only_the_projection_is_left_where_that_is_asked_for():
  layer = ASPP(in_channels=6, channels=4, rates=(), norm=BatchNorm, only_projection=True)
  assert [v.shape.rank for v in layer.trainable_variables] == [4, 1, 1]
  np.testing.assert_array_equal(layer(IMAGE), layer.projection(IMAGE))
