"""Multi-head attention (Vaswani et al., "Attention Is All You Need", section 3.2.2)."""

from typing import Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.attention_records import AttentionRecord, report
from deeplab_tf.layers.convolution import Projection, merge_heads, split_heads
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.user_errors import ConfigError


class MultiHeadAttention(keras.layers.Layer):
  """Scaled dot-product attention of several heads, with keys that can be blocked.

  Initial weights are PyTorch's: Xavier's for query, key and value as one matrix, and for the output
  projection; biases are zero.

  Attributes:
    query, key, value: Projections of the inputs; head i has the i-th block of their channels.
    output_projection: Projection of the heads' outputs.
  """

  def __init__(self, channels: int, num_heads: int, dropout_rate: float = 0.0):
    """Initializes the layer.

    Args:
      channels: Channels of all inputs and of the output.
      num_heads: Number of heads.
      dropout_rate: Rate of dropout of the attention weights, after the softmax, in [0, 1).

    Raises:
      ConfigError: The channels are not divisible by the number of heads.
    """
    super().__init__()
    if channels % num_heads:
      raise ConfigError(f'attention: {channels} channels do not divide into {num_heads} heads; '
                        'change one of them')
    self.num_heads = num_heads
    self.dropout_rate = dropout_rate
    self.query, self.key, self.value = (
        Projection(channels, channels, kernel_initializer=initializers.joint_xavier(3))
        for _ in range(3))
    self.output_projection = Projection(channels, channels, kernel_initializer='glorot_uniform')

  def call(self, queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor,
           blocked: Optional[tf.Tensor] = None,
           key_size: Optional[tuple[Dimension, Dimension]] = None,
           log_modulation: Optional[tf.Tensor] = None, training: bool = False) -> tf.Tensor:
    """Computes softmax(Q K^T / sqrt(d)) V for each head, where d is the channels of a head.

    Args:
      queries: [batch, queries, channels].
      keys: [batch, keys, channels].
      values: [batch, keys, channels].
      blocked: bool [batch, queries, keys], the keys that a query does not attend to, in all heads.
        A query whose keys are all blocked attends to all of them equally.
      key_size: Height and width of the map whose pixels are the keys, for attention records.
      log_modulation: float32 [batch, heads, queries, keys], which is added to the logits; see
        layers.spatial_modulation.
      training: Whether attention weights are dropped.

    Returns:
      [batch, queries, channels].
    """
    query, key, value = (split_heads(projection(x), self.num_heads) for projection, x in (
        (self.query, queries), (self.key, keys), (self.value, values)))
    logits = tf.matmul(query * query.shape[-1]**-0.5, key, transpose_b=True)
    logits = tf.cast(logits, tf.float32)
    if log_modulation is not None:
      logits += log_modulation
    if blocked is not None:
      logits = tf.where(blocked[:, None], tf.float32.min, logits)
    weights = tf.nn.softmax(logits)
    report(AttentionRecord(self, (query, key, value), weights, key_size))
    weights = dropout(tf.cast(weights, value.dtype), self.dropout_rate, training)
    return self.output_projection(merge_heads(tf.matmul(weights, value)))
