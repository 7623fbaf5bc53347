"""From a map of losses to one number for each image."""

import tensorflow as tf


def top_k_mean(losses: tf.Tensor, top_k_percent: float = 1.0) -> tf.Tensor:
  """Averages the largest losses of each image that are not zero.

  The count of the losses that are not zero divides, not the sum of their weights, as in
  DeepLab2: a pixel of weight 2 counts twice, not as two pixels.

  Args:
    losses: float32 [batch, ...], weighted, of static shape but for the batch.
    top_k_percent: Share of the losses that is kept, the largest, in (0, 1].

  Returns:
    float32 [batch]; 0 where all losses are zero.
  """
  losses = tf.reshape(losses, [-1, losses.shape[1:].num_elements()])
  if top_k_percent < 1.:
    kept = max(1, round(top_k_percent * losses.shape[1]))
    losses = tf.math.top_k(losses, kept, sorted=False).values
  nonzero = tf.math.count_nonzero(losses, axis=1, dtype=tf.float32)
  return tf.math.divide_no_nan(tf.reduce_sum(losses, axis=1), nonzero)
