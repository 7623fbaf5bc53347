"""Mask pooling: queries read the mean of the features inside their masks."""

from typing import Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Projection


class MaskPooling(keras.layers.Layer):
  """Reads the mean of the features inside a mask, in place of attention.

  K-Net (Zhang et al., NeurIPS 2021) replaces cross-attention by this, as Mask2Former's table 4c
  describes it. It is masked attention with equal weights: there are no queries and keys to compare,
  and the heads do not differ. For a query with the set M of pixels

    output = W_o mean_{p in M}(W_v x_p)

  Since W_v is linear, it is applied to the mean here, which takes fewer operations.

  Initial weights are those of MultiHeadAttention.

  Attributes:
    value, output_projection: Projections of the features and of their mean.
  """

  def __init__(self, channels: int):
    """Initializes the layer.

    Args:
      channels: Channels of the features and of the output.
    """
    super().__init__()
    self.value = Projection(channels, channels, kernel_initializer=initializers.joint_xavier(3))
    self.output_projection = Projection(channels, channels, kernel_initializer='glorot_uniform')

  def call(self, features: tf.Tensor, num_queries: int,
           blocked: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Averages the features of the pixels that are not blocked.

    Args:
      features: [batch, pixels, channels].
      num_queries: Number of queries.
      blocked: bool [batch, queries, pixels], the pixels that are outside of a query's mask, at most
        all but one; None if queries read all pixels.

    Returns:
      [batch, queries, channels].
    """
    if blocked is None:
      mean = tf.reduce_mean(tf.cast(features, tf.float32), axis=1, keepdims=True)
      mean = tf.tile(mean, [1, num_queries, 1])
    else:
      inside = tf.cast(~blocked, tf.float32)
      weights = inside / tf.reduce_sum(inside, axis=-1, keepdims=True)
      mean = tf.matmul(tf.cast(weights, features.dtype), features)
    return self.output_projection(self.value(tf.cast(mean, features.dtype)))
