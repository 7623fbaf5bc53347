"""FaPN as pixel decoder: a feature pyramid that selects and aligns features.

Huang et al., "FaPN: Feature-aligned Pyramid Network for Dense Image Prediction" (ICCV 2021),
section 3. Mask2Former's paper (tables 3 and 4e) states no details. As in FaPN's public code, the
coarsest level has no selection, and levels are added before their 3x3 convolutions. Norms and
activations of the convolutions, and the mask features, are those of FPNDecoder.
"""

import functools
from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.deformable_convolution import DeformableConvolution
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.recomputation import recompute as recompute_activations
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.pixel_decoders import _convolutions
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder, PixelDecoderOutput


class FeatureSelection(keras.layers.Layer):
  """Amplifies channels by a gate, and projects them (section 3.2, equation 5).

  Attributes:
    gate: Projection from the mean of the map to the logits of the gates, without a bias.
    projection: 1x1 convolution.
  """

  def __init__(self, in_channels: int, channels: int):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels of the output.
    """
    super().__init__()
    self.gate = Projection(in_channels, in_channels, use_bias=False,
                           kernel_initializer=initializers.caffe2_xavier())
    self.projection = _convolutions.normalized(in_channels, channels)

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [batch, h, w, in_channels] to [batch, h, w, channels]."""
    means = tf.cast(tf.reduce_mean(tf.cast(x, tf.float32), [1, 2], keepdims=True), x.dtype)
    return self.projection(x + x * tf.sigmoid(self.gate(means)))


class FeatureAlignment(keras.layers.Layer):
  """Adds a coarser feature to a finer one, to which it is aligned (section 3.1, equation 4).

  Attributes:
    guide: 1x1 convolution of both features, from which the offsets are predicted.
    align: DeformableConvolution of the upsampled feature.
  """

  def __init__(self, channels: int):
    """Initializes the layer.

    Args:
      channels: Channels of both features and of the output.
    """
    super().__init__()
    self.guide = _convolutions.normalized(2 * channels, channels)
    self.align = DeformableConvolution(channels, channels, guide_channels=channels)

  def call(self, finer: tf.Tensor, coarser: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the features, of the shape of the finer one, [batch, h, w, channels]."""
    upsampled = resize_bilinear(coarser, dimensions(finer)[1:3], 'half_pixel')
    guide = self.guide(tf.concat([finer, 2 * upsampled], -1))
    return finer + tf.nn.relu(self.align(upsampled, guide))


class FaPNDecoder(PixelDecoder):
  """Feature-aligned pyramid network. It computes in the precision of the policy, except for the
  samples of deformable convolutions, which are float32.

  Attributes besides those of PixelDecoder:
    coarsest_projection: 1x1 convolution of the backbone's feature of stride 32.
    selections: FeatureSelections of the backbone's features of stride 16, 8 and 4.
    alignments: FeatureAlignments at stride 16, 8 and 4.
    outputs: 3x3 convolutions of the levels of stride 32, 16, 8 and 4.
    mask_projection: 3x3 convolution to the mask features.
  """

  def __init__(self, features: Sequence[Feature], *, channels: int = 256, mask_channels: int = 256,
               recompute: bool = False):
    """Initializes the layer.

    Args:
      features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
      channels: Channels of all levels, a multiple of 32, the groups of the norms.
      mask_channels: Channels of the mask features.
      recompute: Whether the activations of alignments are not stored in training but recomputed in
        the backward pass.

    Raises:
      ConfigError: The strides of the features are others, or the channels are not divisible.
    """
    super().__init__(features, channels, mask_channels)
    self._recompute = recompute
    *finer, coarsest = features
    self.coarsest_projection = _convolutions.normalized(coarsest.channels, channels)
    self.selections = [FeatureSelection(feature.channels, channels) for feature in reversed(finer)]
    self.alignments = [FeatureAlignment(channels) for _ in finer]
    self.outputs = [_convolutions.normalized(channels, channels, 3, 'relu') for _ in features]
    self.mask_projection = _convolutions.to_mask_features(channels, mask_channels)

  def call(self, features: dict[str, tf.Tensor], training: bool = False) -> PixelDecoderOutput:
    """Maps the features of a backbone, by name, to levels and mask features.

    Args:
      features: [batch, h, w, channels] for each feature.
      training: Whether alignments are recomputed, if the decoder was built to do so.

    Returns:
      Levels and mask features.
    """
    *finer, coarsest = [features[name] for name in self.feature_names]
    sums = [self.coarsest_projection(coarsest)]
    for select, align, feature in zip(self.selections, self.alignments, reversed(finer)):
      if training and self._recompute:
        align = functools.partial(recompute_activations, align)
      sums.append(align(select(feature), sums[-1]))
    levels = [output(x) for output, x in zip(self.outputs, sums)]
    return PixelDecoderOutput(tuple(levels[:3]), self.mask_projection(levels[-1]), coarsest)
