"""Stochastic depth: residual branches that are dropped at random."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.stochastic_depth import drop_path, keep_probabilities, keep_probability
from deeplab_tf.user_errors import ConfigError


def test_the_linear_schedule_falls_with_the_logarithm_of_the_stride():
  found = [keep_probability(0.8, 'linear', stride, 4) for stride in (2, 4, 8, 16, 32)]
  np.testing.assert_allclose(found, [1.0, 0.95, 0.9, 0.85, 0.8])
  assert keep_probability(0.8, 'constant', 4, 4) == 0.8
  with pytest.raises(ConfigError, match='"cosine": allowed are constant, linear'):
    keep_probability(0.8, 'cosine', 4, 4)


def test_the_linear_schedule_by_blocks_is_that_of_swin():
  np.testing.assert_allclose(keep_probabilities(0.7, 'linear', 7), 1 - np.linspace(0, 0.3, 7))
  assert keep_probabilities(0.7, 'linear', 1) == [1.0]
  assert keep_probabilities(0.7, 'constant', 3) == [0.7, 0.7, 0.7]
  with pytest.raises(ConfigError, match='"cosine": allowed are constant, linear'):
    keep_probabilities(0.7, 'cosine', 3)


def test_samples_are_dropped_whole_and_the_others_rescaled():
  branch = tf.random.stateless_normal([400, 2, 3], [0, 1])
  with randomness.seeded(tf.constant([0, 1])):
    found = drop_path(branch, 0.75, training=True).numpy()
  kept = np.abs(found).max((1, 2)) > 0
  np.testing.assert_allclose(found[kept], branch.numpy()[kept] / 0.75, rtol=1e-6)
  assert 0.68 < kept.mean() < 0.82
  np.testing.assert_array_equal(drop_path(branch, 0.75, training=False), branch)
  np.testing.assert_array_equal(drop_path(branch, 1.0, training=True), branch)
