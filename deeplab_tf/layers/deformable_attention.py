"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, section 4.1).

Each query reads a few points of each map, at positions that it predicts. The computation is in
float32 whatever the precision of the network, as in the released code.
"""

import math
from typing import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.precision import policy
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.user_errors import ConfigError

Size = tuple[Dimension, Dimension]


class DeformableAttention(keras.layers.Layer):
  """Attention of queries to sampled points of several maps (equation 3).

  Attributes:
    offsets: Projection of a query to the offsets of its points from its reference point, in pixels
      of the level.
    attention_weights: Projection of a query to the logits of the attention weights.
    values, outputs: Projections of the pixels before, and of the result after the sampling.
  """

  def __init__(self, channels: int, *, num_heads: int, num_levels: int, num_points: int):
    """Initializes the layer.

    Args:
      channels: Channels of queries, pixels and output.
      num_heads: Number of heads.
      num_levels: Number of maps.
      num_points: Number of points for each query, head and level.

    Raises:
      ConfigError: The channels are not divisible by the number of heads.
    """
    super().__init__(dtype='float32')
    if num_heads < 1 or channels % num_heads:
      raise ConfigError(f'deformable attention: {channels} channels do not divide into '
                        f'{num_heads} heads; change one of them')
    self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
    points = num_heads * num_levels * num_points
    with policy('float32'):
      self.offsets = Projection(
          channels, 2 * points, kernel_initializer='zeros',
          bias_initializer=keras.initializers.Constant(
              initial_offsets(num_heads, num_levels, num_points).reshape(-1)))
      self.attention_weights = Projection(channels, points, kernel_initializer='zeros')
      self.values = Projection(channels, channels, kernel_initializer='glorot_uniform')
      self.outputs = Projection(channels, channels, kernel_initializer='glorot_uniform')

  def call(self, queries: tf.Tensor, references: tf.Tensor, pixels: tf.Tensor,
           sizes: Sequence[Size]) -> tf.Tensor:
    """Computes the attention.

    Args:
      queries: [batch, queries, channels], with their position embedding.
      references: float32 [queries, 2], reference point (x, y) of each query as a part of the width
        and the height of all maps.
      pixels: [batch, pixels, channels], the maps one after another, each row by row.
      sizes: Height and width of each map.

    Returns:
      float32 [batch, queries, channels].
    """
    queries, pixels = tf.cast(queries, tf.float32), tf.cast(pixels, tf.float32)
    batch, count, channels = dimensions(queries)
    heads, levels, points = self.num_heads, self.num_levels, self.num_points
    offsets = tf.reshape(self.offsets(queries), [batch, count, heads, levels, points, 2])
    logits = tf.reshape(self.attention_weights(queries), [batch, count, heads, levels * points])
    weights = tf.reshape(tf.nn.softmax(logits), [batch, count, heads, levels, points])
    extent = tf.stack([tf.stack([width, height]) for height, width in sizes])
    locations = (references[:, None, None, None]
                 + offsets / tf.cast(extent, tf.float32)[:, None])
    values = tf.reshape(self.values(pixels), [batch, -1, heads, channels // heads])
    read = sample(values, locations, weights, sizes)
    return self.outputs(tf.reshape(read, [batch, count, channels]))


def initial_offsets(num_heads: int, num_levels: int, num_points: int) -> np.ndarray:
  """Returns the initial offsets: each head looks into its own direction, point p at distance p + 1.

  Returns:
    float32 [heads, levels, points, 2], (x, y) in pixels of each level.
  """
  angles = 2 * math.pi * np.arange(num_heads) / num_heads
  directions = np.stack([np.cos(angles), np.sin(angles)], -1)
  directions /= np.abs(directions).max(-1, keepdims=True)
  distances = np.arange(1, num_points + 1)
  offsets = directions[:, None, None] * distances[:, None]
  return np.tile(offsets, [1, num_levels, 1, 1]).astype(np.float32)


def sample(values: tf.Tensor, locations: tf.Tensor, weights: tf.Tensor,
           sizes: Sequence[Size]) -> tf.Tensor:
  """Returns weighted sums of bilinear samples.

  The sample at (x, y) interpolates between the pixels around (x * width - 0.5, y * height - 0.5);
  pixels outside the map count as zero.

  Args:
    values: float32 [batch, pixels, heads, channels], the levels one after another, each row by row.
    locations: float32 [batch, queries, heads, levels, points, 2], (x, y) as parts of the width and
      the height; the map reaches from 0 to 1.
    weights: float32 [batch, queries, heads, levels, points].
    sizes: Height and width of each level.

  Returns:
    float32 [batch, queries, heads, channels], the sums over levels and points.
  """
  batch, pixels, heads, channels = dimensions(values)
  _, queries, _, levels, points, _ = dimensions(locations)
  rows, factors = [], []
  start = 0
  first = pixels * tf.range(batch)[:, None, None, None]
  for level, (height, width) in enumerate(sizes):
    x = locations[:, :, :, level, :, 0] * tf.cast(width, tf.float32) - 0.5
    y = locations[:, :, :, level, :, 1] * tf.cast(height, tf.float32) - 0.5
    columns, lines = _neighbors(x, width), _neighbors(y, height)
    for line, vertical in lines:
      for column, horizontal in columns:
        pixel = first + start + line * width + column
        rows.append(pixel * heads + tf.range(heads)[:, None])
        factors.append(weights[:, :, :, level] * vertical * horizontal)
    start += height * width
  read = tf.gather(tf.reshape(values, [-1, channels]), tf.concat(rows, -1))
  sums = tf.matmul(tf.concat(factors, -1)[..., None, :], read)
  return tf.reshape(sums, [batch, queries, heads, channels])


def _neighbors(position: tf.Tensor, length: Dimension) -> list[tuple[tf.Tensor, tf.Tensor]]:
  """Returns index and weight of the two neighbors of a position on an axis of pixels.

  Outside of the axis the index is that of a pixel inside and the weight 0.
  """
  lower = tf.floor(position)
  fraction = position - lower
  # The index is limited as an integer, so that positions that are not finite are harmless too.
  index = tf.cast(lower, tf.int32)
  neighbors = []
  for step, weight in ((0, 1 - fraction), (1, fraction)):
    limited = tf.clip_by_value(index + step, 0, length - 1)
    neighbors.append((limited, tf.where(tf.equal(limited, index + step), weight, 0)))
  return neighbors
