"""Sizes, scales, resizing, normalization."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf.data.augmentation import transforms

sizes = strategies.tuples(strategies.integers(1, 40), strategies.integers(1, 40))


def numbered(height, width):
  """An image whose colors tell each pixel's place, and the same as a label from 1 on."""
  label = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
  return tf.repeat(tf.cast(label[..., None], tf.float32), 3, -1), tf.constant(label)


def test_scales_are_drawn_from_the_steps_or_from_the_range():
  found = {float(transforms.draw_scale(0.5, 1.5, 0.5, tf.constant([s, 0]))) for s in range(40)}
  assert found == {0.5, 1.0, 1.5}
  found = {float(transforms.draw_scale(0.5, 1.5, 0.0, tf.constant([s, 0]))) for s in range(40)}
  assert len(found) > 30 and 0.5 <= min(found) < 0.7 and 1.3 < max(found) <= 1.5


def test_scaled_sizes_are_rounded_down_and_never_0():
  np.testing.assert_array_equal(transforms.scaled_size(tf.constant([7, 20]), 0.5), [3, 10])
  np.testing.assert_array_equal(transforms.scaled_size(tf.constant([1, 20]), 0.5), [1, 10])


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(sizes, strategies.integers(8, 60), strategies.integers(8, 60),
                  strategies.sampled_from([0, 4, 16]))
def test_resized_sizes_stay_in_the_maximum(size, least, most, factor):
  height, width = transforms.size_in_range(
      tf.constant(size), (least, least), (most, most), factor).numpy()
  assert 1 <= height <= most and 1 <= width <= most
  if factor:
    assert (height - 1) % factor == (width - 1) % factor == 0


@pytest.mark.parametrize('size', [(5, 7), (1, 1)])
def test_resizing_to_the_same_size_changes_nothing(size):
  image, label = numbered(*size)
  new_image, new_label = transforms.resize(image, label, tf.constant(size))
  np.testing.assert_array_equal(new_image, image)
  np.testing.assert_array_equal(new_label, label)
