"""Residual blocks of DeepLab2's networks: basic, bottleneck and axial bottleneck.

A block takes a feature before its activation and returns one before its activation; the
shortcut is the activated input. Only a block whose input is images does not activate it.
"""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers.axial_attention import AxialAttention2D
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import AXIAL, AttentionOptions
from deeplab_tf.layers.squeeze_excite import SqueezeExcite
from deeplab_tf.layers.stochastic_depth import drop_path
from deeplab_tf.layers.switchable_atrous import SwitchableAtrousConvolution


class BlockOptions(NamedTuple):
  """Options of a block: those that all blocks of a network share, then those of its place.

  Attributes:
    activation: Name of the activation.
    squeeze_and_excite: Whether the branch ends in a squeeze-and-excite gate.
    num_heads: Number of heads of attention.
    attention_expansion: Factors on the width for the keys and the values of attention.
    attention: Form of the attention.
    stride: Stride of the block.
    rate: Dilation of the (first) 3x3 convolution.
    last_rate: Dilation of the second 3x3 convolution of a basic block.
    keep_prob: Probability that the branch is kept in training, in (0, 1].
    has_attention: Whether the middle layer of a bottleneck is attention instead of a 3x3
      convolution.
    switchable_atrous: Whether the 3x3 convolution of a bottleneck is a switchable atrous one.
    activates_input: Whether the block activates its input, which it does unless that is an image.
  """
  activation: str = 'relu'
  squeeze_and_excite: bool = False
  num_heads: int = 8
  attention_expansion: tuple[int, int] = (1, 2)
  attention: AttentionOptions = AXIAL
  # Set by the block group.
  stride: int = 1
  rate: int = 1
  last_rate: int = 1
  keep_prob: float = 1.0
  has_attention: bool = False
  switchable_atrous: bool = False
  activates_input: bool = True


_DEFAULT = BlockOptions()


class _ResidualBlock(keras.layers.Layer):
  """A branch and a shortcut; is_axial: whether the branch has (axial) attention."""

  is_axial = False

  def __init__(self, in_channels, channels, norm, options):
    super().__init__()
    self.stride, self.keep_prob = options.stride, options.keep_prob
    self.activation = activation_lib.by_name(options.activation)
    self._activates_input = options.activates_input
    self.shortcut = None
    if in_channels != channels:
      self.shortcut = Convolution(in_channels, channels, stride=options.stride, norm=norm)
    self.squeeze_excite = SqueezeExcite(channels) if options.squeeze_and_excite else None

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, channels[-1]]."""
    if self._activates_input:
      x = self.activation(x)
    branch = self._branch(x, training)
    if self.squeeze_excite is not None:
      branch = self.squeeze_excite(branch)
    if self.shortcut is not None:
      x = self.shortcut(x, training=training)
    elif self.stride > 1:
      x = x[:, ::self.stride, ::self.stride]
    return x + drop_path(branch, self.keep_prob, training)


class BasicBlock(_ResidualBlock):
  """Two 3x3 convolutions and a shortcut."""

  def __init__(self, in_channels: int, channels: Sequence[int], norm: NormFactory,
               options: BlockOptions = _DEFAULT):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels after the first convolution, and of the block.
      norm: Factory of the batch norms.
      options: Strides, dilations and so on; the second convolution has stride 1.
    """
    super().__init__(in_channels, channels[-1], norm, options)
    self.conv1 = Convolution(in_channels, channels[0], 3, stride=options.stride, rate=options.rate,
                             norm=norm, activation=options.activation)
    self.conv2 = Convolution(channels[0], channels[1], 3, rate=options.last_rate, norm=norm,
                             zero_gamma=True)

  def _branch(self, x, training):
    return self.conv2(self.conv1(x, training=training), training=training)


class BottleneckBlock(_ResidualBlock):
  """1x1 convolution, 3x3 convolution or attention, 1x1 convolution, and a shortcut."""

  def __init__(self, in_channels: int, channels: Sequence[int], norm: NormFactory,
               options: BlockOptions = _DEFAULT):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels after the first convolution, of the middle one (or of the attention's
        queries), and of the block.
      norm: Factory of the batch norms.
      options: Strides, dilations and so on; the middle layer has the stride. With attention it is
        the block of MaX-DeepLab's figure A.7.
    """
    super().__init__(in_channels, channels[-1], norm, options)
    first, middle, last = channels
    self.conv1 = Convolution(in_channels, first, norm=norm, activation=options.activation)
    self.attention = None
    self.is_axial = options.has_attention
    if not options.has_attention:
      kind = SwitchableAtrousConvolution if options.switchable_atrous else Convolution
      self.conv2 = kind(first, middle, 3, stride=options.stride, rate=options.rate, norm=norm,
                        activation=options.activation)
    else:
      keys, values = (round(middle * factor) for factor in options.attention_expansion)
      kind = LocalAttention2D if options.attention.kind == 'local' else AxialAttention2D
      self.attention = kind(first, keys, values, options.num_heads, norm=norm,
                            stride=options.stride, options=options.attention)
      middle = values
    self.conv3 = Convolution(middle, last, norm=norm, zero_gamma=True)

  def _branch(self, x, training):
    x = self.conv1(x, training=training)
    if self.attention is None:
      x = self.conv2(x, training=training)
    else:
      x = self.activation(self.attention(x, training=training))
    return self.conv3(x, training=training)
