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
