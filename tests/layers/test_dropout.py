"""Dropout: scaling, rates, seeds, parts of a batch, recomputation."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import dropout as dropout_lib
from deeplab_tf.layers import randomness
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.recomputation import recompute


@pytest.fixture(name='way', params=['at once', 'by image'], autouse=True)
def fixture_way(request, monkeypatch):
  """Lets each test draw the numbers of all images at once, and those of one image at a time."""
  if request.param == 'by image':
    monkeypatch.setattr(dropout_lib, '_MOST_AT_ONCE', 0)


def _kept(images=8, first=0, batch=8, seed=(3, 5)):
  with randomness.seeded(tf.convert_to_tensor(seed), batch, first):
    return dropout(tf.ones([images, 3, 4]), 0.25, True)


def test_values_are_zero_or_scaled_so_that_their_mean_stays():
  x = tf.random.stateless_normal([20, 50, 7], [0, 1])
  dropped = dropout(x, 0.2, True).numpy()
  is_kept = dropped != 0
  assert 0.75 < is_kept.mean() < 0.85
  np.testing.assert_allclose(dropped[is_kept], x.numpy()[is_kept] / 0.8, rtol=1e-6)
  for axis in (0, 1, 2):  # Each value on its own.
    assert is_kept.mean(axis).std() > 0


def test_nothing_is_dropped_at_inference_or_with_a_rate_of_zero():
  x = tf.ones([2, 3])
  assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x


@pytest.mark.parametrize('jit_compile', [False, True])
def test_parts_of_a_batch_drop_what_the_whole_does(jit_compile):
  whole = _kept()
  part = tf.function(lambda first, seed: _kept(2, first, seed=seed), autograph=False,
                     jit_compile=jit_compile)
  parts = [part(tf.constant(first), tf.constant((3, 5))) for first in (0, 2, 4, 6)]
  np.testing.assert_array_equal(tf.concat(parts, 0), whole)


def test_images_calls_and_seeds_differ():
  with randomness.seeded(tf.constant([3, 5])):
    first, second = (dropout(tf.ones([2, 20]), 0.5, True).numpy() for _ in range(2))
  with randomness.seeded(tf.constant([3, 6])):
    other = dropout(tf.ones([2, 20]), 0.5, True).numpy()
  assert (first != second).any() and (first != other).any() and (first[0] != first[1]).any()


@pytest.mark.parametrize('traced', [False, True])
def test_recomputation_drops_the_same_values(traced):
  x = tf.ones([2, 30])

  def step():
    with tf.GradientTape() as tape:
      tape.watch(x)
      output = recompute(lambda x: dropout(x, 0.5, True), x)
    return output, tape.gradient(output, x)

  output, gradient = (tf.function(step, autograph=False) if traced else step)()
  np.testing.assert_array_equal(output, gradient)
  assert set(np.unique(output)) == {0, 2}


def test_it_keeps_the_type():
  dropped = dropout(tf.ones([2, 30], tf.bfloat16), 0.5, True)
  assert dropped.dtype == tf.bfloat16 and set(np.unique(tf.cast(dropped, tf.float32))) == {0, 2}
