"""Random changes: what they keep, and that the seed alone decides."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf.data import transforms

sizes = strategies.tuples(strategies.integers(1, 40), strategies.integers(1, 40))


def numbered(height, width):
  """An image whose colours tell each pixel's place, and the same as a label from 1 on."""
  label = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
  return tf.repeat(tf.cast(label[..., None], tf.float32), 3, -1), tf.constant(label)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(sizes, sizes, strategies.integers(0, 2**31 - 1))
def test_crop_is_a_window_with_image_and_label_together(size, crop, seed):
  image, label = numbered(*size)
  out_image, out_label = transforms.random_crop(image, label, crop, 0, tf.constant([seed, 1]))
  assert out_image.shape == (*crop, 3) and out_label.shape == crop
  out_image, out_label = out_image.numpy()[..., 0], out_label.numpy()
  inside = out_label > 0
  np.testing.assert_array_equal(out_image[inside], out_label[inside])
  np.testing.assert_array_equal(out_image[~inside], 127.5)
  assert inside.sum() == min(size[0], crop[0]) * min(size[1], crop[1])
  y, x = np.nonzero(inside)
  rows, columns = (out_label[inside] - 1) // size[1], (out_label[inside] - 1) % size[1]
  assert len(set(rows - y)) == len(set(columns - x)) == 1


def test_crops_reach_every_place_and_small_images_stay_off_the_last_one():
  label = tf.ones([3, 6], tf.int32)
  image = tf.zeros([3, 6, 3])
  tops, lefts = set(), set()
  for seed in range(120):
    out = transforms.random_crop(image, label, [6, 4], 0, tf.constant([seed, 0]))[1].numpy()
    tops.add(int(np.nonzero(out)[0].min()))
  # As in DeepLab2 the offset is below crop - size = 3, so the image never touches the bottom.
  assert tops == {0, 1, 2}
  image, label = numbered(1, 6)
  for seed in range(120):
    out = transforms.random_crop(image, label, [1, 4], 0, tf.constant([seed, 0]))[1].numpy()
    lefts.add(int(out[0, 0]))
  assert lefts == {1, 2, 3}


def test_flip_mirrors_half_of_the_time():
  image, label = numbered(2, 3)
  flipped = 0
  for seed in range(200):
    out_image, out_label = transforms.random_flip(image, label, tf.constant([seed, 5]))
    np.testing.assert_array_equal(out_image[..., 0], tf.cast(out_label, tf.float32))
    flipped += int(out_label[0, 0] == 3)
  assert 70 < flipped < 130


def test_random_scale_draws_each_step():
  image, label = numbered(20, 40)
  found = {tuple(transforms.random_scale(image, label, 0.5, 1.5, 0.5, tf.constant([s, 0]))[1].shape)
           for s in range(40)}
  assert found == {(10, 20), (20, 40), (30, 60)}
  found = {transforms.random_scale(image, label, 0.5, 1.5, 0.0, tf.constant([s, 0]))[1].shape[1]
           for s in range(40)}
  assert len(found) > 15 and min(found) >= 20 and max(found) <= 60


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


def test_normalisation_round_trip():
  values = tf.constant([0.0, 127.5, 255.0])
  np.testing.assert_allclose(transforms.normalize(values), [-1, 0, 1], atol=1e-7)
  np.testing.assert_allclose(
      transforms.denormalize(transforms.normalize(values)), values, atol=1e-4)
