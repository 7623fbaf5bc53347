"""The sum of features of different sizes and channels."""

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.resized_fuse import ResizedFuse
from deeplab_tf.layers.resizing import resize_bilinear

RNG = np.random.default_rng(0)


def _feature(height, width, channels):
  return tf.constant(RNG.normal(size=(1, height, width, channels)), tf.float32)


def test_features_are_projected_behind_a_relu_resized_and_added():
  layer = ResizedFuse((4, 6), (16, 8), 6, 8, norm=BatchNorm)
  low, same = _feature(5, 7, 4), _feature(9, 13, 6)
  assert layer.projections[1] is None
  expected = same + resize_bilinear(layer.projections[0](tf.nn.relu(low)), (9, 13))
  np.testing.assert_allclose(layer([low, same], (9, 13)), expected, atol=1e-5)


def test_a_feature_of_twice_the_resolution_is_halved_by_its_projection():
  layer = ResizedFuse((4,), (8,), 6, 16, norm=BatchNorm)
  feature = _feature(9, 13, 4)
  assert layer.projections[0].stride == 2
  np.testing.assert_allclose(layer([feature], (5, 7)),
                             layer.projections[0](tf.nn.relu(feature)), atol=1e-6)
