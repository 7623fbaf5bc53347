"""A transformer encoder among the pixels of one feature map (DETR, Carion et al., ECCV 2020).

MaskFormer has it before its feature pyramid (arXiv 2107.06278, section 4.1 and its released code).
"""

import functools

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.layers.feed_forward import feed_forward_projections
from deeplab_tf.layers.multi_head_attention import MultiHeadAttention
from deeplab_tf.layers.normalization import LayerNorm
from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.shapes import dimensions


class TransformerEncoderLayer(keras.layers.Layer):
  """Self-attention of pixels and a feed-forward network.

  Each has a residual connection, followed by a layer norm.

  Attributes:
    attention: MultiHeadAttention.
    fc1, fc2: The two layers of the feed-forward network.
    norm1, norm2: Layer norms after the attention and after the feed-forward network.
  """

  def __init__(self, channels: int, *, num_heads: int, feed_forward_channels: int,
               dropout_rate: float = 0.0):
    """Initializes the layer.

    Args:
      channels: Channels of the pixels.
      num_heads: Number of heads.
      feed_forward_channels: Hidden channels of the feed-forward network.
      dropout_rate: Rate of dropout in training, in [0, 1), as in PyTorch's layer of DETR: of
        attention weights, hidden channels and the outputs of both branches.

    Raises:
      ConfigError: The channels are not divisible by the number of heads.
    """
    super().__init__()
    self.dropout_rate = dropout_rate
    self.attention = MultiHeadAttention(channels, num_heads, dropout_rate)
    self.norm1 = LayerNorm(channels)
    self.fc1, self.fc2 = feed_forward_projections(channels, feed_forward_channels)
    self.norm2 = LayerNorm(channels)

  def call(self, pixels: tf.Tensor, positions: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Updates the pixels.

    Args:
      pixels: [batch, pixels, channels], the map row by row.
      positions: [pixels, channels], position embedding, added to queries and keys.
      training: Whether dropout is on.

    Returns:
      [batch, pixels, channels].
    """
    keys = pixels + tf.cast(positions, pixels.dtype)
    # Without the map's size, since its record is not one of what queries read.
    read = self.attention(keys, keys, pixels, training=training)
    pixels = self.norm1(pixels + dropout(read, self.dropout_rate, training))
    hidden = dropout(self.fc1(pixels), self.dropout_rate, training)
    return self.norm2(pixels + dropout(self.fc2(hidden), self.dropout_rate, training))


class TransformerEncoder(keras.layers.Layer):
  """A projection of a feature map and layers of self-attention among its pixels.

  Attributes:
    input_projection: 1x1 convolution of the feature.
    encoder_layers: TransformerEncoderLayers.
  """

  def __init__(self, in_channels: int, channels: int, *, num_layers: int, num_heads: int,
               feed_forward_channels: int, dropout_rate: float = 0.0, recompute: bool = False):
    """Initializes the layer.

    Args:
      in_channels: Channels of the feature.
      channels: Channels of the output, a multiple of 4 and of num_heads.
      num_layers: Number of layers.
      num_heads: Number of heads.
      feed_forward_channels: Hidden channels of the feed-forward networks.
      dropout_rate: Dropout rate in training, see TransformerEncoderLayer.
      recompute: Whether the activations of a layer are not stored in training but recomputed in the
        backward pass.

    Raises:
      ConfigError: The channels are not divisible.
    """
    super().__init__()
    self.channels = channels
    self._recompute = recompute
    self.input_projection = Convolution(in_channels, channels,
                                        kernel_initializer=initializers.caffe2_xavier())
    self.encoder_layers = [
        TransformerEncoderLayer(channels, num_heads=num_heads, dropout_rate=dropout_rate,
                                feed_forward_channels=feed_forward_channels)
        for _ in range(num_layers)]

  def call(self, feature: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, h, w, in_channels] to [batch, h, w, channels]."""
    batch, height, width, _ = dimensions(feature)
    positions = tf.reshape(sine_position_embedding(height, width, self.channels),
                           [height * width, self.channels])
    pixels = tf.reshape(self.input_projection(feature), [batch, height * width, self.channels])
    for layer in self.encoder_layers:
      run = functools.partial(layer, training=training)
      if training and self._recompute:
        pixels = recompute(run, pixels, positions)
      else:
        pixels = run(pixels, positions)
    return tf.reshape(pixels, [batch, height, width, self.channels])
