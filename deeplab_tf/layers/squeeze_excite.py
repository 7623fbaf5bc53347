"""A gate on each channel of a feature map, made from the map's mean (squeeze and excite)."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution


class SqueezeExcite(keras.layers.Layer):
  """Multiplies channels with the hard sigmoid of a linear map of their means (DeepLab2's form).

  Attributes:
    gate: The 1x1 convolution, with bias, from the means to the gates.
  """

  def __init__(self, channels: int):
    super().__init__()
    self.gate = Convolution(channels, channels, activation='hard_sigmoid')

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [batch, height, width, channels] to the same shape."""
    return x * self.gate(tf.reduce_mean(x, [1, 2], keepdims=True))
