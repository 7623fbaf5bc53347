"""Convolutions of the pixel decoders, with Detectron2's initial weights."""

from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import GroupNorm


def normalized(in_channels: int, channels: int, kernel_size: int = 1,
               activation: str = 'none') -> Convolution:
  """Returns a convolution without bias, with a group norm of 32 groups and an activation.

  Raises:
    ConfigError: The channels are not a multiple of 32.
  """
  return Convolution(in_channels, channels, kernel_size, norm=GroupNorm, activation=activation,
                     kernel_initializer=initializers.caffe2_xavier())


def to_mask_features(channels: int, mask_channels: int) -> Convolution:
  """Returns the 3x3 convolution, with a bias, that ends in the mask features."""
  return Convolution(channels, mask_channels, 3, kernel_initializer=initializers.caffe2_xavier())
