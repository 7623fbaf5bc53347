"""A stage of a network: residual blocks, each followed by a dual-path layer where asked."""

import functools
from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import AXIAL, AttentionOptions
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.residual_block import BasicBlock, BlockOptions, BottleneckBlock
from deeplab_tf.layers.stochastic_depth import keep_probability


class BlockGroupOptions(NamedTuple):
  """What all stages of a network share.

  Attributes:
    kind: Of the convolutional blocks: 'resnet' has bottlenecks of f, f and 4f channels for a
      width f; 'wide_resnet' basic blocks of 4f and 4f, and bottlenecks of f, 2f and 4f where
      the output has stride 32.
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
    attention: Form of the attention of blocks that are axial by their stride.
    positions_image_size: Height and width of the images whose features the tables of relative
      positions reach over, so that their sizes fall with the stride; 0: the same for all blocks.
    squeeze_and_excite: Whether all blocks gate their branches.
    sac_beyond_stride: Bottlenecks have switchable atrous convolutions from this output stride on
      (in the network without dilation); -1: none.
    recomputed: What keeps no activations inside of it in training: 'nothing'; 'axial_blocks';
      'blocks', which are all blocks and dual-path layers, each on its own; or 'block_groups',
      each stage as a whole.
  """
  kind: str = 'resnet'
  output_stride: int = 16
  axial_beyond_stride: int = 16
  attention_bottleneck_expansion: int = 2
  attention_expansion: tuple[int, int] = (1, 2)
  transformer_beyond_stride: int = 32
  drop_path_keep_prob: float = 1.0
  drop_path_schedule: str = 'constant'
  drop_path_beyond_stride: int = 16
  num_heads: int = 8
  attention: AttentionOptions = AXIAL
  positions_image_size: int = 0
  squeeze_and_excite: bool = False
  sac_beyond_stride: int = -1
  recomputed: str = 'nothing'


class BlockGroup(keras.layers.Layer):
  """Blocks of one stage and their dual-path layers.

  Attributes:
    channels: Channels of the output.
    blocks: The residual blocks.
    transformers: One DualPathLayer per block, or None.
  """

  def __init__(self, in_channels: int, filters: int, num_blocks: int, stride: int,
               input_stride: int, options: BlockGroupOptions, norm: NormFactory,
               dual_path: Optional[DualPathOptions] = None, memory_channels: int = 0,
               takes_images: bool = False):
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
      takes_images: Whether the input is images, which are not activated.
    """
    super().__init__()
    self.channels = 4 * filters
    self.recomputed = options.recomputed
    self.blocks, self.transformers = [], []
    output = input_stride * stride
    with_transformer = 0 < options.transformer_beyond_stride <= output
    for index in range(num_blocks):
      # Strides are those of the network without dilation. As in DeepLab2 the stride of a block's
      # input decides what it is, so the first block differs from the others of its stage.
      original = input_stride if index == 0 else output
      block = BlockOptions(
          stride=stride if index == 0 and original < options.output_stride else 1,
          rate=max(1, original // options.output_stride),
          last_rate=max(1, output // options.output_stride),
          keep_prob=keep_probability(options.drop_path_keep_prob, options.drop_path_schedule,
                                     original, options.drop_path_beyond_stride),
          squeeze_and_excite=options.squeeze_and_excite,
          switchable_atrous=0 < options.sac_beyond_stride <= output,
          activates_input=index > 0 or not takes_images)
      self.blocks.append(_block(in_channels if index == 0 else self.channels, filters, options,
                                block, norm, original, output))
      self.transformers.append(
          DualPathLayer(self.channels, memory_channels, dual_path, norm, block.keep_prob)
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
    if training and self.recomputed == 'block_groups':
      if memory is None:
        return recompute(lambda x: self._run(x, None, True, False)[0], pixels), None
      return recompute(lambda x, m: self._run(x, m, True, False), pixels, memory)
    return self._run(pixels, memory, training, training)

  def _run(self, pixels, memory, training, recomputes):
    for block, transformer in zip(self.blocks, self.transformers):
      run = functools.partial(block, training=training)
      if recomputes and (self.recomputed == 'blocks' or
                         self.recomputed == 'axial_blocks' and block.is_axial):
        pixels = recompute(run, pixels)
      else:
        pixels = run(pixels)
      if transformer is not None:
        run = functools.partial(transformer, training=training)
        if recomputes and self.recomputed == 'blocks':
          pixels, memory = recompute(run, pixels, memory)
        else:
          pixels, memory = run(pixels, memory)
    return pixels, memory


def _block(in_channels, filters, options, block, norm, original, output):
  """The residual block whose input has stride `original`, in a stage of output stride `output`."""
  if 0 < options.axial_beyond_stride <= original:
    channels = (filters * options.attention_bottleneck_expansion, filters, 4 * filters)
    attention = options.attention
    if options.positions_image_size:
      attention = attention._replace(max_distance=-(-options.positions_image_size // original) - 1)
    return BottleneckBlock(in_channels, channels, norm, block, options.num_heads,
                           options.attention_expansion, attention)
  if options.kind == 'resnet':
    return BottleneckBlock(in_channels, (filters, filters, 4 * filters), norm, block)
  if output < 32:
    return BasicBlock(in_channels, (4 * filters, 4 * filters), norm, block)
  return BottleneckBlock(in_channels, (filters, 2 * filters, 4 * filters), norm, block)
