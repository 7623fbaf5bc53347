"""MaX-DeepLab's output heads: classes and masks of the queries (section 3.3, equation 15)."""

import math

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.heads.convolution_head import ConvolutionHead
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.shapes import dimensions

# Probability of "no object" in a new model.
_INITIAL_NO_OBJECT = 0.9


class MaskHead(keras.layers.Layer):
  """Turns query features and pixel features into classes and masks.

  Attributes:
    class_feature, mask_feature: First layers of the paper's two 2FC, on the queries.
    class_projection, mask_projection: Second layers, to the class logits and to the paper's f.
    pixel_head: The paper's 2Conv, to the pixel features g.
    norm_pixels, norm_masks: Batch norms of g and of the mask logits; the first is None once it is
      folded.
  """

  def __init__(self, *, memory_channels: int, feature_channels: int, pixel_head: ConvolutionHead,
               pixel_channels: int, num_classes: int, norm: NormFactory,
               activation: str = 'relu'):
    """Initializes the layer.

    Args:
      memory_channels: Channels of the queries.
      feature_channels: Channels between the two layers of the query heads.
      pixel_head: Head that predicts the pixel features.
      pixel_channels: Channels of the pixel features, the paper's D.
      num_classes: Number of classes without "no object".
      norm: Factory of the batch norms.
      activation: Name of the activation of the query heads; the pixel head has its own.
    """
    super().__init__()
    self.class_feature = Projection(memory_channels, feature_channels, norm, activation)
    self.mask_feature = Projection(memory_channels, feature_channels, norm, activation)
    self.class_projection = Projection(
        feature_channels, num_classes + 1,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01))
    self.mask_projection = Projection(feature_channels, pixel_channels, norm)
    self.pixel_head = pixel_head
    self.norm_pixels = norm(pixel_channels)
    self.norm_masks = norm(1, gamma_initializer=keras.initializers.Constant(0.1))
    # A constant and not a variable, as in DeepLab2: "no object" starts with a probability of 0.9.
    prior = np.zeros(num_classes + 1, np.float32)
    prior[-1] = math.log(num_classes * _INITIAL_NO_OBJECT / (1 - _INITIAL_NO_OBJECT))
    self.class_prior = prior

  def fold_norms(self) -> None:
    """Folds the norm of the pixel features into the convolution before; see folding.fold_norms."""
    if self.norm_pixels is not None:
      self.pixel_head.last.absorb(*self.norm_pixels.inference_affine())
      self.norm_pixels = None

  def call(self, memory: tf.Tensor, pixels: tf.Tensor,
           training: bool = False) -> dict[str, tf.Tensor]:
    """Predicts classes and masks.

    Args:
      memory: [batch, queries, memory_channels].
      pixels: [batch, height, width, channels], the decoder's output, activated.
      training: Whether batch norms use the batch's statistics.

    Returns:
      float32 `class_logits` [batch, queries, num_classes + 1], `mask_logits` [batch, height,
      width, queries] and `pixel_features` [batch, height, width, pixel_channels] of unit norm.
    """
    class_feature = self.class_feature(memory, training=training)
    class_logits = self.class_projection(class_feature, training=training)
    class_logits = tf.cast(class_logits, tf.float32) + self.class_prior
    mask_feature = self.mask_feature(memory, training=training)
    kernels = self.mask_projection(mask_feature, training=training)

    pixel_features = self.pixel_head(pixels, training=training)
    if self.norm_pixels is not None:
      pixel_features = self.norm_pixels(pixel_features, training=training)
    pixel_features = tf.math.l2_normalize(tf.cast(pixel_features, tf.float32), axis=-1)
    batch, height, width, channels = dimensions(pixel_features)
    flat = tf.reshape(pixel_features, [batch, height * width, channels])
    logits = tf.matmul(flat, tf.cast(kernels, tf.float32), transpose_b=True)
    logits = tf.reshape(logits, [batch, height, width, logits.shape[-1]])
    return {
        'class_logits': class_logits,
        'mask_logits': self._normalize(logits, training),
        'pixel_features': pixel_features,
    }

  def _normalize(self, logits, training):
    """Normalizes the mask logits, all with one scale and offset."""
    mean = variance = None
    if training:
      mean, variance = tf.nn.moments(logits, [0, 1, 2, 3])
      mean, variance = tf.reshape(mean, [1]), tf.reshape(variance, [1])
    scale, offset = self.norm_masks.affine(mean, variance, training)
    return logits * scale + offset
