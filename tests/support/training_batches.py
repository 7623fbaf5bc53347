"""Training batches as numpy arrays."""

import numpy as np
import tensorflow as tf

from deeplab_tf.data import catalog, pipeline


def batches(config, count, kind='mask', seed=1, **options):
  """Returns the first batches of the data set "shapes" that a config describes."""
  dataset = pipeline.train_dataset(config, catalog.built_in('shapes'), kind, seed, **options)
  return [tf.nest.map_structure(lambda x: x.numpy(), b) for b in dataset.take(count)]


def assert_equal(one, two):
  """Checks that two lists of batches are the same, bit by bit."""
  assert len(one) == len(two)
  for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two)):
    np.testing.assert_array_equal(a, b)
