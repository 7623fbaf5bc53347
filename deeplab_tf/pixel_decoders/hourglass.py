"""MaX-DeepLab's decoder: walks to higher resolution and fuses the backbone's features."""

from typing import Optional, Sequence

import tensorflow as tf

from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathOptions
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.resized_fuse import ResizedFuse
from deeplab_tf.layers.shapes import dimensions


class HourglassDecoder(tf.keras.layers.Layer):
  """The decoder without stacking (L = 0): from the last stride to 8, then to 4.

  Attributes:
    channels: Channels of the output, of stride 4.
    fuses: One ResizedFuse per step.
    stages: One BlockGroup per step.
  """

  def __init__(self, in_channels: int, in_stride: int, skips: Sequence[tuple[int, int]],
               width: float, options: BlockGroupOptions, norm: NormFactory,
               dual_path: Optional[DualPathOptions] = None, memory_channels: int = 0):
    """Makes the variables.

    Args:
      in_channels: Channels of the last feature.
      in_stride: Its stride.
      skips: Stride and channels of the backbone feature fused at each step, in walking order.
      width: Factor on the channels of all steps.
      options: What all stages of the network share.
      norm: Makes the batch norms.
      dual_path: Sizes of the dual-path layers.
      memory_channels: Channels of the memory.
    """
    super().__init__()
    self.fuses, self.stages = [], []
    channels, stride = in_channels, in_stride
    for skip_stride, skip_channels in skips:
      filters = round(skip_stride * 64 * width) // 4
      self.fuses.append(ResizedFuse((channels, skip_channels), (stride, skip_stride), 4 * filters,
                                    skip_stride, norm))
      self.stages.append(BlockGroup(4 * filters, filters, 1, 1, skip_stride, options, norm,
                                    dual_path, memory_channels))
      channels, stride = 4 * filters, skip_stride
    self.channels = channels

  def call(self, pixels: tf.Tensor, skips: Sequence[tf.Tensor], memory: Optional[tf.Tensor],
           training: bool = False) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
    """Decodes.

    Args:
      pixels: [batch, height, width, in_channels], before the activation.
      skips: Backbone features before the activation, in walking order.
      memory: [batch, queries, memory channels], or None.
      training: Whether batch norms use the batch's statistics.

    Returns:
      [batch, height / 4, width / 4, channels], after the activation; and the memory.
    """
    for fuse, stage, skip in zip(self.fuses, self.stages, skips):
      pixels = fuse((pixels, skip), dimensions(skip)[1:3], training=training)
      pixels, memory = stage(pixels, memory, training=training)
    return tf.nn.relu(pixels), memory
