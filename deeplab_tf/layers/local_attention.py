"""Position-sensitive self-attention over a square region (Axial-DeepLab, section 3.1, equation 3).

With the query's positional term alone it is equation 2, stand-alone self-attention.
"""

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import AttentionRecord, report
from deeplab_tf.layers.axial_attention import overlapping_blocks, window_mask
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import AttentionOptions, PositionSensitiveAttention
from deeplab_tf.layers.shapes import Dimension, dimensions

# Side of the square blocks of queries that share keys: a block meets the keys of all its regions,
# and keys outside of a query's own region are masked.
_BLOCK = 4

# Attention over the region of stand-alone self-attention (m = 7 there).
LOCAL = AttentionOptions(kind='local', span=7)


class RegionPositions(keras.layers.Layer):
  """A table of vectors, one per place in a square region.

  Attributes:
    embeddings: float32 [span, span, channels], rows of the region first.
  """

  def __init__(self, channels: int, span: int, stddev: float):
    super().__init__()
    self.embeddings = self.add_weight(
        'embeddings', (span, span, channels),
        initializer=keras.initializers.TruncatedNormal(stddev=stddev))

  def call(self, block: int) -> tf.Tensor:
    """Looks up the vectors between the queries of a block and its keys.

    Args:
      block: Side of the block.

    Returns:
      float32 [block**2, (block + span - 1)**2, channels]; keys beyond the region of a query have
      the vector of its border.
    """
    span, channels = self.embeddings.shape[1:]
    block = int(tf.get_static_value(block))  # Keras converts numbers to tensors.
    places = np.clip(np.arange(block + span - 1) - np.arange(block)[:, None], 0, span - 1)
    places = places[:, None, :, None] * span + places[:, None]
    # The reshape makes the table's gradient dense, which clipping by norm needs.
    table = tf.reshape(self.embeddings, [span**2, channels])
    return tf.gather(table, np.reshape(places, [block**2, -1]))


class LocalAttention2D(PositionSensitiveAttention):
  """Multi-head attention of each pixel to the span x span region around it."""
  # Only the images of a batch share positions.
  ROWS_SHARE_POSITIONS = False

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               *, norm: NormFactory, stride: int = 1, options: AttentionOptions = LOCAL):
    """Initializes the layer; see PositionSensitiveAttention."""
    super().__init__(in_channels, key_channels, value_channels, num_heads, norm=norm,
                     options=options)
    self.stride = stride

  def _table(self, channels):
    return RegionPositions(channels, self.options.span, self._stddev(channels))

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, value_channels]."""
    report(AttentionRecord(self, (x,)))
    batch, height, width, _ = dimensions(x)
    margin = self.options.span // 2
    query, key, value = (self._squares(t, margin_of) for t, margin_of in zip(
        self._project(x, training), (0, margin, margin)))
    seen = (tf.cast(window_mask(n, _BLOCK, margin)[:, 0], tf.float32) for n in (height, width))
    # TensorFlow does not broadcast the "and" of six axes, so a product stands for it.
    mask = tf.reshape(tf.einsum('aik,bjl->abijkl', *seen) > 0, [-1, 1, _BLOCK**2, key.shape[1]])
    weights = self._weights(query, key, (_BLOCK,), mask, training)
    terms = self._retrieved(weights, value, (_BLOCK,), training)
    terms = [_map_of_squares(t, height, width) for t in terms]
    output = self._sum_of_outputs(terms, training)
    output = tf.reshape(output, [batch, height, width, self.sizes[2]])
    if self.stride == 1:
      return output
    if self.options.stride_by == 'average':
      return tf.nn.avg_pool2d(output, self.stride, self.stride, 'SAME')
    return output[:, ::self.stride, ::self.stride]

  def _squares(self, x, margin):
    """Cuts a map into squares with a margin, [batch * squares, places, heads, channels]."""
    batch, height, width, channels = dimensions(x)
    side = _BLOCK + 2 * margin
    x = overlapping_blocks(tf.reshape(x, [batch * height, width, channels]), _BLOCK, margin)
    across = -(-width // _BLOCK)
    x = tf.reshape(x, [batch, height, across * side * channels])
    x = overlapping_blocks(x, _BLOCK, margin)
    x = tf.transpose(tf.reshape(x, [-1, side, across, side, channels]), [0, 2, 1, 3, 4])
    return tf.reshape(x, [-1, side**2, self.num_heads, channels // self.num_heads])


def _map_of_squares(x, height: Dimension, width: Dimension) -> tf.Tensor:
  """Maps [batch * squares, _BLOCK**2, ...] to [batch, height * width, ...]."""
  inner = x.shape[2:]
  down, across = -(-height // _BLOCK), -(-width // _BLOCK)
  x = tf.reshape(x, [-1, down, across, _BLOCK, _BLOCK, *inner])
  x = tf.transpose(x, [0, 1, 3, 2, 4, 5, 6])
  x = tf.reshape(x, [-1, down * _BLOCK, across * _BLOCK, *inner])[:, :height, :width]
  return tf.reshape(x, [-1, height * width, *inner])
