"""A head that predicts a map: a 5x5 convolution block, then a 1x1 convolution with bias."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution, convolution_block
from deeplab_tf.layers.normalization import NormFactory


class ConvolutionHead(keras.layers.Layer):
  """Predicts `channels` values per pixel, without activation."""

  def __init__(self, in_channels: int, middle_channels: int, channels: int, *, norm: NormFactory,
               convolution: str = 'depthwise_separable_conv', activation: str = 'relu'):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      middle_channels: Channels between the convolutions.
      channels: Channels of the prediction.
      norm: Factory of the batch norms.
      convolution: Kind of the first convolution, see convolution_block.
      activation: Name of the activation of the first convolution.
    """
    super().__init__()
    self.block = convolution_block(convolution, in_channels, middle_channels, 5, norm=norm,
                                   activation=activation)
    self.last = Convolution(middle_channels, channels,
                            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01))

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, height, width, channels]."""
    return self.last(self.block(x, training=training), training=training)


def build(options, in_channels: int, norm: NormFactory, channels: int = 0,
          activation: str = 'relu') -> ConvolutionHead:
  """Builds a head from its HeadOptions; `channels` replaces their output_channels."""
  return ConvolutionHead(in_channels, options.head_channels, channels or options.output_channels,
                         norm=norm, convolution=options.head_conv_type, activation=activation)
