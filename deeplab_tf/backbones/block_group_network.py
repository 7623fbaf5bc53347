"""The network behind DeepLab2's residual, axial and dual-path backbones: a stem and four stages.

Variants differ in numbers only; each backbone module lists its own in VARIANTS.
"""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathOptions
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.stem import InceptionStem


class NetworkOptions(NamedTuple):
  """Numbers that make a variant.

  Attributes:
    num_blocks: Blocks of stages 2 to 5.
    stem_width: Factor on the stem's channels.
    width: Factor on the channels of all stages.
    groups: What all stages share.
  """
  num_blocks: tuple[int, ...] = (3, 4, 6, 3)
  stem_width: float = 1.0
  width: float = 1.0
  groups: BlockGroupOptions = BlockGroupOptions()


class BlockGroupNetwork(tf.keras.layers.Layer):
  """A stem of stride 2 and stages 2 to 5, of stride 2 each until the output stride.

  Attributes:
    stem: The stem; its output is stage 1.
    stages: Four BlockGroups.
    channels: dict from a feature's name ('res1' to 'res5') to its channels.
    strides: dict from a feature's name to its stride.
  """

  def __init__(self, options: NetworkOptions, norm: NormFactory,
               dual_path: Optional[DualPathOptions] = None, memory_channels: int = 0):
    """Makes the variables.

    Args:
      options: The variant.
      norm: Makes the batch norms.
      dual_path: Sizes of the dual-path layers at stride 16 (they grow with the stride).
      memory_channels: Channels of the memory; 0 without dual-path layers.
    """
    super().__init__()
    self.options = options
    self.stem = InceptionStem(options.stem_width, norm)
    self.channels = {'res1': self.stem.channels}
    self.strides = {'res1': 2}
    self.stages = []
    channels, stride = self.stem.channels, 2
    for level, blocks in zip(range(2, 6), options.num_blocks):
      group = BlockGroup(channels, round(2**(level - 1) * 32 * options.width), blocks, 2, stride,
                         options.groups, norm, dual_path, memory_channels)
      self.stages.append(group)
      channels, stride = group.channels, stride * 2
      self.channels[f'res{level}'] = channels
      self.strides[f'res{level}'] = min(stride, options.groups.output_stride)

  def call(self, images: tf.Tensor, memory: Optional[tf.Tensor] = None,
           training: bool = False) -> tuple[dict[str, tf.Tensor], Optional[tf.Tensor]]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalised.
      memory: [batch, queries, memory channels], or None without dual-path layers.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      Features by name: 'stage1' to 'stage5' before, 'res1' to 'res5' after the activation,
      [batch, h, w, channels] each; and the memory.
    """
    x = self.stem(images, training=training)
    features = {'stage1': x, 'res1': tf.nn.relu(x)}
    for level, stage in zip(range(2, 6), self.stages):
      x, memory = stage(x, memory, training=training)
      features[f'stage{level}'] = x
      features[f'res{level}'] = tf.nn.relu(x)
    return features, memory
