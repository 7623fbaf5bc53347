"""The contract of the pixel decoders of mask models."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.features import Feature
from deeplab_tf.user_errors import ConfigError

_STRIDES = (4, 8, 16, 32)


class PixelDecoderOutput(NamedTuple):
  """Features of a pixel decoder.

  Attributes:
    levels: Features of strides 32, 16 and 8 for the transformer decoder, each
      [batch, h, w, channels].
    mask_features: [batch, h4, w4, mask_channels], features of stride 4 whose products with mask
      embeddings are mask logits.
    coarsest: [batch, h, w, c], the backbone's feature of stride 32, after the transformer encoder
      if the pixel decoder has one; c is its `coarsest_channels`.
  """
  levels: tuple[tf.Tensor, ...]
  mask_features: tf.Tensor
  coarsest: tf.Tensor


class PixelDecoder(keras.layers.Layer):
  """Base class of pixel decoders.

  A call maps the features of a backbone, [batch, h, w, channels] by name, to a PixelDecoderOutput.
  All variables exist after the constructor.

  Attributes:
    channels: Channels of the levels.
    mask_channels: Channels of the mask features.
    coarsest_channels: Channels of the backbone's feature of stride 32, after the transformer
      encoder if there is one.
    feature_names: Names of the backbone's features of strides 4, 8, 16 and 32.
  """

  def __init__(self, features: Sequence[Feature], channels: int, mask_channels: int, **options):
    """Initializes the layer.

    Args:
      features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
      channels: Channels of all levels.
      mask_channels: Channels of the mask features.
      **options: Options of the Keras layer.

    Raises:
      ConfigError: The strides of the features are others.
    """
    super().__init__(**options)
    if tuple(feature.stride for feature in features) != _STRIDES:
      strides = ', '.join(f'{f.name} of stride {f.stride}' for f in features)
      raise ConfigError(f'the pixel decoder needs features of strides 4, 8, 16 and 32: the '
                        f'backbone has {strides or "none"}; choose another backbone')
    self.channels, self.mask_channels = channels, mask_channels
    self.coarsest_channels = features[-1].channels
    self.feature_names = [feature.name for feature in features]
