"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1).

Each tap of the kernel reads the map at a position and with a weight that are predicted for each
pixel. Positions and samples are computed in float32 whatever the precision of the network.
"""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Convolution, add_bias, project
from deeplab_tf.layers.deformable_attention import sample
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.user_errors import ConfigError


class DeformableConvolution(keras.layers.Layer):
  """Deformable convolution of stride 1, whose offsets are predicted from another feature.

  Attributes:
    offsets: Convolution from the guiding feature to offsets and logits of the weights. Its channels
      are those of the paper's code: (y, x) in pixels for each group and tap, and after all of them
      a logit for each group and tap. It starts at zero: at first the layer is a convolution with
      half its kernel.
    kernel: float32 [size, size, in_channels, channels].
    bias: float32 [channels].
  """

  def __init__(self, in_channels: int, channels: int, *, guide_channels: int, kernel_size: int = 3,
               groups: int = 8):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels of the output.
      guide_channels: Channels of the feature that offsets are predicted from.
      kernel_size: Height and width of the kernel, an odd number.
      groups: Number of groups of input channels, each with its own offsets and weights.

    Raises:
      ConfigError: The channels are not divisible by the number of groups.
    """
    super().__init__()
    if in_channels % groups:
      raise ConfigError(f'deformable convolution: {in_channels} channels do not divide into '
                        f'{groups} groups; change the number of channels')
    self.groups = groups
    self.offsets = Convolution(guide_channels, 3 * groups * kernel_size**2, kernel_size,
                               kernel_initializer='zeros')
    self.kernel = self.add_weight('kernel', (kernel_size, kernel_size, in_channels, channels),
                                  initializer=initializers.caffe2_xavier())
    self.bias = self.add_weight('bias', (channels,), initializer='zeros')

  def call(self, x: tf.Tensor, guide: tf.Tensor) -> tf.Tensor:
    """Computes the convolution.

    Args:
      x: [batch, height, width, in_channels].
      guide: [batch, height, width, guide_channels].

    Returns:
      [batch, height, width, channels].
    """
    predicted = tf.cast(self.offsets(guide), tf.float32)
    points = self.groups * self.kernel.shape[0]**2
    offsets, logits = tf.split(predicted, [2 * points, points], axis=-1)
    y = deform_convolve(x, offsets, tf.sigmoid(logits), self.kernel, self.groups)
    return add_bias(y, self.bias)


def deform_convolve(x: tf.Tensor, offsets: tf.Tensor, weights: tf.Tensor, kernel: tf.Tensor,
                    groups: int) -> tf.Tensor:
  """Computes the sum over taps k of kernel[k] * weights[k] * x(p + p_k + offsets[k]).

  p is a pixel, and p_k the position of a tap, from -size // 2 to size // 2 in both directions. x is
  interpolated bilinearly, and zero outside of the map.

  Args:
    x: [batch, height, width, in_channels].
    offsets: float32 [batch, height, width, groups * taps * 2], (y, x) in pixels.
    weights: float32 [batch, height, width, groups * taps].
    kernel: [size, size, in_channels, channels]; the size is odd.
    groups: Number of groups of neighboring input channels.

  Returns:
    [batch, height, width, channels], in the precision of x.
  """
  batch, height, width, channels = dimensions(x)
  taps, pixels = kernel.shape[0]**2, height * width
  # Taps before groups, so that the samples of a pixel are in the order of the kernel's rows.
  positions = tf.reshape(offsets + _undeformed(height, width, kernel.shape[0], groups),
                         [batch, pixels, groups, taps, 2])
  positions = tf.transpose(positions[..., ::-1], [0, 1, 3, 2, 4])
  weights = tf.transpose(tf.reshape(weights, [batch, pixels, groups, taps]), [0, 1, 3, 2])
  values = tf.reshape(tf.cast(x, tf.float32), [batch, pixels, groups, channels // groups])
  samples = sample(values, tf.reshape(positions, [batch, pixels * taps, groups, 1, 1, 2]),
                   tf.reshape(weights, [batch, pixels * taps, groups, 1, 1]), [(height, width)])
  samples = tf.reshape(tf.cast(samples, x.dtype), [batch, height, width, taps * channels])
  return project(samples, tf.reshape(kernel, [taps * channels, kernel.shape[-1]]), tf.identity)


def _undeformed(height, width, size, groups):
  """Returns the positions of taps without offsets, float32 [height, width, groups * taps * 2]."""
  rows, columns = (tf.cast(tf.range(n), tf.float32) for n in (height, width))
  steps = tf.range(size, dtype=tf.float32) - size // 2
  taps = tf.reshape(tf.stack(tf.meshgrid(steps, steps, indexing='ij'), -1), [-1])
  # One axis of channels, since broadcasting short axes is slow.
  vertical, horizontal = (tf.tile(part, [groups * size**2]) for part in ([1.0, 0.0], [0.0, 1.0]))
  return (rows[:, None, None] * vertical + columns[None, :, None] * horizontal
          + tf.tile(taps, [groups]))
