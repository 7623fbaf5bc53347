"""Mean and variance of all products of two sets of vectors, without computing the products.

A batch norm of attention logits needs them in training. The logits of queries q and keys k are
q·k, and the sum of (q·k)^2 over all pairs is the sum over the entries of (sum of q q^T) times
(sum of k k^T), elementwise: small matrices in place of passes over the largest tensors of the
network, in the backward pass as well. They pay off where many vectors meet many: over whole axes.
"""

from typing import Optional

import tensorflow as tf

from deeplab_tf.layers.shapes import dimensions

# With this many other vectors per channel, the products take more work than the moments.
_PRODUCTS_PER_CHANNEL = 4


def pays(vectors: tf.Tensor, others: Optional[int]) -> bool:
  """Returns whether moments without products are faster, in forward and backward pass.

  Args:
    vectors: [..., channels].
    others: Number of vectors that each of them is multiplied with; None: unknown, so taken as many.
  """
  return others is None or others >= _PRODUCTS_PER_CHANNEL * vectors.shape[-1]


def product_moments(first: tf.Tensor, second: tf.Tensor,
                    weights: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the mean and the (biased) variance of first[b, h, i] · second[b, h, j].

  Args:
    first: [batch, heads, i, channels].
    second: [batch, heads or 1, j, channels].
    weights: float32 [batch, j], weights of the pairs with each second vector; None: 1.

  Returns:
    Two float32 [heads], over batch, i and j.
  """
  first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
  # The means are subtracted first: a variance that is computed as mean of squares minus squared
  # mean loses all digits where the mean is large. Of the four products of vectors and means, that
  # of the two means is a number per head, added at the end, and the two mixed ones are one more
  # channel each. (What the vectors of one batch entry have in common beyond that stays in the
  # mean.)
  first_mean, second_mean = (tf.reduce_mean(x, [0, 2], keepdims=True) for x in (first, second))
  first, second = first - first_mean, second - second_mean
  of_first = tf.reduce_sum(first * second_mean, -1, keepdims=True)
  of_second = tf.reduce_sum(second * first_mean, -1, keepdims=True)
  second = tf.broadcast_to(second, [*dimensions(of_second)[:3], second.shape[-1]])
  first = tf.concat([first, of_first, tf.ones_like(of_first)], -1)
  second = tf.concat([second, tf.ones_like(of_second), of_second], -1)

  weighted = second if weights is None else second * weights[:, None, :, None]
  length = dimensions(first)[2]
  pairs = tf.size(second[:, 0, :, 0]) if weights is None else tf.reduce_sum(weights)
  count = tf.cast(pairs, tf.float32) * tf.cast(length, tf.float32)
  mean = tf.reduce_sum(tf.reduce_sum(first, 2) * tf.reduce_sum(weighted, 2), [0, 2]) / count
  squares = tf.matmul(first, first, transpose_a=True) * tf.matmul(second, weighted,
                                                                  transpose_a=True)
  variance = tf.reduce_sum(squares, [0, 2, 3]) / count - tf.square(mean)
  offset = tf.reduce_sum(first_mean * second_mean, [0, 2, 3])
  return mean + offset, tf.maximum(variance, 0.0)


def positional_moments(vectors: tf.Tensor, positions: tf.Tensor,
                       seen: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the mean and the variance of the products of vectors and relative positions.

  Args:
    vectors: [rows * blocks, places, heads, channels].
    positions: [places, others, channels], for each place of a block.
    seen: bool [blocks, places, others], the pairs that count; None: all pairs, without blocks.

  Returns:
    Two float32 [heads].
  """
  n, places, heads, channels = dimensions(vectors)
  blocks = 1 if seen is None else dimensions(seen)[0]
  vectors = tf.reshape(vectors, [n // blocks, blocks * places, heads, channels])
  weights = None
  if seen is not None:
    weights = tf.reshape(tf.cast(seen, tf.float32), [blocks * places, dimensions(positions)[1]])
    positions = tf.tile(positions, [blocks, 1, 1])
  return product_moments(tf.transpose(vectors, [1, 2, 0, 3]), positions[:, None], weights)
