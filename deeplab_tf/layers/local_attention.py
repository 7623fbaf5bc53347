"""Position-sensitive self-attention over a square region (Axial-DeepLab, section 3.1, equation 3).

With the query's positional term alone it is equation 2, stand-alone self-attention.
"""

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import AttentionOptions, PositionSensitiveAttention
from deeplab_tf.layers.shapes import Dimension, dimensions

# Over the region of stand-alone self-attention (its m is 7).
LOCAL = AttentionOptions(kind='local', span=7)


class RegionPositions(tf.keras.layers.Layer):
  """A table of vectors, one per place in a square region.

  Attributes:
    embeddings: float32 [span, span, channels], rows of the region first.
  """

  def __init__(self, channels: int, span: int, stddev: float):
    super().__init__()
    self.embeddings = self.add_weight(
        'embeddings', (span, span, channels),
        initializer=tf.keras.initializers.TruncatedNormal(stddev=stddev))

  def call(self, span: int) -> tf.Tensor:
    """Returns float32 [span * span, channels], for the span of the table."""
    return tf.reshape(self.embeddings, [span**2, self.embeddings.shape[-1]])


class LocalAttention2D(PositionSensitiveAttention):
  """Multi-head attention of each pixel to the span x span region around it."""

  CONTENT = 'nlhd,nlmhd->nhlm'
  QUERY_POSITION = 'nlhd,md->nhlm'
  KEY_POSITION = 'nlmhd,md->nhlm'
  VALUE = 'nhlm,nlmhd->nlhd'
  VALUE_POSITION = 'nhlm,md->nlhd'

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               norm: NormFactory, stride: int = 1, options: AttentionOptions = LOCAL):
    """Makes the variables; see PositionSensitiveAttention."""
    super().__init__(in_channels, key_channels, value_channels, num_heads, norm, options)
    self.stride = stride

  def _table(self, channels):
    return RegionPositions(channels, self.options.span, self._stddev(channels))

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, value_channels]."""
    batch, height, width, _ = dimensions(x)
    query, key, value = self._project(x, training)
    span, pixels = self.options.span, height * width
    query = tf.reshape(query, [batch, pixels, self.num_heads, self.sizes[0] // self.num_heads])
    key, value = (
        tf.reshape(_regions(t, span), [batch, pixels, span**2, self.num_heads,
                                       t.shape[-1] // self.num_heads]) for t in (key, value))
    mask = _inside(height, width, span)
    weights = self._weights(query, key, (span,), mask, training)
    output = self._sum_of_outputs(self._retrieved(weights, value, (span,)), training)
    output = tf.reshape(output, [batch, height, width, self.sizes[2]])
    if self.stride == 1:
      return output
    if self.options.stride_by == 'average':
      return tf.nn.avg_pool2d(output, self.stride, self.stride, 'SAME')
    return output[:, ::self.stride, ::self.stride]


def _regions(x, span: int) -> tf.Tensor:
  """Maps [batch, height, width, channels] to [batch, height, width, span, span, channels]."""
  _, height, width, _ = dimensions(x)
  margin = span // 2
  x = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
  # Slices and not extract_patches, whose gradient is a sparse product.
  x = tf.stack([x[:, i:i + height] for i in range(span)], 3)
  return tf.stack([x[:, :, i:i + width] for i in range(span)], 4)


def _inside(height: Dimension, width: Dimension, span: int) -> tf.Tensor:
  """The mask [1, 1, height * width, span * span] of places inside of the feature map."""
  offsets = np.arange(span) - span // 2
  rows, columns = (tf.range(n)[:, None] + offsets for n in (height, width))
  rows = (rows >= 0) & (rows < height)
  columns = (columns >= 0) & (columns < width)
  mask = rows[:, None, :, None] & columns[None, :, None, :]
  return tf.reshape(mask, [1, 1, height * width, span * span])
