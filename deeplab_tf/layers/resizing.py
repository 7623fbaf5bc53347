"""Bilinear resizing with aligned corners, as two small matrix products.

The weights of the interpolation are constants, so XLA compiles it, gradients are matrix
products too, and no host kernel is needed (TensorFlow's CPU kernel runs on one core).
"""

from typing import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension, dimensions


def interpolation_matrix(source: Dimension, target: Dimension) -> tf.Tensor:
  """Returns float32 [target, source]: row i holds the two weights of output position i.

  Position i samples the source at i * (source - 1) / (target - 1).
  """
  if isinstance(source, int) and isinstance(target, int):
    scale = np.float32((source - 1) / (target - 1)) if target > 1 else np.float32(0)
    positions = np.arange(target, dtype=np.float32) * scale
    columns = np.arange(source, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - columns[None]))
    return tf.constant(weights, tf.float32)
  last = tf.cast(source - 1, tf.float32)
  scale = tf.math.divide_no_nan(last, tf.cast(target - 1, tf.float32))
  positions = tf.minimum(tf.cast(tf.range(target), tf.float32) * scale, last)
  columns = tf.cast(tf.range(source), tf.float32)
  return tf.maximum(0.0, 1 - tf.abs(positions[:, None] - columns[None]))


def resize_bilinear(x: tf.Tensor, size: Sequence[Dimension]) -> tf.Tensor:
  """Resizes [batch, height, width, channels] to [batch, *size, channels]."""
  batch, height, width, channels = dimensions(x)
  target_height, target_width = size
  if _differ(height, target_height):
    rows = tf.cast(interpolation_matrix(height, target_height), x.dtype)
    x = tf.matmul(rows, tf.reshape(x, [batch, height, width * channels]))
    x = tf.reshape(x, [batch, target_height, width, channels])
  if _differ(width, target_width):
    columns = tf.cast(interpolation_matrix(width, target_width), x.dtype)
    if isinstance(channels, int) and channels == 1:
      # Of one channel each row would be a product with a vector, which takes ten times as long.
      return tf.matmul(x[..., 0], columns, transpose_b=True)[..., None]
    x = tf.matmul(columns, tf.reshape(x, [batch * target_height, width, channels]))
    x = tf.reshape(x, [batch, target_height, target_width, channels])
  return x


def _differ(a: Dimension, b: Dimension) -> bool:
  return not (isinstance(a, int) and isinstance(b, int) and a == b)


def resize_offsets(offsets: tf.Tensor, size: Sequence[Dimension]) -> tf.Tensor:
  """Resizes a map of vectors and their lengths with it.

  Args:
    offsets: [batch, height, width, 2], (y, x) in pixels of this map.
    size: Height and width of the result.

  Returns:
    [batch, *size, 2], in pixels of the result: a step of one pixel becomes one of
    (size - 1) / (source - 1).
  """
  _, height, width, _ = dimensions(offsets)
  if not _differ(height, size[0]) and not _differ(width, size[1]):
    return offsets
  # Apart, since maps of one channel are resized faster than maps of two.
  parts = [resize_bilinear(offsets[..., i:i + 1] * _step(source, target, offsets.dtype), size)
           for i, (source, target) in enumerate(zip((height, width), size))]
  return tf.concat(parts, axis=-1)


def _step(source: Dimension, target: Dimension, dtype: tf.DType) -> tf.Tensor:
  return tf.math.divide_no_nan(tf.cast(target - 1, dtype), tf.cast(source - 1, dtype))
