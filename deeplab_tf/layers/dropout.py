"""Dropout (Srivastava et al., JMLR 2014) whose random numbers follow the seed of the run."""

import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.shapes import dimensions


def dropout(x: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
  """Sets values to zero at random in training, and multiplies the others by 1 / (1 - rate).

  The numbers are a function of the seed of `randomness.seeded` and of the image, and recomputation
  repeats them. They are drawn for one image at a time: those of attention weights for a whole
  batch would need more memory than the weights of the part of it that a device processes.

  Args:
    x: Float tensor whose first dimension counts images.
    rate: Probability that a value is set to zero, in [0, 1).
    training: Whether values are dropped.

  Returns:
    A tensor like `x`.
  """
  if not training or not rate:
    return x
  images, *shape = dimensions(x)

  def is_kept(seed):
    return randomness.uniform_of(seed, 0, shape) >= rate

  kept = tf.map_fn(is_kept, randomness.image_seeds(images), parallel_iterations=1,
                   fn_output_signature=tf.TensorSpec(x.shape[1:], tf.bool))
  return tf.where(kept, x * (1.0 / (1.0 - rate)), tf.zeros([], x.dtype))
