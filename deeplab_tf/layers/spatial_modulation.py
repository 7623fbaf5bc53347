"""Spatial modulation of attention: queries attend near centers that they predict (SMCA).

Gao et al., "Fast Convergence of DETR with Spatially Modulated Co-Attention", ICCV 2021.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.shapes import Dimension

# With a scale of 1, the Gaussian has a standard deviation of sqrt(_BANDWIDTH / 2), a quarter of
# the map.
_BANDWIDTH = 1 / 8
# Keeps the Gaussian finite where a scale is 0: the standard deviation is at least 2 % of the map.
_SMALLEST = 1e-3


class SpatialModulation(keras.layers.Layer):
  """Predicts for each query and head a Gaussian over the positions of the keys.

  For a query z, the sum of its features and its position embedding, and head i

    c = sigmoid(W_2 relu(W_1 z + b_1) + b_2)               center (y, x), shared by the heads
    [d_i, s_i] = W_i z + b_i                               offsets of the center, and scales
    log G_i(y, x) = -(y - c_y - d_iy)^2 / (beta s_iy^2 + epsilon)
                    -(x - c_x - d_ix)^2 / (beta s_ix^2 + epsilon)

  and the head attends with softmax(Q K^T / sqrt(d) + log G_i). This is the paper's multi-head form
  with a scale for each direction. What is chosen here, and not taken from the paper's code:

  - Positions are those of pixel centers in parts of the map, (row + 1/2) / height and (column +
    1/2) / width, in [0, 1]. Offsets and scales are in these units, so that maps of any resolution,
    also several at once, have the same Gaussian. In the paper they are pixels of the one map.
  - beta, a constant in the paper, is 1/8, and scales start at 1: at first the standard deviation is
    a quarter of the map. The kernels of offsets and scales start at zero, so that this holds for
    all queries, and all heads start at the center.
  - epsilon, 0.001, is not in the paper. Scales may be negative or zero.
  - Each decoder layer predicts all of them anew, from its own queries.

  Attributes:
    hidden, center: The two layers from a query to the center, before the sigmoid.
    offsets_and_scales: From a query to offset (y, x) and scale (y, x) of each head.
  """

  def __init__(self, channels: int, num_heads: int):
    """Initializes the layer.

    Args:
      channels: Channels of the queries.
      num_heads: Number of attention heads.
    """
    super().__init__()
    self.num_heads = num_heads
    self.hidden, self.center = (
        Projection(channels, outputs, activation=activation,
                   kernel_initializer=initializers.torch_linear_kernel(),
                   bias_initializer=initializers.torch_linear_bias(channels))
        for outputs, activation in ((channels, 'relu'), (2, 'none')))
    self.offsets_and_scales = Projection(
        channels, 4 * num_heads, kernel_initializer='zeros',
        bias_initializer=keras.initializers.Constant([0.0, 0.0, 1.0, 1.0] * num_heads))

  def call(self, queries: tf.Tensor,
           sizes: Sequence[tuple[Dimension, Dimension]]) -> tf.Tensor:
    """Returns log G, which is added to the attention logits.

    Args:
      queries: [batch, queries, channels], features plus position embeddings.
      sizes: Height and width of each map whose pixels are the keys, row by row, one map after the
        other.

    Returns:
      float32 [batch, heads, queries, keys], at most 0.
    """
    count = queries.shape[1]
    center = tf.sigmoid(tf.cast(self.center(self.hidden(queries)), tf.float32))
    heads = tf.reshape(tf.cast(self.offsets_and_scales(queries), tf.float32),
                       [-1, count, self.num_heads, 4])
    heads = tf.transpose(heads, [0, 2, 1, 3])
    center = center[:, tf.newaxis] + heads[..., :2]
    widths = _BANDWIDTH * heads[..., 2:]**2 + _SMALLEST

    def along(axis, length):
      positions = (tf.cast(tf.range(length), tf.float32) + 0.5) / tf.cast(length, tf.float32)
      return -(positions - center[..., axis, tf.newaxis])**2 / widths[..., axis, tf.newaxis]

    return tf.concat([
        tf.reshape(along(0, height)[..., :, tf.newaxis] + along(1, width)[..., tf.newaxis, :],
                   [-1, self.num_heads, count, height * width])
        for height, width in sizes], axis=-1)
