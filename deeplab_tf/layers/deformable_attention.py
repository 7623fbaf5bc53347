"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, section 4.1).

Each query reads a few points of each map, at positions that it predicts. The computation is in
float32 whatever the precision of the network, as in the released code.
"""

import math
from typing import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.precision import policy
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.user_errors import ConfigError

# Numbers gathered at a time. Smaller blocks are a little faster, but take longer to trace.
_BLOCK_SIZE = 2**22
_MAX_BLOCKS = 32
# Number of blocks where the size of the input is not known while tracing.
_DYNAMIC_BLOCKS = 8

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
    logits = tf.reshape(self.attention_weights(queries), [batch, count, heads, levels * points])
    weights = tf.reshape(tf.nn.softmax(logits), [batch, count, heads, levels, points])
    extents = tf.cast(tf.stack([tf.stack([width, height]) for height, width in sizes]), tf.float32)
    centers = tf.reshape(references[:, None] * extents - 0.5, [count, 1, levels, 1, 2])
    centers = tf.tile(centers, [1, heads, 1, points, 1])
    # Added before the last axis is cut into pieces, since broadcasting short axes is slow.
    positions = self.offsets(queries) + tf.reshape(centers, [count, 2 * heads * levels * points])
    positions = tf.reshape(positions, [batch, count, heads, levels, points, 2])
    values = tf.reshape(self.values(pixels), [batch, -1, heads, channels // heads])
    read = sample(values, positions, weights, sizes)
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


def sample(values: tf.Tensor, positions: tf.Tensor, weights: tf.Tensor,
           sizes: Sequence[Size]) -> tf.Tensor:
  """Returns weighted sums of bilinear samples of several maps.

  Pixels outside a map count as zero. No tensor has all queries by all pixels: the largest ones,
  processed in blocks, have queries * heads * levels * points * 4 * channels elements together.

  Args:
    values: float32 [batch, pixels, heads, channels], the levels one after another, each row by row.
    positions: float32 [batch, queries, heads, levels, points, 2], (x, y) in pixels of the level;
      the center of the first pixel is at (0, 0).
    weights: float32 [batch, queries, heads, levels, points].
    sizes: Height and width of each level.

  Returns:
    float32 [batch, queries, heads, channels], the sums over levels and points. It has gradients for
    values, positions and weights, of first order.
  """
  batch, _, heads, channels = dimensions(values)
  _, queries, _, levels, points, _ = dimensions(positions)
  flat = [batch, queries, heads * levels * points]
  x, y = (tf.reshape(positions[..., i], flat) for i in range(2))
  rows, shares = _neighbors(x, y, tf.reshape(weights, flat), heads, sizes)
  per_sum = [batch * queries * heads, levels * points]
  sums = _weighted_sums(tf.reshape(_padded(values, sizes), [-1, channels]),
                        tf.concat([tf.reshape(row, per_sum) for row in rows], -1),
                        tf.concat([tf.reshape(share, per_sum) for share in shares], -1))
  return tf.reshape(sums, [batch, queries, heads, channels])


def _padded(values, sizes):
  """Returns the values with a border of zeros around each level, [batch, rows, heads, channels]."""
  batch, _, heads, channels = dimensions(values)
  padded = []
  for (height, width), level in zip(sizes, tf.split(values, [h * w for h, w in sizes], axis=1)):
    level = tf.reshape(level, [batch, height, width, heads * channels])
    level = tf.pad(level, [[0, 0], [1, 1], [1, 1], [0, 0]])
    padded.append(tf.reshape(level, [batch, (height + 2) * (width + 2), heads, channels]))
  return tf.concat(padded, 1)


def _neighbors(x, y, weights, heads, sizes):
  """Finds the four pixels around each position.

  Args:
    x, y: [batch, queries, heads * levels * points]; one axis, since TensorFlow is fast at
      operations that repeat a vector along the last axis, and slow with several short axes.
    weights: [batch, queries, heads * levels * points].
    heads: Number of heads.
    sizes: Height and width of each level.

  Returns:
    Rows in the table of padded values, whose batch, pixels and heads are one axis; and shares in
    the weighted sum. Both are lists of four tensors [batch, queries, heads * levels * points].
  """
  points = x.shape[-1] // (heads * len(sizes))

  def per_point(numbers):
    return tf.tile(tf.repeat(tf.stack(numbers), points), [heads])

  areas = [(height + 2) * (width + 2) for height, width in sizes]
  column, right = _lower_neighbor(x, per_point([width for _, width in sizes]))
  line, down = _lower_neighbor(y, per_point([height for height, _ in sizes]))
  below = per_point([(width + 2) * heads for _, width in sizes])
  # The first pixel of a level follows a line and one pixel of its border.
  first = per_point([sum(areas[:i]) + width + 3 for i, (_, width) in enumerate(sizes)]) * heads
  first += tf.repeat(tf.range(heads), len(sizes) * points)
  images = tf.range(dimensions(x)[0]) * (sum(areas) * heads)
  row = line * below + column * heads + (first + images[:, None, None])
  lower = weights * down
  upper = weights - lower
  upper_right, lower_right = upper * right, lower * right
  return ([row, row + heads, row + below, row + (below + heads)],
          [upper - upper_right, upper_right, lower - lower_right, lower_right])


def _lower_neighbor(position, length):
  """Finds the pixels before positions on an axis.

  Returns:
    int32 in [-1, length - 1], the pixel at or before each position, and the distance from it, in
    [0, 1]. A position outside the axis is moved to the border, where the value is zero.
  """
  limit = tf.cast(length, tf.float32)
  position = tf.minimum(tf.maximum(position, -1.0), limit)
  # The index is limited once more, since a position may be NaN.
  index = tf.minimum(tf.maximum(tf.cast(tf.floor(position), tf.int32), -1), length - 1)
  return index, position - tf.cast(index, tf.float32)


@tf.custom_gradient
def _weighted_sums(table, rows, shares):
  """Returns the sums over k of shares[n, k] * table[rows[n, k]].

  The rows of the table are gathered for a block of sums at a time. The gradient gathers them again;
  in a graph, where equal operations are merged, it reads those of the forward pass, which are then
  kept until the backward pass.

  Args:
    table: float32 [rows, channels].
    rows: int32 [sums, neighbors].
    shares: float32 [sums, neighbors].

  Returns:
    float32 [sums, channels].
  """
  blocks = _blocks(rows, table.shape[-1])
  adjoint = _sparse_adjoint if _has_sparse_products() else _dense_adjoint
  sums = tf.concat([tf.matmul(shares[block, None], tf.gather(table, rows[block]))[:, 0]
                    for block in blocks], 0)

  def gradient(upstream):
    products = [tf.matmul(tf.gather(table, rows[block]), upstream[block, :, None])[..., 0]
                for block in blocks]
    return (adjoint(rows, shares, upstream, dimensions(table)[0], blocks), None,
            tf.concat(products, 0))

  return sums, gradient


def _blocks(rows, channels):
  """Returns slices of the sums, each with about _BLOCK_SIZE gathered numbers."""
  count, neighbors = dimensions(rows)
  number = _DYNAMIC_BLOCKS
  if isinstance(count, int):
    number = min(_MAX_BLOCKS, max(1, -(-count * neighbors * channels // _BLOCK_SIZE)))
  return [slice(count * i // number, count * (i + 1) // number) for i in range(number)]


def _dense_adjoint(rows, shares, upstream, length, blocks):
  """Returns the gradient for the table, [length, channels]."""
  return tf.add_n([tf.math.unsorted_segment_sum(
      shares[block, :, None] * upstream[block, None], rows[block], length) for block in blocks])


def _sparse_adjoint(rows, shares, upstream, length, blocks):
  """Returns the same as a product with a sparse matrix, which is faster on CPUs.

  See the measurements in docs/performance.md.
  """
  del blocks
  count, neighbors = dimensions(rows)
  sums = tf.broadcast_to(tf.range(count)[:, None], [count, neighbors])
  return tf.raw_ops.SparseTensorDenseMatMul(
      a_indices=tf.reshape(tf.stack([sums, rows], -1), [-1, 2]),
      a_values=tf.reshape(shares, [-1]), a_shape=tf.cast(tf.stack([count, length]), tf.int64),
      b=upstream, adjoint_a=True)


def _has_sparse_products():
  """Returns whether products with sparse matrices exist, as XLA has none, and are the faster form.

  This is asked in the forward pass, since TensorFlow traces the gradient of a compiled function
  outside of it.
  """
  if any(device.device_type != 'CPU' for device in tf.config.list_logical_devices()):
    return False
  return not control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
