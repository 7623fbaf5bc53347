"""Position-sensitive axial attention (Axial-DeepLab, equations 3 and 4).

Attention along one axis of a feature map, with learned relative positions for queries, keys
and values and batch norms in place of the scaling by 1 / sqrt(channels).
"""

from typing import Optional

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.convolution import project, split_channels
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.shapes import Dimension, dimensions

# Rows of a table of relative positions: distances from -254 to 254. Larger ones are clipped.
MAX_DISTANCE = 254


class RelativePositions(tf.keras.layers.Layer):
  """A table of vectors, one per distance between two positions of an axis.

  Attributes:
    embeddings: float32 [509, channels].
  """

  def __init__(self, channels: int):
    super().__init__()
    self.embeddings = self.add_weight(
        'embeddings', (2 * MAX_DISTANCE + 1, channels),
        initializer=tf.keras.initializers.TruncatedNormal(stddev=1.0))

  def fit_saved_value(self, variable: tf.Variable, value: np.ndarray) -> Optional[np.ndarray]:
    """Fits a table of another reach: rows are cut off at both ends, or the end rows repeated.

    Distance 0 stays in the middle, and larger distances than the saved table knows have the
    vector of its largest, as clipping gives them.

    Args:
      variable: `embeddings`.
      value: [rows, channels], from a checkpoint.

    Returns:
      An array of the variable's shape, or None if the value is no such table of these channels.
    """
    rows, channels = variable.shape
    if value.ndim != 2 or value.shape[1] != channels or value.shape[0] % 2 == 0:
      return None
    margin = (rows - value.shape[0]) // 2
    if margin < 0:
      return value[-margin:margin]
    return np.pad(value, ((margin, margin), (0, 0)), mode='edge')

  def call(self, length: Dimension) -> tf.Tensor:
    """Returns float32 [length, length, channels]: for query l and key m the row of m - l."""
    if not isinstance(length, int):
      distances = tf.range(length)[None] - tf.range(length)[:, None]
      rows = tf.clip_by_value(distances, -MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE
      return tf.gather(tf.convert_to_tensor(self.embeddings), rows)
    distances = np.arange(length)[None] - np.arange(length)[:, None]
    distances = np.clip(distances, -MAX_DISTANCE, MAX_DISTANCE)
    # The slice makes the table's gradient dense, as clipping by norm needs it.
    reach = min(length - 1, MAX_DISTANCE)
    used = self.embeddings[MAX_DISTANCE - reach:MAX_DISTANCE + reach + 1]
    return tf.gather(used, distances + reach)


class AxialAttention1D(tf.keras.layers.Layer):
  """Multi-head attention within each row of a batch.

  Attributes:
    qkv_kernel: float32 [in_channels, 2 * key_channels + value_channels].
    norm_qkv, norm_similarity, norm_output: BatchNorms of the projections, of each of the three
      similarity terms per head, and of each of the two output terms per head and channel.
    query_positions, key_positions, value_positions: RelativePositions, shared by all heads.
  """

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               norm: NormFactory):
    """Makes the variables.

    Args:
      in_channels: Channels of the input.
      key_channels: Channels of queries and of keys, over all heads.
      value_channels: Channels of values and of the output, over all heads.
      num_heads: Number of heads.
      norm: Makes the batch norms.

    Raises:
      ValueError: The channels do not divide into the heads.
    """
    super().__init__()
    if key_channels % num_heads or value_channels % num_heads:
      raise ValueError(f'axial attention: {key_channels} key and {value_channels} value channels '
                       f'do not divide into {num_heads} heads; change the width multiplier')
    self.num_heads = num_heads
    self.sizes = [key_channels, key_channels, value_channels]
    self.qkv_kernel = self.add_weight(
        'qkv_kernel', (in_channels, sum(self.sizes)),
        initializer=tf.keras.initializers.TruncatedNormal(stddev=in_channels**-0.5))
    self.norm_qkv = norm(sum(self.sizes))
    self.norm_similarity = norm((3, num_heads))
    self.norm_output = norm((2, num_heads, value_channels // num_heads))
    self.query_positions = RelativePositions(key_channels // num_heads)
    self.key_positions = RelativePositions(key_channels // num_heads)
    self.value_positions = RelativePositions(value_channels // num_heads)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [rows, length, in_channels] to [rows, length, value_channels]."""
    rows, length, _ = dimensions(x)
    qkv = self.norm_qkv(project(x, self.qkv_kernel), training=training)
    query, key, value = (
        tf.reshape(t, [rows, length, self.num_heads, size // self.num_heads])
        for t, size in zip(split_channels(qkv, self.sizes), self.sizes))

    positions = tf.cast(self.query_positions(length), x.dtype)
    terms = [tf.einsum('nlhd,nmhd->nhlm', query, key),
             tf.einsum('nlhd,lmd->nhlm', query, positions)]
    positions = tf.cast(self.key_positions(length), x.dtype)
    terms.append(tf.einsum('nmhd,lmd->nhlm', key, positions))
    logits = self._normalized_sum(terms, self.norm_similarity, [0, 2, 3], training)
    weights = tf.cast(tf.nn.softmax(logits), x.dtype)

    positions = tf.cast(self.value_positions(length), x.dtype)
    terms = [tf.einsum('nhlm,nmhd->nlhd', weights, value),
             tf.einsum('nhlm,lmd->nlhd', weights, positions)]
    output = self._normalized_sum(terms, self.norm_output, [0, 1], training)
    return tf.reshape(tf.cast(output, x.dtype), [rows, length, self.sizes[2]])

  def _normalized_sum(self, terms, norm, reduced, training):
    """Sums terms that are normalised on their own, without stacking them."""
    terms = [tf.cast(t, tf.float32) for t in terms]
    mean = variance = None
    if training:
      moments = [tf.nn.moments(t, reduced) for t in terms]
      mean = tf.stack([m for m, _ in moments])
      variance = tf.stack([v for _, v in moments])
    scale, offset = norm.affine(mean, variance, training)
    shape = [1 if i in reduced else n for i, n in enumerate(terms[0].shape.as_list())]
    total = tf.reshape(tf.reduce_sum(offset, 0), shape)
    for i, term in enumerate(terms):
      total = total + term * tf.reshape(scale[i], shape)
    return total


class AxialAttention2D(tf.keras.layers.Layer):
  """Axial attention along the height, then along the width, of a feature map."""

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               norm: NormFactory, stride: int = 1):
    """Makes the two layers; see AxialAttention1D. Each axis is strided after its layer."""
    super().__init__()
    self.stride = stride
    self.height_axis = AxialAttention1D(in_channels, key_channels, value_channels, num_heads,
                                        norm)
    self.width_axis = AxialAttention1D(value_channels, key_channels, value_channels, num_heads,
                                       norm)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, value_channels]."""
    x = tf.transpose(x, [0, 2, 1, 3])
    x = self._rows(x, self.height_axis, training)
    x = tf.transpose(x, [0, 2, 1, 3])
    return self._rows(x, self.width_axis, training)

  def _rows(self, x, layer, training):
    """Attends within [batch, rows, length, channels] along the length and strides it."""
    batch, rows, length, channels = dimensions(x)
    y = layer(tf.reshape(x, [batch * rows, length, channels]), training=training)
    y = tf.reshape(y, [batch, rows, length, y.shape[-1]])
    return y if self.stride == 1 else y[:, :, ::self.stride]
