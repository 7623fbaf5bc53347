"""Sums features of different sizes and channels, as decoder stages do."""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension


class ResizedFuse(keras.layers.Layer):
  """Brings features to one size and number of channels, and adds them up.

  Attributes:
    projections: One Convolution per input; None if the input has the channels of the output.
  """

  def __init__(self, in_channels: Sequence[int], strides: Sequence[int], channels: int,
               stride: int, *, norm: NormFactory, activation: str = 'relu'):
    """Initializes the layer.

    Args:
      in_channels: Channels of each input.
      strides: Stride of each input with respect to the image.
      channels: Channels of the output.
      stride: Stride of the output with respect to the image.
      norm: Factory of the batch norms.
      activation: Name of the activation of inputs before their projection.
    """
    super().__init__()
    self._activation = activation_lib.by_name(activation)
    self.projections = []
    for source_channels, source_stride in zip(in_channels, strides):
      if source_channels == channels:
        self.projections.append(None)
        continue
      # A feature of twice the resolution is halved by the projection itself.
      step = 2 if source_stride * 2 == stride else 1
      self.projections.append(Convolution(source_channels, channels, stride=step, norm=norm))

  def call(self, features: Sequence[tf.Tensor], size: Sequence[Dimension],
           training: bool = False) -> tf.Tensor:
    """Returns the sum, [batch, *size, channels].

    Args:
      features: [batch, height, width, channels] each, before the activation.
      size: Height and width of the output.
      training: Whether batch norms use the batch's statistics.
    """
    total = 0.0
    for feature, projection in zip(features, self.projections):
      if projection is not None:
        feature = projection(self._activation(feature), training=training)
      total += resize_bilinear(feature, size)
    return total
