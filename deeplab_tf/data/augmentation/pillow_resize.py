"""Resizes images to the same pixel values as Pillow's bilinear filter, in TensorFlow ops.

A pixel of the result is a weighted mean of the pixels within a distance of one pixel, or of the
factor by which the image shrinks (antialiasing). The width is resized first, then the height, and
values are rounded to integers after each. Weights are multiples of 2 ** -22, so sums are exact in
int32. (Pillow 13 resizes the height first for some sizes of smaller height; values then differ by
at most 1.)
"""

import tensorflow as tf

# Weights are integers with a sum of about two to this power.
_BITS = 22


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
  """Resizes an image.

  Args:
    image: uint8 [height, width, 3].
    size: int32 [2], height and width of the result.

  Returns:
    float32 [*size, 3], whole numbers in [0, 255].
  """
  values = tf.cast(image, tf.int32)
  for axis in (1, 0):
    values = tf.cond(tf.shape(values)[axis] == size[axis], lambda x=values: x,
                     lambda x=values, axis=axis: _resize_axis(x, axis, size[axis]))
  return tf.cast(values, tf.float32)


def _resize_axis(values: tf.Tensor, axis: int, target: tf.Tensor) -> tf.Tensor:
  """Resizes one axis of an int32 image [height, width, 3]."""
  positions, weights = _taps(tf.shape(values)[axis], target)
  weights = tf.reshape(weights, [-1, 1, target, 1] if axis == 1 else [-1, target, 1, 1])

  def term(number):
    return tf.gather(values, positions[number], axis=axis) * weights[number]

  _, total = tf.while_loop(lambda number, _: number < tf.shape(positions)[0],
                           lambda number, total: (number + 1, total + term(number)),
                           (1, term(0)))
  return tf.bitwise.right_shift(total + 2**(_BITS - 1), _BITS)


def _taps(source: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the source positions of each target position and their weights, int32 [n, target]."""
  scale = tf.cast(source, tf.float64) / tf.cast(target, tf.float64)
  reach = tf.maximum(scale, 1.0)
  centers = (tf.cast(tf.range(target), tf.float64) + 0.5) * scale
  first = tf.maximum(tf.cast(centers - reach + 0.5, tf.int32), 0)
  positions = first + tf.range(2 * tf.cast(tf.math.ceil(reach), tf.int32) + 1)[:, None]
  distance = tf.abs(tf.cast(positions, tf.float64) - centers + 0.5) / reach
  weights = tf.where(positions < source, tf.maximum(1.0 - distance, 0.0), 0.0)
  weights /= tf.reduce_sum(weights, axis=0)
  whole = tf.cast(weights * 2**_BITS + 0.5, tf.int32)
  return tf.minimum(positions, source - 1), whole
