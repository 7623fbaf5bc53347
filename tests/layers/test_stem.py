"""Stems: output sizes, channels, and no activation at the end."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.stem import make_stem

IMAGE = tf.constant(np.random.default_rng(0).normal(size=(1, 33, 48, 3)), tf.float32)


@pytest.mark.parametrize('kind, width, channels, kernels', [
    ('resnet', 1.0, 64, [7]), ('wide_resnet', 0.5, 32, [3]), ('inception', 0.25, 32, [3, 3, 3])])
def test_it_halves_the_image_and_ends_without_an_activation(kind, width, channels, kernels):
  stem = make_stem(kind, width, BatchNorm)
  found = stem(IMAGE)
  assert found.shape == (1, 17, 24, channels) and stem.channels == channels
  assert found.numpy().min() < 0 < found.numpy().max()
  sizes = [v.shape[0] for v in stem.trainable_variables if v.shape.rank == 4]
  assert sizes == kernels
