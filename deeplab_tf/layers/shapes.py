"""Shapes of tensors: static where TensorFlow knows them, so that XLA can compile."""

from typing import Union

import tensorflow as tf

Dimension = Union[int, tf.Tensor]


def dimensions(x: tf.Tensor) -> list[Dimension]:
  """Returns the dimensions of a tensor, each an int if known, else a scalar tensor."""
  static = x.shape.as_list()
  if None not in static:
    return static
  dynamic = tf.shape(x)
  return [dynamic[i] if n is None else n for i, n in enumerate(static)]


def pad_to_multiple(x: tf.Tensor, multiple: int) -> tf.Tensor:
  """Pads [batch, height, width, channels] with zeros, at the bottom and on the right.

  Args:
    x: The map.
    multiple: Number that divides height and width of the result.
  """
  _, height, width, _ = dimensions(x)
  bottom, right = -height % multiple, -width % multiple
  if isinstance(bottom, int) and isinstance(right, int) and not bottom + right:
    return x
  return tf.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])


def scaled_size(size: Dimension, scale: float) -> Dimension:
  """Returns the height or width of a map that is scaled with aligned corners, as in DeepLab2."""
  if isinstance(size, int):
    return int((size - 1) * scale + 1)
  return tf.cast(tf.cast(size - 1, tf.float32) * scale + 1, tf.int32)
