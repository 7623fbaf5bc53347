"""Position-sensitive axial attention (Axial-DeepLab, section 3.2, equation 4).

Attention along one axis of a feature map, over the whole axis or a window around each position.
"""

from typing import Optional

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import AttentionRecord, report
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import (
    AXIAL,
    AttentionOptions,
    PositionSensitiveAttention,
    RelativePositions,
)
from deeplab_tf.layers.shapes import Dimension, dimensions

# Where the span is much shorter than the axis, blocks of so many queries share a window of
# span + block - 1 keys, and the keys outside of a query's span are masked.
_SHORT_SPAN = 32
_BLOCK, _BLOCK_OF_SHORT_SPAN = 16, 8
# At inference rows are processed in turns of about this many logits (128 MB for each of their
# terms and copies; whole axes at stride 4 of 641x641 are one turn). The number of turns is limited
# to keep graphs small, so turns of the largest inputs have more logits.
_LOGITS_OF_A_TURN, _MOST_TURNS = 2**25, 16


class AxialAttention1D(PositionSensitiveAttention):
  """Multi-head attention within each row of a batch."""

  def _table(self, channels):
    return RelativePositions(channels, self.options.max_distance, self._stddev(channels))

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [rows, length, in_channels] to [rows, length, value_channels]."""
    report(AttentionRecord(self, (x,)))
    turns = 1 if training else self._turns(*x.shape[:2])
    if turns == 1:
      return self._attend(x, training)
    outputs = []
    for rows in np.array_split(np.arange(x.shape[0]), turns):
      # Turns are forced into a sequence: TensorFlow would start all, and hold all in memory.
      with tf.control_dependencies(outputs[-1:]):
        outputs.append(self._attend(tf.identity(x[rows[0]:rows[-1] + 1]), training))
    return tf.concat(outputs, 0)

  def _turns(self, rows, length):
    """Returns the number of turns at inference; 1 if sizes are unknown."""
    if rows is None or length is None:
      return 1
    keys = min(length, self.options.span + _BLOCK) if self.options.span else length
    turns = -(-rows * self.num_heads * length * keys // _LOGITS_OF_A_TURN)
    return max(1, min(turns, _MOST_TURNS, rows))

  def _attend(self, x, training):
    """Like `call`, with all rows at once."""
    rows, length, _ = dimensions(x)
    query, key, value = self._project(x, training)
    span, flange = self.options.span, self.options.span // 2
    block = _BLOCK_OF_SHORT_SPAN if span < _SHORT_SPAN else _BLOCK
    if not span:
      places, mask = (length,), None
    elif isinstance(length, int) and length <= max(2 * span, span + block):
      # Windows would cover most of the axis, and one product is faster than many.
      places, mask = (length,), _band(length, flange)
    else:
      places = (block, flange)
      query = overlapping_blocks(query, block, 0)
      key, value = (overlapping_blocks(t, block, flange) for t in (key, value))
      mask = window_mask(length, block, flange)
    query, key, value = (self._heads(t) for t in (query, key, value))
    weights = self._weights(query, key, places, mask, training)
    terms = self._retrieved(weights, value, places, training)
    if len(places) > 1:
      shape = [rows, -1, *terms[0].shape[2:]]
      terms = [tf.reshape(t, shape)[:, :length] for t in terms]
    output = self._sum_of_outputs(terms, training)
    return tf.reshape(output, [rows, length, self.sizes[2]])

  def _heads(self, x):
    """Maps [n, length, heads * channels] to [n, length, heads, channels]."""
    rows, length, channels = dimensions(x)
    return tf.reshape(x, [rows, length, self.num_heads, channels // self.num_heads])


def _band(length: int, flange: int) -> Optional[tf.Tensor]:
  """Returns the mask [1, 1, length, length] of the keys that each query sees; None: all."""
  if flange >= length - 1:
    return None
  places = np.arange(length)
  return tf.constant((np.abs(places[None] - places[:, None]) <= flange)[None, None])


def overlapping_blocks(x: tf.Tensor, block: int, flange: int) -> tf.Tensor:
  """Cuts rows into blocks, each with its neighboring positions.

  Args:
    x: [rows, length, channels].
    block: Number of positions in a block.
    flange: Number of positions added on both sides of a block; zeros beyond the row.

  Returns:
    [rows * ceil(length / block), block + 2 * flange, channels].
  """
  rows, length, channels = dimensions(x)
  count = -(-length // block)
  width = block + 2 * flange
  padded = tf.pad(x, [[0, 0], [flange, count * block - length + flange + block], [0, 0]])
  pieces = []
  # Rows shifted by multiples of a block hold what a block needs from each of its neighbors.
  for start in range(0, width, block):
    piece = tf.reshape(padded[:, start:start + count * block], [rows * count, block, channels])
    pieces.append(piece[:, :width - start])
  return tf.concat(pieces, 1)


def window_mask(length: Dimension, block: int, flange: int) -> tf.Tensor:
  """Returns the keys that each query sees, bool [blocks, 1, block, block + 2 * flange]."""
  starts = tf.range(0, length, block)[:, None, None]
  query = starts + np.arange(block)[:, None]
  key = starts + np.arange(-flange, block + flange)
  mask = (tf.abs(key - query) <= flange) & (key >= 0) & (key < length) & (query < length)
  return mask[:, None]


class AxialAttention2D(keras.layers.Layer):
  """Axial attention along the height, then along the width, of a feature map."""

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               *, norm: NormFactory, stride: int = 1, options: AttentionOptions = AXIAL):
    """Initializes the two layers; see PositionSensitiveAttention for the arguments."""
    super().__init__()
    self.stride, self.stride_by = stride, options.stride_by
    self.height_axis = AxialAttention1D(in_channels, key_channels, value_channels, num_heads,
                                        norm=norm, options=options)
    self.width_axis = AxialAttention1D(value_channels, key_channels, value_channels, num_heads,
                                       norm=norm, options=options)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, value_channels]."""
    x = tf.transpose(x, [0, 2, 1, 3])
    x = self._rows(x, self.height_axis, training)
    x = tf.transpose(x, [0, 2, 1, 3])
    x = self._rows(x, self.width_axis, training)
    if self.stride > 1 and self.stride_by == 'average':
      x = tf.nn.avg_pool2d(x, self.stride, self.stride, 'SAME')
    return x

  def _rows(self, x, layer, training):
    """Applies attention, and the stride, along the length of [batch, rows, length, channels]."""
    batch, rows, length, channels = dimensions(x)
    y = layer(tf.reshape(x, [batch * rows, length, channels]), training=training)
    y = tf.reshape(y, [batch, rows, length, y.shape[-1]])
    subsamples = self.stride > 1 and self.stride_by == 'subsampling'
    return y[:, :, ::self.stride] if subsamples else y
