"""The first layers of DeepLab2's networks."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import NormFactory

# Kernel size and channels of the stems that are one convolution.
_SINGLE = {'resnet': (7, 64), 'wide_resnet': (3, 64)}


def make_stem(kind: str, width: float, norm: NormFactory,
              activation: str = 'relu') -> keras.layers.Layer:
  """Returns a network's stem, which has stride 2 and no activation at its end.

  Args:
    kind: 'resnet' (a 7x7 convolution), 'wide_resnet' (a 3x3 one) or 'inception'.
    width: Factor on the channels.
    norm: Factory of the batch norms.
    activation: Name of the activation between convolutions.

  Returns:
    A layer with the attribute `channels`.
  """
  if kind == 'inception':
    return InceptionStem(width, norm, activation=activation)
  size, channels = _SINGLE[kind]
  return Convolution(3, round(channels * width), size, stride=2, norm=norm)


class InceptionStem(keras.layers.Layer):
  """Three 3x3 convolutions, the first with stride 2; the last without activation."""

  def __init__(self, width: float, norm: NormFactory, in_channels: int = 3,
               activation: str = 'relu'):
    """Initializes the layer.

    Args:
      width: Factor on the channels 64, 64, 128.
      norm: Factory of the batch norms.
      in_channels: Channels of the image.
      activation: Name of the activation.
    """
    super().__init__()
    self.channels = int(128 * width)
    narrow = int(64 * width)
    self.conv1 = Convolution(in_channels, narrow, 3, stride=2, norm=norm,
                             activation=activation)
    self.conv2 = Convolution(narrow, narrow, 3, norm=norm, activation=activation)
    self.conv3 = Convolution(narrow, self.channels, 3, norm=norm)

  def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, ceil(h/2), ceil(w/2), channels]."""
    x = self.conv1(images, training=training)
    x = self.conv2(x, training=training)
    return self.conv3(x, training=training)
