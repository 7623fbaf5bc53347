"""Mask2Former's pixel decoder: multi-scale deformable attention, then an FPN step to stride 4.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022),
section 3.2.2; the encoder is that of Zhu et al., "Deformable DETR" (ICLR 2021).
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.deformable_attention import DeformableAttention
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.feed_forward import feed_forward_projections
from deeplab_tf.layers.normalization import GroupNorm, LayerNorm
from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.layers.precision import policy
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.pixel_decoders import _convolutions
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder, PixelDecoderOutput

_LEVELS = 3

Size = tuple[Dimension, Dimension]


class DeformableEncoderLayer(keras.layers.Layer):
  """Deformable attention among the pixels of all levels and a feed-forward network.

  Each has a residual connection, followed by a layer norm. The layer computes in float32.

  Attributes:
    attention: DeformableAttention.
    fc1, fc2: The two layers of the feed-forward network.
    norm1, norm2: Layer norms after the attention and after the feed-forward network.
  """

  def __init__(self, channels: int, *, num_heads: int, num_points: int,
               feed_forward_channels: int):
    """Initializes the layer.

    Args:
      channels: Channels of the pixels.
      num_heads: Number of heads.
      num_points: Number of sampling points for each query, head and level.
      feed_forward_channels: Hidden channels of the feed-forward network.
    """
    super().__init__(dtype='float32')
    with policy('float32'):
      self.attention = DeformableAttention(channels, num_heads=num_heads, num_levels=_LEVELS,
                                           num_points=num_points)
      self.norm1 = LayerNorm(channels)
      self.fc1, self.fc2 = feed_forward_projections(channels, feed_forward_channels)
      self.norm2 = LayerNorm(channels)

  def call(self, pixels: tf.Tensor, positions: tf.Tensor, references: tf.Tensor,
           sizes: Sequence[Size]) -> tf.Tensor:
    """Updates the pixels of all levels.

    Args:
      pixels: [batch, pixels, channels], the levels one after another, each row by row.
      positions: float32 [pixels, channels], position embedding.
      references: float32 [pixels, 2], see `pixel_centers`.
      sizes: Height and width of each level.

    Returns:
      float32 [batch, pixels, channels].
    """
    read = self.attention(pixels + positions, references, pixels, sizes)
    pixels = self.norm1(pixels + read)
    return self.norm2(pixels + self.fc2(self.fc1(pixels)))


class DeformablePixelDecoder(PixelDecoder):
  """Pixel decoder with multi-scale deformable attention.

  As in the released code, the whole decoder computes in float32 also in mixed precision.

  Attributes besides those of PixelDecoder:
    input_projections: 1x1 convolution with group norm for each level, the first for stride 32.
    level_embedding: float32 [3, channels], added to the position embedding of each level.
    encoder_layers: DeformableEncoderLayers.
    lateral, fuse: Convolutions of the FPN step, 1x1 for stride 4 and 3x3 for the sum.
    mask_projection: 1x1 convolution to the mask features.
  """

  def __init__(self, features: Sequence[Feature], *, channels: int = 256,
               mask_channels: int = 256, num_layers: int = 6, num_heads: int = 8,
               num_points: int = 4, feed_forward_channels: int = 1024, recompute: bool = False):
    """Initializes the layer.

    Args:
      features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
      channels: Channels of all levels, a multiple of 32 (the groups of the norms) and of
        num_heads.
      mask_channels: Channels of the mask features.
      num_layers: Number of encoder layers.
      num_heads: Number of heads of the attention.
      num_points: Number of sampling points for each query, head and level.
      feed_forward_channels: Hidden channels of the encoder's feed-forward networks.
      recompute: Whether the activations of an encoder layer are not stored in training but
        recomputed in the backward pass.

    Raises:
      ConfigError: The strides of the features are others, or the channels are not divisible.
    """
    # Without autocast, since `call` returns the precision of its inputs.
    super().__init__(features, channels, mask_channels, dtype='float32', autocast=False)
    self._recompute = recompute
    with policy('float32'):
      self.input_projections = [_InputProjection(feature.channels, channels)
                                for feature in reversed(features[1:])]
      self.level_embedding = self.add_weight('level_embedding', (_LEVELS, channels),
                                             initializer=keras.initializers.RandomNormal(stddev=1.0))
      self.encoder_layers = [
          DeformableEncoderLayer(channels, num_heads=num_heads, num_points=num_points,
                                 feed_forward_channels=feed_forward_channels)
          for _ in range(num_layers)]
      self.lateral = _convolutions.normalized(features[0].channels, channels)
      self.fuse = _convolutions.normalized(channels, channels, 3, 'relu')
      self.mask_projection = Convolution(channels, mask_channels,
                                         kernel_initializer=initializers.caffe2_xavier())

  def call(self, features: dict[str, tf.Tensor], training: bool = False) -> PixelDecoderOutput:
    """Maps the features of a backbone, by name, to levels and mask features.

    Args:
      features: [batch, h, w, channels] for each feature, in any precision.
      training: Whether encoder layers are recomputed, if the decoder was built to do so.

    Returns:
      Levels and mask features, in the precision of the inputs.
    """
    dtype = features[self.feature_names[0]].dtype
    finest, *others = [tf.cast(features[name], tf.float32) for name in self.feature_names]
    levels = self._encode([projection(x) for projection, x in
                           zip(self.input_projections, reversed(others))], training)
    lateral = self.lateral(finest)
    upsampled = resize_bilinear(levels[-1], dimensions(lateral)[1:3], 'half_pixel')
    mask_features = self.mask_projection(self.fuse(lateral + upsampled))
    return PixelDecoderOutput(tuple(tf.cast(level, dtype) for level in levels),
                              tf.cast(mask_features, dtype), features[self.feature_names[-1]])

  def _encode(self, levels, training):
    """Passes the levels through the encoder layers; all have the same channels."""
    sizes = [tuple(dimensions(level)[1:3]) for level in levels]
    counts = [height * width for height, width in sizes]
    batch = dimensions(levels[0])[0]
    positions = tf.concat([
        tf.reshape(sine_position_embedding(*size, self.channels), [count, self.channels])
        + self.level_embedding[i] for i, (size, count) in enumerate(zip(sizes, counts))], 0)
    references = tf.concat([pixel_centers(*size) for size in sizes], 0)
    pixels = tf.concat([tf.reshape(level, [batch, count, self.channels])
                        for level, count in zip(levels, counts)], 1)
    for layer in self.encoder_layers:
      def run(pixels, positions, layer=layer):
        return layer(pixels, positions, references, sizes)
      recomputed = training and self._recompute
      pixels = recompute(run, pixels, positions) if recomputed else run(pixels, positions)
    return [tf.reshape(part, [batch, *size, self.channels])
            for part, size in zip(tf.split(pixels, counts, axis=1), sizes)]


class _InputProjection(Convolution):
  """1x1 convolution with a bias and a group norm after it."""

  def __init__(self, in_channels, channels):
    super().__init__(in_channels, channels, norm=GroupNorm, kernel_initializer='glorot_uniform')
    self.bias = self.add_weight('bias', (channels,), initializer='zeros')


def pixel_centers(height: Dimension, width: Dimension) -> tf.Tensor:
  """Returns the centers of a map's pixels, row by row, as parts of the width and the height.

  Returns:
    float32 [height * width, 2], (x, y) in (0, 1).
  """
  x, y = (tf.cast(tf.range(n), tf.float32) + 0.5 for n in (width, height))
  x, y = tf.meshgrid(x / tf.cast(width, tf.float32), y / tf.cast(height, tf.float32))
  return tf.reshape(tf.stack([x, y], -1), [height * width, 2])
