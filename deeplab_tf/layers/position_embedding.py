"""Sine position embeddings of the pixels of a map."""

import math

import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.user_errors import ConfigError


def sine_position_embedding(height: Dimension, width: Dimension, channels: int, *,
                            normalize: bool = True, temperature: float = 10000.0) -> tf.Tensor:
  """Returns the sine position embedding of DETR (Carion et al., ECCV 2020), as in Mask2Former.

  The first half of the channels embeds the row, the second half the column. Rows and columns count
  from 1; channel i of n = channels / 2 is sin(position / t) for even i and cos(position / t) for
  odd i, with t = temperature^(2 floor(i / 2) / n). This is the two-dimensional form of Vaswani et
  al., "Attention is all you need" (2017), section 3.5.

  Args:
    height: Height of the map, an int or int32 [].
    width: Width of the map.
    channels: Number of channels, a multiple of 4.
    normalize: Whether positions are divided by their maximum and multiplied by 2 pi, so that the
      embedding does not depend on the resolution.
    temperature: Largest period divided by 2 pi, approximately.

  Returns:
    float32 [height, width, channels].

  Raises:
    ConfigError: The number of channels is not a multiple of 4.
  """
  if channels < 4 or channels % 4:
    raise ConfigError(f'position embedding: {channels} channels are not a multiple of 4, which '
                      'sine and cosine of row and column need; change the number of channels')
  rows = _embedding(height, channels // 2, normalize, temperature)
  columns = _embedding(width, channels // 2, normalize, temperature)
  shape = [height, width, channels // 2]
  return tf.concat([tf.broadcast_to(rows[:, None], shape), tf.broadcast_to(columns, shape)], -1)


def _embedding(length: Dimension, channels: int, normalize: bool, temperature: float) -> tf.Tensor:
  """Returns the embedding of positions along one axis, float32 [length, channels]."""
  positions = tf.cast(tf.range(1, length + 1), tf.float32)
  if normalize:
    positions = positions / (tf.cast(length, tf.float32) + 1e-6) * (2 * math.pi)
  periods = [temperature ** (2 * i / channels) for i in range(channels // 2)]
  angles = positions[:, None] / tf.constant(periods, tf.float32)
  pairs = tf.stack([tf.sin(angles), tf.cos(angles)], -1)
  return tf.reshape(pairs, [length, channels])
