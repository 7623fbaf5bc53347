"""Residual blocks of DeepLab2's networks: convolutional and axial bottlenecks.

A block takes a feature before its activation and returns one before its activation; the
shortcut is the activated input.
"""

from typing import Optional, Sequence

import tensorflow as tf

from deeplab_tf.layers.axial_attention import AxialAttention2D
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.stochastic_depth import drop_path


class BottleneckBlock(tf.keras.layers.Layer):
  """1x1 convolution, 3x3 convolution or axial attention, 1x1 convolution, and a shortcut."""

  def __init__(self,
               in_channels: int,
               channels: Sequence[int],
               norm: NormFactory,
               stride: int = 1,
               rate: int = 1,
               attention_heads: Optional[int] = None,
               attention_expansion: Sequence[int] = (1, 2),
               keep_prob: float = 1.0):
    """Makes the variables.

    Args:
      in_channels: Channels of the input.
      channels: Channels after the first convolution, of the middle one (or of the attention's
        queries), and of the block.
      norm: Makes the batch norms.
      stride: Stride of the middle layer and of the shortcut.
      rate: Dilation of the 3x3 convolution.
      attention_heads: Heads of axial attention (figure A.7 of MaX-DeepLab) as the middle layer;
        None: a 3x3 convolution.
      attention_expansion: Factors on channels[1] for the attention's keys and values.
      keep_prob: Probability that the branch is kept in training, in (0, 1].
    """
    super().__init__()
    first, middle, last = channels
    self.stride, self.keep_prob = stride, keep_prob
    self.conv1 = Convolution(in_channels, first, norm=norm, activation='relu')
    self.attention = None
    if attention_heads is None:
      self.conv2 = Convolution(first, middle, 3, stride, rate, norm, 'relu')
    else:
      keys, values = (round(middle * factor) for factor in attention_expansion)
      self.attention = AxialAttention2D(first, keys, values, attention_heads, norm, stride)
      middle = values
    self.conv3 = Convolution(middle, last, norm=norm, zero_gamma=True)
    self.shortcut = None
    if in_channels != last:
      self.shortcut = Convolution(in_channels, last, stride=stride, norm=norm)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, channels[-1]]."""
    x = tf.nn.relu(x)
    branch = self.conv1(x, training=training)
    if self.attention is None:
      branch = self.conv2(branch, training=training)
    else:
      branch = tf.nn.relu(self.attention(branch, training=training))
    branch = self.conv3(branch, training=training)
    if self.shortcut is not None:
      x = self.shortcut(x, training=training)
    elif self.stride > 1:
      x = x[:, ::self.stride, ::self.stride]
    return x + drop_path(branch, self.keep_prob, training)
