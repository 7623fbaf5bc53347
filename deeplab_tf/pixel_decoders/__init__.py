"""Pixel decoders: from the features of a backbone to those that queries and masks read.

`build` makes the pixel decoder of a mask model; `aspp_decoder` is Panoptic-DeepLab's.
"""

from typing import Sequence

from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.transformer_encoder import TransformerEncoder
from deeplab_tf.pixel_decoders.bifpn_decoder import BiFPNDecoder
from deeplab_tf.pixel_decoders.deformable_decoder import DeformablePixelDecoder
from deeplab_tf.pixel_decoders.fapn_decoder import FaPNDecoder
from deeplab_tf.pixel_decoders.fpn_decoder import FPNDecoder
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder
from deeplab_tf.pixel_decoders.semantic_fpn_decoder import SemanticFPNDecoder
from deeplab_tf.user_errors import ConfigError


def build(options, features: Sequence[Feature], *, mask_channels: int, num_heads: int,
          recompute: bool) -> PixelDecoder:
  """Builds the pixel decoder that Mask2FormerOptions.PixelDecoderOptions describe.

  Args:
    options: PixelDecoderOptions.
    features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
    mask_channels: Channels of the mask features.
    num_heads: Number of heads of attention layers.
    recompute: Whether the activations of attention layers, of BiFPN's layers and of FaPN's
      alignments are not stored in training but recomputed in the backward pass.

  Raises:
    ConfigError: Channels are not divisible by the groups of norms or the heads, the strides of the
      features are others, or an option is set that the kind does not have.
  """
  _check_used(options)
  channels = {'channels': options.channels, 'mask_channels': mask_channels}
  if options.kind == options.FPN:
    encoder = None
    if options.num_encoder_layers:
      encoder = TransformerEncoder(
          features[-1].channels, options.channels, num_layers=options.num_encoder_layers,
          num_heads=num_heads, feed_forward_channels=options.feed_forward_channels,
          dropout_rate=options.dropout_rate, recompute=recompute)
    return FPNDecoder(features, **channels, encoder=encoder)
  if options.kind == options.SEMANTIC_FPN:
    return SemanticFPNDecoder(features, **channels)
  if options.kind == options.BIFPN:
    return BiFPNDecoder(features, **channels, num_layers=options.num_fusion_layers,
                        recompute=recompute)
  if options.kind == options.FAPN:
    return FaPNDecoder(features, **channels, recompute=recompute)
  return DeformablePixelDecoder(
      features, **channels, num_layers=options.num_layers, num_heads=num_heads,
      num_points=options.num_points, feed_forward_channels=options.feed_forward_channels,
      recompute=recompute)


def _check_used(options):
  """Checks that no option is set that only another kind has.

  Those of the default kind may stay in a config that changes the kind.
  """
  name = 'mask2former.pixel_decoder'
  kind = options.Kind.Name(options.kind)
  if options.num_encoder_layers and options.kind != options.FPN:
    raise ConfigError(f'{name}.num_encoder_layers is {options.num_encoder_layers}, and kind is '
                      f'{kind}: only FPN has an encoder; remove it or set the kind to FPN')
  if options.dropout_rate and not options.num_encoder_layers:
    raise ConfigError(f'{name}.dropout_rate is {options.dropout_rate:g}, and num_encoder_layers is '
                      '0: only encoder layers of FPN have dropout; remove it or set '
                      'num_encoder_layers')
  if options.HasField('num_fusion_layers') and options.kind != options.BIFPN:
    raise ConfigError(f'{name}.num_fusion_layers is set, and kind is {kind}: only BIFPN has fusion '
                      'layers; remove it or set the kind to BIFPN')
