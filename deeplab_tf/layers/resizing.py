"""Bilinear resizing as two small matrix products, with aligned corners or half-pixel centers.

The weights of the interpolation are constants, so XLA compiles it, gradients are matrix
products too, and no host kernel is needed (TensorFlow's CPU kernel runs on one core). Nearest
resizing repeats or gathers rows and columns.
"""

from typing import Literal, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension, dimensions

# Rule for the positions of a resized map: 'aligned' takes pixels as points and aligns the outermost
# ones (DeepLab2); 'half_pixel' takes them as areas and aligns the edges of the maps (PyTorch's
# align_corners=False, TensorFlow 2).
ResizeRule = Literal['aligned', 'half_pixel']


def interpolation_matrix(source: Dimension, target: Dimension,
                         rule: ResizeRule = 'aligned') -> tf.Tensor:
  """Returns float32 [target, source]: row i holds the two weights of output position i.

  Position i samples the source at i * (source - 1) / (target - 1) for 'aligned', and
  at (i + 0.5) * source / target - 0.5 for 'half_pixel', where the outermost values extend beyond
  their centers. There is no antialiasing.

  Raises:
    ValueError: The rule is unknown.
  """
  if rule not in ('aligned', 'half_pixel'):
    raise ValueError(f'rule is "{rule}": allowed are aligned, half_pixel')
  if isinstance(source, int) and isinstance(target, int):
    positions = _static_positions(source, target, rule)
    columns = np.arange(source, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - columns[None]))
    return tf.constant(weights, tf.float32)
  positions = _dynamic_positions(source, target, rule)
  columns = tf.cast(tf.range(source), tf.float32)
  return tf.maximum(0.0, 1 - tf.abs(positions[:, None] - columns[None]))


def _static_positions(source: int, target: int, rule: ResizeRule) -> np.ndarray:
  """Returns the position in the source of each target position, float32 [target]."""
  index = np.arange(target, dtype=np.float32)
  if rule == 'half_pixel':
    positions = (index + np.float32(0.5)) * np.float32(source / target) - np.float32(0.5)
    return np.clip(positions, 0, source - 1)
  scale = np.float32((source - 1) / (target - 1)) if target > 1 else np.float32(0)
  return index * scale


def _dynamic_positions(source: Dimension, target: Dimension, rule: ResizeRule) -> tf.Tensor:
  """Like _static_positions, for sizes that are known only when the graph runs."""
  index = tf.cast(tf.range(target), tf.float32)
  last = tf.cast(source - 1, tf.float32)
  if rule == 'half_pixel':
    scale = tf.cast(source, tf.float32) / tf.cast(target, tf.float32)
    return tf.clip_by_value((index + 0.5) * scale - 0.5, 0.0, last)
  scale = tf.math.divide_no_nan(last, tf.cast(target - 1, tf.float32))
  return tf.minimum(index * scale, last)


def resize_bilinear(x: tf.Tensor, size: Sequence[Dimension],
                    rule: ResizeRule = 'aligned') -> tf.Tensor:
  """Resizes [batch, height, width, channels] to [batch, *size, channels], up or down."""
  batch, height, width, channels = dimensions(x)
  target_height, target_width = size
  if _differ(height, target_height):
    rows = tf.cast(interpolation_matrix(height, target_height, rule), x.dtype)
    x = tf.matmul(rows, tf.reshape(x, [batch, height, width * channels]))
    x = tf.reshape(x, [batch, target_height, width, channels])
  if _differ(width, target_width):
    columns = tf.cast(interpolation_matrix(width, target_width, rule), x.dtype)
    if isinstance(channels, int) and channels == 1:
      # With one channel each row would be a product with a vector, which takes ten times as long.
      return tf.matmul(x[..., 0], columns, transpose_b=True)[..., None]
    x = tf.matmul(columns, tf.reshape(x, [batch * target_height, width, channels]))
    x = tf.reshape(x, [batch, target_height, target_width, channels])
  return x


def upsample_nearest(x: tf.Tensor, size: Sequence[Dimension]) -> tf.Tensor:
  """Resizes [batch, height, width, channels] to [batch, *size, channels] by repeating pixels.

  Position i of an axis is the source's position floor(i * source / target), as in PyTorch's
  'nearest'.
  """
  for axis, target in zip((1, 2), size):
    x = _copied(x, axis, dimensions(x)[axis], target)
  return x


def _copied(x, axis, source, target):
  """Resizes one axis."""
  if isinstance(source, int) and isinstance(target, int):
    if source == target:
      return x
    if target in (2 * source - 1, 2 * source):
      # Each position twice, without the last one if the number is odd. The gradient is a sum over
      # pairs, and not a scatter as that of a gather.
      x = tf.repeat(x, 2, axis=axis)
      return x[:, :target] if axis == 1 else x[:, :, :target]
  # Integers, so that a position on the edge of two pixels does not depend on rounding.
  index, source, target = (tf.cast(n, tf.int64) for n in (tf.range(target), source, target))
  return tf.gather(x, index * source // target, axis=axis)


def _differ(a: Dimension, b: Dimension) -> bool:
  return not (isinstance(a, int) and isinstance(b, int) and a == b)


def resize_offsets(offsets: tf.Tensor, size: Sequence[Dimension]) -> tf.Tensor:
  """Resizes a map of vectors, and scales the vectors with it; corners are aligned.

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
  # Separately, since maps of one channel are resized faster than maps of two.
  parts = [resize_bilinear(offsets[..., i:i + 1] * _step(source, target, offsets.dtype), size)
           for i, (source, target) in enumerate(zip((height, width), size))]
  return tf.concat(parts, axis=-1)


def _step(source: Dimension, target: Dimension, dtype: tf.DType) -> tf.Tensor:
  return tf.math.divide_no_nan(tf.cast(target - 1, dtype), tf.cast(source - 1, dtype))
