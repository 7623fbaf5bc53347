"""A layer of Mask2Former's transformer decoder (section 3.2) and of its ablations (table 4)."""

import enum
from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.feed_forward import feed_forward_projections
from deeplab_tf.layers.mask_pooling import MaskPooling
from deeplab_tf.layers.multi_head_attention import MultiHeadAttention
from deeplab_tf.layers.normalization import LayerNorm
from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.layers.spatial_modulation import SpatialModulation


class CrossAttention(enum.Enum):
  """How queries read the memory."""
  # Attention to the pixels of the mask that was predicted before the layer (equation 2).
  MASKED = enum.auto()
  # Attention to all pixels.
  FULL = enum.auto()
  # Attention to all pixels with a Gaussian around a predicted center; see SpatialModulation.
  SMCA = enum.auto()
  # The mean inside the mask that was predicted before the layer; see MaskPooling.
  MASK_POOLING = enum.auto()

  @property
  def reads_masks(self) -> bool:
    """Whether the masks that were predicted before a layer restrict what queries read."""
    return self in (CrossAttention.MASKED, CrossAttention.MASK_POOLING)


class MaskedDecoderOptions(NamedTuple):
  """Sizes and form of a decoder layer.

  Attributes:
    channels: Channels of the queries and of the memory.
    feed_forward_channels: Hidden channels of the feed-forward network.
    num_heads: Number of attention heads.
    pre_norm: Whether a branch normalizes its input; else each sum of input and branch is
      normalized.
    cross_attention: How queries read the memory.
    self_attention_first: Whether self-attention comes before cross-attention, as in DETR.
    dropout_rate: Rate of dropout in training, in [0, 1): as in PyTorch's layer of DETR, of
      attention weights, of the hidden channels of the feed-forward network and of the outputs of
      the branches.
  """
  channels: int = 256
  feed_forward_channels: int = 2048
  num_heads: int = 8
  pre_norm: bool = False
  cross_attention: CrossAttention = CrossAttention.MASKED
  self_attention_first: bool = False
  dropout_rate: float = 0.0


class Memory(NamedTuple):
  """Feature maps that the queries read, usually one.

  Attributes:
    values: [batch, pixels, channels], the pixels row by row, one map after the other.
    keys: [batch, pixels, channels], the values plus the position embedding.
    sizes: Height and width of each map.
  """
  values: tf.Tensor
  keys: tf.Tensor
  sizes: Sequence[tuple[Dimension, Dimension]]


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
  """Cross-attention, self-attention and a feed-forward network, each with a residual.

  Attributes:
    cross_attention: Attention of the queries to the memory, a MultiHeadAttention or a MaskPooling.
    modulation: SpatialModulation of the cross-attention, or None.
    self_attention: Attention of the queries to each other.
    fc1, fc2: The two layers of the feed-forward network.
    cross_norm, self_norm, feed_forward_norm: Layer norms of the three branches.
  """

  def __init__(self, options: MaskedDecoderOptions):
    """Initializes the layer; see MaskedDecoderOptions."""
    super().__init__()
    channels, hidden = options.channels, options.feed_forward_channels
    rate = self.dropout_rate = options.dropout_rate
    self.pre_norm = options.pre_norm
    self.self_attention_first = options.self_attention_first
    self.pools_masks = options.cross_attention is CrossAttention.MASK_POOLING
    self.cross_attention = (MaskPooling(channels) if self.pools_masks
                            else MultiHeadAttention(channels, options.num_heads, rate))
    is_modulated = options.cross_attention is CrossAttention.SMCA
    self.modulation = SpatialModulation(channels, options.num_heads) if is_modulated else None
    self.cross_norm = LayerNorm(channels)
    self.self_attention = MultiHeadAttention(channels, options.num_heads, rate)
    self.self_norm = LayerNorm(channels)
    self.fc1, self.fc2 = feed_forward_projections(channels, hidden)
    self.feed_forward_norm = LayerNorm(channels)

  def call(self, queries: tf.Tensor, positions: tf.Tensor, memory: Memory,
           blocked: Optional[tf.Tensor] = None, training: bool = False) -> tf.Tensor:
    """Updates the queries.

    Args:
      queries: [batch, queries, channels].
      positions: [queries, channels], position embedding of the queries.
      memory: Feature maps that the queries read.
      blocked: bool [batch, queries, pixels], the pixels that a query does not read.
      training: Whether values are dropped.

    Returns:
      [batch, queries, channels].
    """
    if self.self_attention_first:
      queries = self.exchange(queries, positions, training)
      queries = self.read_memory(queries, positions, memory, blocked, training)
    else:
      queries = self.read_memory(queries, positions, memory, blocked, training)
      queries = self.exchange(queries, positions, training)
    return self.feed_forward(queries, training)

  def read_memory(self, queries: tf.Tensor, positions: tf.Tensor, memory: Memory,
                  blocked: Optional[tf.Tensor] = None, training: bool = False) -> tf.Tensor:
    """Returns the queries after cross-attention; see `call` for the arguments."""
    def read(x):
      if self.pools_masks:
        return self.cross_attention(memory.values, x.shape[1], blocked)
      queries = x + positions
      modulation = None if self.modulation is None else self.modulation(queries, memory.sizes)
      # Analyses show attention to the pixels of one map, and leave out that to several at once.
      size = memory.sizes[0] if len(memory.sizes) == 1 else None
      return self.cross_attention(queries, memory.keys, memory.values, blocked, size, modulation,
                                  training=training)

    return self._residual(self.cross_norm, queries, read, training)

  def exchange(self, queries: tf.Tensor, positions: tf.Tensor,
               training: bool = False) -> tf.Tensor:
    """Returns the queries after self-attention; see `call` for the arguments."""
    return self._residual(self.self_norm, queries, lambda x: self.self_attention(
        x + positions, x + positions, x, training=training), training)

  def feed_forward(self, queries: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns the queries after the feed-forward network; see `call` for the arguments."""
    return self._residual(self.feed_forward_norm, queries, lambda x: self.fc2(
        dropout(self.fc1(x), self.dropout_rate, training)), training)

  def _residual(self, norm, x, branch, training):
    change = dropout(branch(norm(x) if self.pre_norm else x), self.dropout_rate, training)
    return x + change if self.pre_norm else norm(x + change)
