"""Attention within shifted windows (Liu et al., "Swin Transformer", ICCV 2021, section 3.2)."""

import functools

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import AttentionRecord, report
from deeplab_tf.layers.convolution import Projection, merge_heads, split_channels, split_heads
from deeplab_tf.layers.shapes import Dimension, dimensions, pad_to_multiple
from deeplab_tf.user_errors import ConfigError

# Added to the logits of pixels that are neighbors only because the map was rolled. As in the
# released code it is finite.
_BLOCKED = -100.0
_STDDEV = 0.02


@functools.cache
def relative_position_index(window_size: int) -> np.ndarray:
  """Returns the row of the position bias for each query and key of a window.

  Args:
    window_size: Side of the window, in pixels.

  Returns:
    int32 [window_size^2, window_size^2], with query and key in row-major order:
    (dy + window_size - 1) * (2 * window_size - 1) + dx + window_size - 1, where (dy, dx) is the
    position of the query minus that of the key.
  """
  positions = np.indices([window_size, window_size]).reshape(2, -1)
  rows, columns = positions[:, :, None] - positions[:, None, :] + window_size - 1
  return (rows * (2 * window_size - 1) + columns).astype(np.int32)


def shift_mask(height: Dimension, width: Dimension, window_size: int, shift: int) -> tf.Tensor:
  """Returns what is added to the logits of the windows of a map that was rolled by -shift.

  Args:
    height: Height of the map, a multiple of window_size; the same for width.
    width: Width of the map.
    window_size: Side of the windows, in pixels.
    shift: Shift, in pixels.

  Returns:
    float32 [windows, window_size^2, window_size^2]: 0 for pairs of pixels that are also near each
    other in the map before it was rolled, and else -100.
  """
  rows, columns = (_regions(size, window_size, shift) for size in (height, width))
  regions = (3 * rows[:, None] + columns[None, :])[None, :, :, None]
  regions = _to_windows(regions, window_size)[..., 0]
  # In a tf.Graph that is not a function's, == compares the tensors' identities.
  return tf.where(tf.equal(regions[:, :, None], regions[:, None, :]), 0.0, _BLOCKED)


def _regions(size, window_size, shift):
  """Returns the region of each position along an axis, int32 [size]."""
  # With a static size these are constants.
  index = np.arange(size) if isinstance(size, int) else tf.range(size)
  return (tf.cast(index >= size - window_size, tf.int32)
          + tf.cast(index >= size - shift, tf.int32))


class WindowAttention(keras.layers.Layer):
  """Multi-head self-attention of pixels within windows, with a bias by relative position.

  The map is padded with zeros at the bottom and on the right to whole windows, after any norm; the
  padded pixels are keys like all others. Logits and softmax are float32 in every precision.

  Attributes:
    window_size: Side of the windows, in pixels.
    shift: Number of pixels by which the windows are shifted to the bottom and the right.
    qkv: Projection to queries, keys and values, in this order.
    projection: Projection of the output.
    position_bias: float32 variable [(2 * window_size - 1)^2, heads], see relative_position_index.
      Weight decay does not apply to it.
  """

  def __init__(self, channels: int, num_heads: int, window_size: int, shift: int = 0):
    """Initializes the layer.

    Args:
      channels: Channels of input and output.
      num_heads: Number of heads.
      window_size: Side of the windows, in pixels.
      shift: Shift of the windows, in pixels.

    Raises:
      ConfigError: The channels do not divide into the heads.
    """
    super().__init__()
    if channels % num_heads:
      raise ConfigError(f'window attention: {channels} channels do not divide into {num_heads} '
                        'heads; change one of them')
    self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
    self.qkv = Projection(channels, 3 * channels, kernel_initializer=small_normal())
    self.projection = Projection(channels, channels, kernel_initializer=small_normal())
    self.position_bias = self.add_weight(
        'position_bias', ((2 * window_size - 1)**2, num_heads), tf.float32,
        initializer=small_normal(), experimental_autocast=False)

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [batch, height, width, channels] to the same shape."""
    report(AttentionRecord(self, (x,)))
    _, height, width, _ = dimensions(x)
    padded = pad_to_multiple(x, self.window_size)
    size = dimensions(padded)
    if self.shift:
      padded = tf.roll(padded, [-self.shift, -self.shift], [1, 2])
    y = self._attend(_to_windows(padded, self.window_size), size)
    y = _from_windows(y, size, self.window_size)
    if self.shift:
      y = tf.roll(y, [self.shift, self.shift], [1, 2])
    return self.projection(y[:, :height, :width])

  def _attend(self, windows, size):
    """Maps [windows of all images, positions, channels] to the same shape."""
    channels = windows.shape[-1]
    query, key, value = (split_heads(part, self.num_heads)
                         for part in split_channels(self.qkv(windows), [channels] * 3))
    scale = (channels // self.num_heads)**-0.5
    logits = tf.cast(tf.matmul(query * scale, key, transpose_b=True), tf.float32)
    weights = tf.nn.softmax(self._with_bias(logits, size))
    return merge_heads(tf.matmul(tf.cast(weights, value.dtype), value))

  def _with_bias(self, logits, size):
    """Adds the position bias, and the mask of shifted windows, to the logits."""
    positions = self.window_size**2
    # Along the second axis, so that the gradient is a tensor and not IndexedSlices, whose
    # repeated rows tf.linalg.global_norm does not add up.
    bias = tf.gather(tf.transpose(self.position_bias),
                     relative_position_index(self.window_size).reshape(-1), axis=1)
    bias = tf.reshape(bias, [self.num_heads, positions, positions])
    if not self.shift:
      return logits + bias
    batch, height, width, _ = size
    bias += shift_mask(height, width, self.window_size, self.shift)[:, None]
    num_windows = (height // self.window_size) * (width // self.window_size)
    by_image = tf.reshape(logits, [batch, num_windows, self.num_heads, positions, positions])
    return tf.reshape(by_image + bias, dimensions(logits))


def small_normal() -> keras.initializers.Initializer:
  """Returns the initializer of Swin's matrices."""
  return keras.initializers.TruncatedNormal(stddev=_STDDEV)


def _to_windows(x, side):
  """Maps [batch, height, width, channels] to [batch * windows, side^2, channels], row by row."""
  batch, height, width, channels = dimensions(x)
  x = tf.reshape(x, [batch, height // side, side, width // side, side, channels])
  x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
  return tf.reshape(x, [batch * (height // side) * (width // side), side * side, channels])


def _from_windows(x, size, side):
  """Maps [batch * windows, side^2, channels] to [batch, height, width, channels]."""
  batch, height, width, channels = size
  x = tf.reshape(x, [batch, height // side, width // side, side, side, channels])
  return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [batch, height, width, channels])
