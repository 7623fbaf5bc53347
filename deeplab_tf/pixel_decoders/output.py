"""What the pixel decoders of mask models take and return."""

from typing import NamedTuple, Sequence

import tensorflow as tf

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


def check_strides(features: Sequence[Feature]) -> None:
  """Checks that the features of a backbone are those that a pixel decoder needs.

  Raises:
    ConfigError: The strides are not 4, 8, 16 and 32, in this order.
  """
  if tuple(feature.stride for feature in features) != _STRIDES:
    strides = ', '.join(f'{f.name} of stride {f.stride}' for f in features)
    raise ConfigError(f'the pixel decoder needs features of strides 4, 8, 16 and 32: the '
                      f'backbone has {strides or "none"}; choose another backbone')
