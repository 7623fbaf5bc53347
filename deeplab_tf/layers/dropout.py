"""Dropout (Srivastava et al., JMLR 2014) whose random numbers follow the seed of the run."""

import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.shapes import dimensions

# Number of values of an image above which random numbers are drawn for one image at a time.
_MOST_AT_ONCE = 2**20


def dropout(x: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
  """Sets values to zero at random in training, and multiplies the others by 1 / (1 - rate).

  The random numbers are a function of the seed of `randomness.seeded` and of the image, and
  recomputation repeats them. `randomness.uniform` draws those of the whole batch, which for
  attention to large maps would need more memory than all else, if a device processes a part of it.

  Args:
    x: Float tensor whose first dimension counts images.
    rate: Probability that a value is set to zero, in [0, 1).
    training: Whether values are dropped.

  Returns:
    A tensor like `x`.
  """
  if not training or not rate:
    return x
  kept = _are_kept(x, rate)
  return tf.where(kept, x / (1.0 - rate), tf.zeros([], x.dtype))


def _are_kept(x, rate):
  """Returns which values are kept, bool of the shape of `x`."""
  images, *shape = dimensions(x)
  values = x.shape[1:].num_elements()
  if values is not None and values <= _MOST_AT_ONCE:
    return randomness.uniform([images, *shape]) >= rate
  return tf.map_fn(lambda seed: randomness.uniform_of(seed, 0, shape) >= rate,
                   randomness.image_seeds(images), parallel_iterations=1,
                   fn_output_signature=tf.TensorSpec(x.shape[1:], tf.bool))
