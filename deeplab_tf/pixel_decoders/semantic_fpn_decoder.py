"""Semantic FPN as pixel decoder: all levels of a feature pyramid are merged at stride 4.

Kirillov et al., "Panoptic Feature Pyramid Networks" (CVPR 2019), section 3 and figure 3. Its branch
takes the place of the pyramid's finest level before the mask features. Mask2Former's paper (table
4e) states no details; a branch as wide as the pyramid, before the 3x3 convolution of the mask
features, takes as much more than FPN as it prints.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import GroupNorm
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.pixel_decoders.fpn_decoder import FPNDecoder

# Number of convolutions for the levels of stride 32, 16, 8 and 4.
_CONVOLUTIONS = (3, 2, 1, 1)


class SemanticBranch(keras.layers.Layer):
  """Convolutions of one level, each followed by upsampling.

  Attributes:
    convolutions: 3x3 convolutions with group norm.
  """

  def __init__(self, channels: int, num_convolutions: int):
    """Initializes the layer.

    Args:
      channels: Channels of input and output.
      num_convolutions: Number of convolutions.
    """
    super().__init__()
    self.convolutions = [Convolution(channels, channels, 3, norm=GroupNorm, activation='relu')
                         for _ in range(num_convolutions)]

  def call(self, x: tf.Tensor, sizes: Sequence[Sequence[Dimension]]) -> tf.Tensor:
    """Maps [batch, h, w, channels] to the last size.

    Args:
      x: The level.
      sizes: Height and width after each convolution.
    """
    for convolution, size in zip(self.convolutions, sizes):
      x = resize_bilinear(convolution(x), size, 'half_pixel')
    return x


class SemanticFPNDecoder(FPNDecoder):
  """FPNDecoder whose mask features are made of all levels.

  Attributes:
    branches: SemanticBranches of the levels of stride 32, 16, 8 and 4. They end at stride 4, where
      nothing is upsampled.
  """

  def __init__(self, features: Sequence[Feature], *, channels: int = 256, mask_channels: int = 256):
    """Initializes the layer; see FPNDecoder."""
    super().__init__(features, channels=channels, mask_channels=mask_channels)
    self.branches = [SemanticBranch(channels, count) for count in _CONVOLUTIONS]

  def merge(self, levels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the mean of the levels at stride 4.

    Departs from the paper of Semantic FPN, which takes the sum: with the mean, the convolution that
    follows has an input of the scale of FPN's, and the same functions with the same parameters.
    With the sum a small Mask2Former learned masks before classes and did not recover.
    """
    sizes = [dimensions(level)[1:3] for level in levels]
    merged = tf.add_n([branch(level, [*sizes[index + 1:], sizes[-1]])
                       for index, (branch, level) in enumerate(zip(self.branches, levels))])
    return merged / len(levels)
