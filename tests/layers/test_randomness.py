"""Random numbers belong to the image, however the batch is shared, compiled or split."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import randomness


def _draw(first, images, batch=8, seed=(3, 5)):
  with randomness.seeded(tf.convert_to_tensor(seed), batch, first):
    return [randomness.uniform([images, 2]), randomness.uniform([images, 3, 1])]


@pytest.mark.parametrize('jit_compile', [False, True])
def test_parts_of_a_batch_draw_the_numbers_of_the_whole(jit_compile):
  whole = _draw(0, 8)
  draw = tf.function(lambda first, seed: _draw(first, 2, seed=seed), autograph=False,
                     jit_compile=jit_compile)
  # A seed that is no constant: TensorFlow folds those before it compiles.
  parts = [draw(tf.constant(first), tf.constant((3, 5))) for first in (0, 2, 4, 6)]
  for i, expected in enumerate(whole):
    np.testing.assert_array_equal(tf.concat([part[i] for part in parts], 0), expected)


def test_without_a_batch_the_shape_is_all_there_is():
  with randomness.seeded(tf.constant([3, 5])):
    alone = randomness.uniform([8, 2])
  np.testing.assert_array_equal(alone, _draw(0, 8)[0])


def test_calls_and_seeds_differ():
  first, second = _draw(0, 8)
  assert not np.allclose(first[:, 0], second[:, 0, 0])
  assert not np.allclose(first, _draw(0, 8, seed=(3, 6))[0])
  assert not np.allclose(first, _draw(0, 8, seed=(4, 5))[0])


def test_numbers_are_uniform_and_independent_over_steps_and_calls():
  numbers = np.stack([np.concatenate([np.ravel(x) for x in _draw(0, 8, seed=(0, step))])
                      for step in range(2000)])
  assert numbers.min() >= 0 and numbers.max() < 1
  np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.03)
  np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.01)
  correlations = np.corrcoef(numbers.T)[np.triu_indices(numbers.shape[1], 1)]
  assert np.abs(correlations).max() < 0.1
  following = [np.corrcoef(column[:-1], column[1:])[0, 1] for column in numbers.T]
  assert np.abs(following).max() < 0.1


def _draw_by_image(first, images, batch=8, seed=(3, 5)):
  """Returns numbers drawn image by image, with two draws of each."""
  with randomness.seeded(tf.convert_to_tensor(seed), batch, first):
    seeds = randomness.image_seeds(images)
  return tf.map_fn(lambda own: tf.stack([randomness.uniform_of(own, i, [3, 2]) for i in (0, 1)]),
                   seeds, fn_output_signature=tf.TensorSpec([2, 3, 2]))


@pytest.mark.parametrize('jit_compile', [False, True])
def test_each_image_can_draw_on_its_own(jit_compile):
  whole = _draw_by_image(0, 8)
  draw = tf.function(lambda first, seed: _draw_by_image(first, 2, seed=seed), autograph=False,
                     jit_compile=jit_compile)
  parts = [draw(tf.constant(first), tf.constant((3, 5))) for first in (0, 2, 4, 6)]
  np.testing.assert_array_equal(tf.concat(parts, 0), whole)


@pytest.mark.slow
def test_numbers_drawn_image_by_image_are_uniform_and_independent():
  numbers = np.stack([np.ravel(_draw_by_image(0, 2, batch=2, seed=(0, step)))
                      for step in range(1000)])
  assert numbers.min() >= 0 and numbers.max() < 1
  np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.04)
  np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.015)
  correlations = np.corrcoef(numbers.T)[np.triu_indices(numbers.shape[1], 1)]
  assert np.abs(correlations).max() < 0.15


def test_outside_of_a_stream_images_have_seeds_too():
  first, second = randomness.image_seeds(3), randomness.image_seeds(3)
  assert first.shape == (3, 2) and len(np.unique([first, second])) > 6
