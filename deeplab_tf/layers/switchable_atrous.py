"""Switchable atrous convolution (DetectoRS, section 3.2; arXiv 2006.02334)."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers.convolution import HE_NORMAL, Convolution
from deeplab_tf.layers.dilation import convolve
from deeplab_tf.layers.normalization import NormFactory

# Factor between the two dilations.
_LARGE = 3
_WINDOW = 5


class SwitchableAtrousConvolution(keras.layers.Layer):
  """A convolution with one kernel at two dilations, mixed by a learned switch for each pixel.

  As in DeepLab2, both dilations share the kernel without the difference that DetectoRS learns,
  and kernels are not standardized. The 1x1 convolutions start at 0, so that a new layer is the
  convolution of the smaller dilation.

  Attributes:
    kernel: float32 [size, size, in_channels, channels].
    switch: 1x1 convolution to the share of the larger dilation, from means of 5x5 pixels.
    before, after: 1x1 convolutions of the mean over all pixels, added to input and output.
    norm: BatchNorm.
  """

  def __init__(self, in_channels: int, channels: int, kernel_size: int, *, stride: int, rate: int,
               norm: NormFactory, activation: str = 'none'):
    """Initializes the layer; see Convolution for the arguments."""
    super().__init__()
    self.stride, self.rate = stride, rate
    self.activation = activation_lib.by_name(activation)
    self.kernel = self.add_weight('kernel', (kernel_size, kernel_size, in_channels, channels),
                                  initializer=HE_NORMAL())
    self.switch = Convolution(in_channels, 1, stride=stride, kernel_initializer='zeros')
    self.before = Convolution(in_channels, in_channels, kernel_initializer='zeros')
    self.after = Convolution(channels, channels, kernel_initializer='zeros')
    self.norm = norm(channels)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, channels]."""
    x = x + self.before(tf.reduce_mean(x, [1, 2], keepdims=True))
    large = self.switch(tf.nn.avg_pool2d(x, _WINDOW, 1, 'SAME'))
    kernel = tf.cast(self.kernel, x.dtype)
    y = convolve(x, kernel, self.stride, self.rate)
    y += large * (convolve(x, kernel, self.stride, self.rate * _LARGE) - y)
    y = y + self.after(tf.reduce_mean(y, [1, 2], keepdims=True))
    return self.activation(self.norm(y, training=training))
