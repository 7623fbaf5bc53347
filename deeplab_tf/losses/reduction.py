"""Reduces maps of losses to one value per image."""

import tensorflow as tf


def top_k_mean(losses: tf.Tensor, top_k_percent: float = 1.0) -> tf.Tensor:
  """Averages the largest losses of each image, ignoring those that are zero.

  As in DeepLab2, the sum is divided by the number of nonzero losses and not by the sum of their
  weights: a pixel of weight 2 counts twice in the sum, but once in the divisor.

  Args:
    losses: Weighted losses, float32 [batch, ...], with a static shape except for the batch.
    top_k_percent: Share of the losses that are kept, the largest, in (0, 1].

  Returns:
    float32 [batch]; 0 where all losses are zero.
  """
  losses = tf.reshape(losses, [-1, losses.shape[1:].num_elements()])
  if top_k_percent < 1.:
    kept = max(1, round(top_k_percent * losses.shape[1]))
    losses = tf.math.top_k(losses, kept, sorted=False).values
  nonzero = tf.math.count_nonzero(losses, axis=1, dtype=tf.float32)
  return tf.math.divide_no_nan(tf.reduce_sum(losses, axis=1), nonzero)
