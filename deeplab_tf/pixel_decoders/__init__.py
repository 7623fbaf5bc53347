"""Pixel decoders: from the features of a backbone to those that queries and masks read.

`build` makes the pixel decoder of a mask model; `aspp_decoder` is Panoptic-DeepLab's.
"""

from typing import Sequence

from deeplab_tf.compat import keras
from deeplab_tf.layers.features import Feature
from deeplab_tf.pixel_decoders.deformable_decoder import DeformablePixelDecoder


def build(options, features: Sequence[Feature], *, mask_channels: int, num_heads: int,
          recompute: bool) -> keras.layers.Layer:
  """Builds the pixel decoder that Mask2FormerOptions.PixelDecoderOptions describe.

  Args:
    options: PixelDecoderOptions.
    features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
    mask_channels: Channels of the mask features.
    num_heads: Number of heads of attention layers.
    recompute: Whether the activations of attention layers are not stored in training but recomputed
      in the backward pass.

  Returns:
    A layer from a dictionary of features to a PixelDecoderOutput, with the attributes `channels`,
    `mask_channels` and `coarsest_channels`.

  Raises:
    ConfigError: Channels are not divisible by the groups of norms or the heads, or the strides of
      the features are others.
  """
  return DeformablePixelDecoder(
      features, channels=options.channels, mask_channels=mask_channels,
      num_layers=options.num_layers, num_heads=num_heads, num_points=options.num_points,
      feed_forward_channels=options.feed_forward_channels, recompute=recompute)
