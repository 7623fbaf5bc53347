"""A feature pyramid network as pixel decoder, MaskFormer's default.

Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017), in the form of MaskFormer's
and Mask2Former's released code, which calls it BasePixelDecoder. With a transformer encoder before
it, it is MaskFormer's TransformerEncoderPixelDecoder.
"""

from typing import Optional, Sequence

import tensorflow as tf

from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.resizing import upsample_nearest
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.layers.transformer_encoder import TransformerEncoder
from deeplab_tf.pixel_decoders import _convolutions
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder, PixelDecoderOutput


class FPNDecoder(PixelDecoder):
  """Feature pyramid network with group norms. It computes in the precision of the policy.

  Attributes besides those of PixelDecoder:
    encoder: TransformerEncoder of the backbone's feature of stride 32, or None.
    laterals: 1x1 convolutions of the backbone's features of stride 16, 8 and 4; adapter_3,
      adapter_2 and adapter_1 in the released code.
    outputs: 3x3 convolutions of the levels of stride 32, 16, 8 and 4; layer_4 to layer_1 in the
      released code.
    mask_projection: 3x3 convolution to the mask features.
  """

  def __init__(self, features: Sequence[Feature], *, channels: int = 256, mask_channels: int = 256,
               encoder: Optional[TransformerEncoder] = None):
    """Initializes the layer.

    Args:
      features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
      channels: Channels of all levels, a multiple of 32, the groups of the norms.
      mask_channels: Channels of the mask features.
      encoder: Encoder of the feature of stride 32; None: the feature itself.

    Raises:
      ConfigError: The strides of the features are others, or the channels are not divisible.
    """
    super().__init__(features, channels, mask_channels)
    self.encoder = encoder
    if encoder is not None:
      self.coarsest_channels = encoder.channels
    self.laterals = [_convolutions.normalized(feature.channels, channels)
                     for feature in reversed(features[:-1])]
    self.outputs = [_convolutions.normalized(in_channels, channels, 3, 'relu')
                    for in_channels in (self.coarsest_channels, channels, channels, channels)]
    self.mask_projection = _convolutions.to_mask_features(channels, mask_channels)

  def call(self, features: dict[str, tf.Tensor], training: bool = False) -> PixelDecoderOutput:
    """Maps the features of a backbone, by name, to levels and mask features.

    Args:
      features: [batch, h, w, channels] for each feature.
      training: Whether the encoder drops activations and is recomputed, if it was built to do so.

    Returns:
      Levels and mask features.
    """
    *finer, coarsest = [features[name] for name in self.feature_names]
    if self.encoder is not None:
      coarsest = self.encoder(coarsest, training=training)
    levels = [self.outputs[0](coarsest)]
    for lateral, output, feature in zip(self.laterals, self.outputs[1:], reversed(finer)):
      upsampled = upsample_nearest(levels[-1], dimensions(feature)[1:3])
      levels.append(output(lateral(feature) + upsampled))
    mask_features = self.mask_projection(self.merge(levels))
    return PixelDecoderOutput(tuple(levels[:3]), mask_features, coarsest)

  def merge(self, levels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the features of stride 4 that mask features are made of: the last level.

    Args:
      levels: Levels of stride 32, 16, 8 and 4.
    """
    return levels[-1]
