"""BiFPN as pixel decoder: layers that fuse features of all resolutions in both directions.

Tan et al., "EfficientDet: Scalable and Efficient Object Detection" (CVPR 2020), section 3.
Mask2Former's paper (table 4e) states no details. Nine layers over the backbone's four strides, as
wide as the other pixel decoders, have the multiply-adds that it prints. EfficientDet's batch norms
are group norms here, as in the other pixel decoders, since a device has few images.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import DepthwiseConvolution
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import scaled
from deeplab_tf.layers.recomputation import recompute as recompute_activations
from deeplab_tf.layers.resizing import upsample_nearest
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.pixel_decoders import _convolutions
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder, PixelDecoderOutput

_LEVELS = 4
# Keeps the divisor of the fusion positive.
_EPSILON = 1e-4


class FusionNode(keras.layers.Layer):
  """Weighted sum of features, swish, depthwise separable convolution, group norm.

  The weights are those of fast normalized fusion (section 3.3): relu(w_i) / (epsilon + sum of all
  relu(w_j)).

  Attributes:
    fusion_weights: float32 [inputs], w.
    depthwise: 3x3 convolution of each channel.
    pointwise: 1x1 convolution.
  """

  def __init__(self, channels: int, num_inputs: int):
    """Initializes the layer.

    Args:
      channels: Channels of inputs and output.
      num_inputs: Number of inputs.
    """
    super().__init__()
    self.fusion_weights = self.add_weight('fusion_weights', (num_inputs,), tf.float32,
                                          initializer='ones', experimental_autocast=False)
    self.depthwise = DepthwiseConvolution(channels, 3, norm=None)
    self.pointwise = _convolutions.normalized(channels, channels)

  def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """Maps `inputs` tensors [batch, h, w, channels] to one of the same shape."""
    weights = tf.nn.relu(self.fusion_weights)
    weights = tf.unstack(weights / (tf.reduce_sum(weights) + _EPSILON))
    fused = tf.add_n([scaled(x, weight) for x, weight in zip(inputs, weights)])
    return self.pointwise(self.depthwise(tf.nn.silu(fused)))


class BiFPNLayer(keras.layers.Layer):
  """One pass from the coarsest level to the finest and back (figure 2d).

  Attributes:
    top_down: FusionNodes of strides 16, 8 and 4, each of the level and the coarser node.
    bottom_up: FusionNodes of strides 8, 16 and 32, each of the level, the node of the same stride
      on the way down (which stride 32 does not have), and the finer node.
  """

  def __init__(self, channels: int):
    """Initializes the layer.

    Args:
      channels: Channels of all levels.
    """
    super().__init__()
    self.top_down = [FusionNode(channels, 2) for _ in range(_LEVELS - 1)]
    self.bottom_up = [FusionNode(channels, 3 if level < _LEVELS - 1 else 2)
                      for level in range(1, _LEVELS)]

  def call(self, levels: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Maps levels [batch, h, w, channels], the finest first, to levels of the same shapes."""
    *finer, current = levels
    nodes = []
    for node, level in zip(self.top_down, reversed(finer)):
      current = node([level, upsample_nearest(current, dimensions(level)[1:3])])
      nodes.insert(0, [current])
    outputs = [current]
    for node, level, above in zip(self.bottom_up, levels[1:], [*nodes[1:], []]):
      outputs.append(node([level, *above, halve(outputs[-1])]))
    return tuple(outputs)


class BiFPNDecoder(PixelDecoder):
  """Pixel decoder of BiFPN layers. It computes in the precision of the policy.

  Attributes besides those of PixelDecoder:
    input_projections: 1x1 convolutions of the backbone's features, the first for stride 4.
    fusion_layers: BiFPNLayers.
    mask_projection: 3x3 convolution to the mask features.
  """

  def __init__(self, features: Sequence[Feature], *, channels: int = 256, mask_channels: int = 256,
               num_layers: int = 9, recompute: bool = False):
    """Initializes the layer.

    Args:
      features: Features of the backbone, of strides 4, 8, 16 and 32, in this order.
      channels: Channels of all levels, a multiple of 32, the groups of the norms.
      mask_channels: Channels of the mask features.
      num_layers: Number of layers.
      recompute: Whether the activations of a layer are not stored in training but recomputed in the
        backward pass.

    Raises:
      ConfigError: The strides of the features are others, or the channels are not divisible.
    """
    super().__init__(features, channels, mask_channels)
    self._recompute = recompute
    self.input_projections = [_convolutions.normalized(feature.channels, channels)
                              for feature in features]
    self.fusion_layers = [BiFPNLayer(channels) for _ in range(num_layers)]
    self.mask_projection = _convolutions.to_mask_features(channels, mask_channels)

  def call(self, features: dict[str, tf.Tensor], training: bool = False) -> PixelDecoderOutput:
    """Maps the features of a backbone, by name, to levels and mask features.

    Args:
      features: [batch, h, w, channels] for each feature.
      training: Whether layers are recomputed, if the decoder was built to do so.

    Returns:
      Levels and mask features.
    """
    inputs = [features[name] for name in self.feature_names]
    levels = tuple(project(x) for project, x in zip(self.input_projections, inputs))
    for layer in self.fusion_layers:
      recomputed = training and self._recompute
      levels = recompute_activations(layer, levels) if recomputed else layer(levels)
    return PixelDecoderOutput(levels[:0:-1], self.mask_projection(levels[0]), inputs[-1])


def halve(x: tf.Tensor) -> tf.Tensor:
  """Returns the 3x3 max pooling of stride 2 of a map, centered at every other pixel.

  Args:
    x: [batch, height, width, channels].

  Returns:
    [batch, ceil(height / 2), ceil(width / 2), channels].
  """
  around = [[0, 0], [1, 1], [1, 1], [0, 0]]
  return tf.nn.max_pool2d(tf.pad(x, around, constant_values=x.dtype.min), 3, 2, 'VALID')
