"""Moments of products equal the moments computed from the products themselves."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.product_moments import product_moments


def _products(first, second):
  return np.einsum('bhid,bhjd->hbij', first, np.broadcast_to(
      second, (*first.shape[:2], *second.shape[2:])))


def _vectors(seed, heads, offset):
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(6, 4, 11, 8)) + offset
  second = rng.normal(size=(6, heads, 9, 8)) - offset
  return first, second


# Offsets of 300 make products of a million whose deviation is a thousandth of that.
@pytest.mark.parametrize('offset', [0, 1, 300])
@pytest.mark.parametrize('heads', [4, 1])
def test_they_are_those_of_the_products(heads, offset):
  first, second = _vectors(1, heads, offset)
  mean, variance = product_moments(first, second)
  products = _products(first, second).reshape(4, -1)
  np.testing.assert_allclose(mean, products.mean(1), rtol=1e-6, atol=1e-5)
  np.testing.assert_allclose(variance, products.var(1), rtol=1e-4 if offset > 1 else 1e-5)


@pytest.mark.parametrize('heads', [4, 1])
def test_weights_leave_pairs_out(heads):
  first, second = _vectors(2, heads, 0.5)
  seen = np.random.default_rng(3).random((6, 9)) < 0.6
  mean, variance = product_moments(first, second, tf.cast(seen, tf.float32))
  products = _products(first, second).transpose(0, 1, 3, 2)[:, seen].reshape(4, -1)
  np.testing.assert_allclose(mean, products.mean(1), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(variance, products.var(1), rtol=1e-5)


def test_gradients_are_those_of_the_products():
  first, second = (tf.constant(x, tf.float32) for x in _vectors(4, 4, 1.0))
  direction = tf.constant(np.random.default_rng(5).normal(size=(2, 4)), tf.float32)

  def through_products(first, second):
    products = tf.einsum('bhid,bhjd->hbij', first, second)
    return tf.nn.moments(products, [1, 2, 3])

  gradients = []
  for moments in (product_moments, through_products):
    with tf.GradientTape() as tape:
      tape.watch([first, second])
      value = tf.reduce_sum(tf.stack(moments(first, second)) * direction)
    gradients.append(tape.gradient(value, [first, second]))
  for ours, expected in zip(*gradients):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_vectors_that_do_not_vary_have_no_variance():
  first, second = np.full((3, 2, 5, 4), 7.0), np.full((3, 2, 6, 4), -3.0)
  mean, variance = product_moments(first, second)
  np.testing.assert_allclose(mean, [-84.0, -84.0], rtol=1e-6)
  np.testing.assert_array_equal(variance, [0.0, 0.0])
