"""A layer of Mask2Former's transformer decoder: masked cross-attention first (section 3.2)."""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.multi_head_attention import MultiHeadAttention
from deeplab_tf.layers.normalization import LayerNorm
from deeplab_tf.layers.shapes import Dimension


class MaskedDecoderOptions(NamedTuple):
  """Sizes and form of a decoder layer.

  Attributes:
    channels: Channels of the queries and of the memory.
    feed_forward_channels: Hidden channels of the feed-forward network.
    num_heads: Number of attention heads.
    pre_norm: Whether a branch normalizes its input; else each sum of input and branch is
      normalized.
  """
  channels: int = 256
  feed_forward_channels: int = 2048
  num_heads: int = 8
  pre_norm: bool = False


class Memory(NamedTuple):
  """A feature map that the queries attend to.

  Attributes:
    values: [batch, height * width, channels], the pixels row by row.
    keys: [batch, height * width, channels], the values plus the position embedding.
    size: Height and width.
  """
  values: tf.Tensor
  keys: tf.Tensor
  size: tuple[Dimension, Dimension]


def attention_mask(mask_logits: tf.Tensor) -> tf.Tensor:
  """Returns the pixels that queries do not attend to (equation 2 of Mask2Former).

  These are the pixels where the probability of the query's mask is below 0.5. As in the released
  code, a query whose mask is empty attends to all pixels.

  Args:
    mask_logits: [batch, queries, pixels].

  Returns:
    bool [batch, queries, pixels].
  """
  blocked = mask_logits < 0
  return blocked & ~tf.reduce_all(blocked, axis=-1, keepdims=True)


class MaskedDecoderLayer(keras.layers.Layer):
  """Masked cross-attention, self-attention and a feed-forward network, each with a residual.

  Attributes:
    cross_attention, self_attention: Attention of the queries to the memory and to each other.
    fc1, fc2: The two layers of the feed-forward network.
    cross_norm, self_norm, feed_forward_norm: Layer norms of the three branches.
  """

  def __init__(self, options: MaskedDecoderOptions):
    """Initializes the layer; see MaskedDecoderOptions."""
    super().__init__()
    channels, hidden = options.channels, options.feed_forward_channels
    self.pre_norm = options.pre_norm
    self.cross_attention = MultiHeadAttention(channels, options.num_heads)
    self.cross_norm = LayerNorm(channels)
    self.self_attention = MultiHeadAttention(channels, options.num_heads)
    self.self_norm = LayerNorm(channels)
    self.fc1 = Projection(channels, hidden, activation='relu', kernel_initializer='glorot_uniform',
                          bias_initializer=initializers.torch_linear_bias(channels))
    self.fc2 = Projection(hidden, channels, kernel_initializer='glorot_uniform',
                          bias_initializer=initializers.torch_linear_bias(hidden))
    self.feed_forward_norm = LayerNorm(channels)

  def call(self, queries: tf.Tensor, positions: tf.Tensor, memory: Memory,
           blocked: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Updates the queries.

    Args:
      queries: [batch, queries, channels].
      positions: [queries, channels], position embedding of the queries.
      memory: The feature map that the queries attend to.
      blocked: bool [batch, queries, height * width], the pixels that a query does not attend to.

    Returns:
      [batch, queries, channels].
    """
    queries = self.read_memory(queries, positions, memory, blocked)
    queries = self.exchange(queries, positions)
    return self.feed_forward(queries)

  def read_memory(self, queries: tf.Tensor, positions: tf.Tensor, memory: Memory,
                  blocked: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Returns the queries after masked cross-attention; see `call` for the arguments."""
    return self._residual(self.cross_norm, queries, lambda x: self.cross_attention(
        x + positions, memory.keys, memory.values, blocked, memory.size))

  def exchange(self, queries: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns the queries after self-attention; see `call` for the arguments."""
    return self._residual(self.self_norm, queries, lambda x: self.self_attention(
        x + positions, x + positions, x))

  def feed_forward(self, queries: tf.Tensor) -> tf.Tensor:
    """Returns the queries after the feed-forward network; see `call` for the arguments."""
    return self._residual(self.feed_forward_norm, queries, lambda x: self.fc2(self.fc1(x)))

  def _residual(self, norm, x, branch):
    return x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))
