"""A stage of a network: residual blocks, each followed by a dual-path layer where asked."""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.residual_block import BottleneckBlock
from deeplab_tf.layers.stochastic_depth import keep_probability


class BlockGroupOptions(NamedTuple):
  """What all stages of a network share.

  Attributes:
    output_stride: Stride beyond which blocks dilate instead of striding.
    axial_beyond_stride: Blocks whose input has this stride or more are axial; 0: none.
    attention_bottleneck_expansion: Factor on the channels between the first convolution of an
      axial block and its attention.
    attention_expansion: Factors on the attention's keys and values.
    transformer_beyond_stride: A dual-path layer follows blocks from this output stride on;
      0: nowhere.
    drop_path_keep_prob: See stochastic_depth.keep_probability.
    drop_path_schedule: As above.
    drop_path_beyond_stride: As above.
    num_heads: Heads of axial attention.
  """
  output_stride: int = 16
  axial_beyond_stride: int = 16
  attention_bottleneck_expansion: int = 2
  attention_expansion: tuple[int, int] = (1, 2)
  transformer_beyond_stride: int = 32
  drop_path_keep_prob: float = 1.0
  drop_path_schedule: str = 'constant'
  drop_path_beyond_stride: int = 16
  num_heads: int = 8


class BlockGroup(tf.keras.layers.Layer):
  """Blocks of one stage and their dual-path layers.

  Attributes:
    channels: Channels of the output.
    blocks: The residual blocks.
    transformers: One DualPathLayer per block, or None.
  """

  def __init__(self, in_channels: int, filters: int, num_blocks: int, stride: int,
               input_stride: int, options: BlockGroupOptions, norm: NormFactory,
               dual_path: Optional[DualPathOptions] = None, memory_channels: int = 0):
    """Makes the variables.

    Args:
      in_channels: Channels of the input.
      filters: Width of the stage; a block has 4 * filters channels.
      num_blocks: Number of blocks.
      stride: Stride of the stage in the network without dilation.
      input_stride: Stride of its input in the network without dilation.
      options: What all stages share.
      norm: Makes the batch norms.
      dual_path: Sizes of the dual-path layers.
      memory_channels: Channels of the memory.
    """
    super().__init__()
    self.channels = 4 * filters
    self.blocks, self.transformers = [], []
    original = input_stride
    for index in range(num_blocks):
      keep = keep_probability(options.drop_path_keep_prob, options.drop_path_schedule, original,
                              options.drop_path_beyond_stride)
      axial = 0 < options.axial_beyond_stride <= original
      first = filters * options.attention_bottleneck_expansion if axial else filters
      self.blocks.append(BottleneckBlock(
          in_channels if index == 0 else self.channels, (first, filters, self.channels), norm,
          stride=stride if index == 0 and original < options.output_stride else 1,
          rate=max(1, original // options.output_stride),
          attention_heads=options.num_heads if axial else None,
          attention_expansion=options.attention_expansion, keep_prob=keep))
      if index == 0:
        original *= stride
      with_transformer = 0 < options.transformer_beyond_stride <= input_stride * stride
      self.transformers.append(
          DualPathLayer(self.channels, memory_channels, dual_path, norm, keep)
          if with_transformer else None)

  def call(self, pixels: tf.Tensor, memory: Optional[tf.Tensor],
           training: bool = False) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
    """Runs the stage.

    Args:
      pixels: [batch, height, width, in_channels], before the activation.
      memory: [batch, queries, memory_channels], or None without dual-path layers.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      Pixels [batch, h, w, channels] before the activation, and the memory.
    """
    for block, transformer in zip(self.blocks, self.transformers):
      pixels = block(pixels, training=training)
      if transformer is not None:
        pixels, memory = transformer(pixels, memory, training=training)
    return pixels, memory
