"""Panoptic-DeepLab's decoder: ASPP, then fusion with features of higher resolution."""

from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.convolution import Convolution, convolution_block
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions, scaled_size
from deeplab_tf.user_errors import ConfigError


class DecoderOptions(NamedTuple):
  """Sizes of an ASPPDecoder.

  Attributes:
    feature: Name of the backbone feature that ASPP reads.
    channels: Channels of the fusion convolutions.
    aspp_channels: Channels of each ASPP branch.
    atrous_rates: Dilations of ASPP.
    convolution: Kind of the fusion convolutions, see convolution_block.
    only_projection: Whether a 1x1 convolution replaces ASPP.
    skips_aspp: Whether ASPP is left out, so that the fusion takes the feature itself.
    aspp_convolution: Kind of ASPP's dilated convolutions, see convolution_block.
    pool_size: Window of ASPP's image pooling; None: the whole input.
    low_level: Name and projected channels of each fused feature, from low resolution to high.
    activation: Name of the activation of all convolutions.
  """
  feature: str
  channels: int
  aspp_channels: int
  atrous_rates: tuple[int, ...]
  convolution: str
  only_projection: bool
  pool_size: Optional[tuple[int, int]]
  low_level: tuple[tuple[str, int], ...]
  skips_aspp: bool = False
  aspp_convolution: str = 'standard_conv'
  activation: str = 'relu'


class ASPPDecoder(keras.layers.Layer):
  """One decoder, for the semantic or for the instance branch.

  Attributes:
    channels: Channels of the output.
    aspp: ASPP, or None.
  """

  def __init__(self, features: Sequence[Feature], options: DecoderOptions, norm: NormFactory):
    """Initializes the layer.

    Args:
      features: Features of the backbone.
      options: Sizes of the decoder.
      norm: Factory of the batch norms.

    Raises:
      ValueError: A feature is not among the backbone's; the message lists those.
    """
    super().__init__()
    self.options = options
    feature_channels = {feature.name: feature.channels for feature in features}
    for name in (options.feature, *(name for name, _ in options.low_level)):
      if name not in feature_channels:
        raise ConfigError(f'decoder: unknown feature_key "{name}": the backbone has '
                          f'{", ".join(feature_channels)}')
    channels = feature_channels[options.feature]
    self.aspp = None
    if not options.skips_aspp:
      self.aspp = ASPP(
          in_channels=channels, channels=options.aspp_channels, rates=options.atrous_rates,
          norm=norm, pool_size=options.pool_size, only_projection=options.only_projection,
          convolution=options.aspp_convolution, activation=options.activation)
      channels = options.aspp_channels
    self.low_level, self.fusion = [], []
    for name, projected in options.low_level:
      self.low_level.append(Convolution(feature_channels[name], projected, norm=norm,
                                        activation=options.activation))
      self.fusion.append(convolution_block(options.convolution, channels + projected,
                                           options.channels, 5, norm=norm,
                                           activation=options.activation))
      channels = options.channels
    self.channels = channels

  def call(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
    """Maps activated features to [batch, h, w, channels], of the last low-level feature's size."""
    x = features[self.options.feature]
    if self.aspp is not None:
      x = self.aspp(x, training=training)
    for (name, _), projection, fusion in zip(self.options.low_level, self.low_level, self.fusion):
      low = projection(features[name], training=training)
      x = resize_bilinear(x, dimensions(low)[1:3])
      x = fusion(tf.concat([x, low], axis=-1), training=training)
    return x


def pool_size(crop_size: Sequence[int], output_stride: int) -> Optional[tuple[int, int]]:
  """Returns the size of a crop's feature, DeepLab2's window of image pooling."""
  if len(crop_size) != 2:
    return None
  height, width = (scaled_size(n, 1 / output_stride) for n in crop_size)
  return height, width


def build(decoder, low_level, features: Sequence[Feature], crop_size: Sequence[int],
          norm: NormFactory, activation: str = 'relu') -> ASPPDecoder:
  """Builds a decoder from its DecoderOptions and LowLevelOptions messages.

  Without a feature_key the decoder reads the last of the backbone's features. As in
  DeepLab2, that feature's stride sets the window of image pooling, whichever feature is read.
  """
  feature = decoder.feature_key
  if feature in ('', 'feature_semantic'):
    feature = features[-1].name
  return ASPPDecoder(
      features,
      DecoderOptions(
          feature=feature, channels=decoder.decoder_channels,
          aspp_channels=decoder.aspp_channels, atrous_rates=tuple(decoder.atrous_rates),
          convolution=decoder.decoder_conv_type,
          only_projection=decoder.aspp_use_only_1x1_proj_conv,
          pool_size=pool_size(crop_size, features[-1].stride),
          low_level=tuple((low.feature_key, low.channels_project) for low in low_level),
          skips_aspp=decoder.skip_aspp, aspp_convolution=decoder.aspp_conv_type,
          activation=activation), norm)
