"""A stage of a network: residual blocks, each optionally followed by a query layer."""

import functools
from typing import Any, Callable, NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.residual_block import BasicBlock, BlockOptions, BottleneckBlock
from deeplab_tf.layers.stochastic_depth import keep_probability

# Factory of query layers, by which the queries of a mask transformer and the pixels of a network
# exchange information:
#   factory(stride, channels, output_stride, keep_prob) -> layer, or None for no layer;
#   layer(pixels, queries, training=...) -> (pixels, queries).
# `stride` is that of the stage's input and `output_stride` that of its output, both without
# dilation; the width of the layer may depend on `stride`. `channels` is the number of channels of
# the pixels, which the layer takes and returns before the activation. `keep_prob` is for stochastic
# depth. The queries are a tensor or a structure of float tensors, e.g. a NamedTuple, which the
# network passes on from layer to layer. DualPathLayers of dual_path_attention.py is such a factory.
QueryLayers = Callable[[int, int, int, float], Optional[keras.layers.Layer]]


class BlockGroupOptions(NamedTuple):
  """Options that all stages of a network share.

  Attributes:
    kind: Kind of the convolutional blocks: 'resnet' has bottlenecks of f, f and 4f channels for a
      width f; 'wide_resnet' has basic blocks of 4f and 4f, and bottlenecks of f, 2f and 4f where
      the output has stride 32.
    output_stride: Stride beyond which blocks dilate instead of striding.
    axial_beyond_stride: Input stride from which blocks are axial; 0: none.
    attention_bottleneck_expansion: Factor on the channels between the first convolution of an
      axial block and its attention.
    drop_path_keep_prob: See stochastic_depth.keep_probability.
    drop_path_schedule: See stochastic_depth.keep_probability.
    drop_path_beyond_stride: See stochastic_depth.keep_probability.
    positions_image_size: Height and width of the images whose features the tables of relative
      positions cover, so that tables are smaller at larger strides; 0: all tables have one size.
    sac_beyond_stride: Output stride (in the network without dilation) from which bottlenecks have
      switchable atrous convolutions; -1: none.
    recomputed: Parts whose inner activations are recomputed in the backward pass: 'nothing';
      'axial_blocks'; 'blocks', all blocks and query layers, each on its own; or 'block_groups',
      each stage as a whole.
    block: Options of all blocks; those that depend on a block's place are set for each block.
  """
  kind: str = 'resnet'
  output_stride: int = 16
  axial_beyond_stride: int = 16
  attention_bottleneck_expansion: int = 2
  drop_path_keep_prob: float = 1.0
  drop_path_schedule: str = 'constant'
  drop_path_beyond_stride: int = 16
  positions_image_size: int = 0
  sac_beyond_stride: int = -1
  recomputed: str = 'nothing'
  block: BlockOptions = BlockOptions()

  def with_blocks(self, **changes) -> 'BlockGroupOptions':
    """Returns the options with changed fields of BlockOptions for all blocks."""
    return self._replace(block=self.block._replace(**changes))


class BlockGroup(keras.layers.Layer):
  """The blocks and query layers of one stage.

  Attributes:
    channels: Channels of the output.
    blocks: The residual blocks.
    transformers: For each block the query layer after it, or None.
  """

  def __init__(self, *, in_channels: int, filters: int, num_blocks: int, stride: int,
               input_stride: int, options: BlockGroupOptions, norm: NormFactory,
               query_layer: Optional[Callable[[int, int, float],
                                              Optional[keras.layers.Layer]]] = None,
               takes_images: bool = False):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      filters: Width of the stage; a block has 4 * filters channels.
      num_blocks: Number of blocks.
      stride: Stride of the stage in the network without dilation.
      input_stride: Stride of the stage's input in the network without dilation.
      options: Options that all stages share.
      norm: Factory of the batch norms.
      query_layer: QueryLayers with its first argument, the stride, bound; None: no query layers.
      takes_images: Whether the input is images, which are not activated.
    """
    super().__init__()
    self.channels = 4 * filters
    self.recomputed = options.recomputed
    self.blocks, self.transformers = [], []
    output = input_stride * stride
    for index in range(num_blocks):
      # Strides are those of the network without dilation. As in DeepLab2, the stride of a block's
      # input decides its kind, so the first block may differ from the others of its stage.
      original = input_stride if index == 0 else output
      block = options.block._replace(
          stride=stride if index == 0 and original < options.output_stride else 1,
          rate=max(1, original // options.output_stride),
          last_rate=max(1, output // options.output_stride),
          keep_prob=keep_probability(options.drop_path_keep_prob, options.drop_path_schedule,
                                     original, options.drop_path_beyond_stride),
          has_attention=0 < options.axial_beyond_stride <= original,
          switchable_atrous=0 < options.sac_beyond_stride <= output,
          activates_input=index > 0 or not takes_images)
      self.blocks.append(_block(in_channels if index == 0 else self.channels, filters, options,
                                block, norm, original, output))
      self.transformers.append(
          query_layer and query_layer(self.channels, output, block.keep_prob))

  def call(self, pixels: tf.Tensor, queries: Any = None,
           training: bool = False) -> tuple[tf.Tensor, Any]:
    """Runs the stage.

    Args:
      pixels: [batch, height, width, in_channels], before the activation.
      queries: State of the queries, a tensor or a structure of tensors that only the query
        layers interpret; None without query layers.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      Pixels [batch, h, w, channels] before the activation, and the updated queries.
    """
    if training and self.recomputed == 'block_groups':
      return recompute(lambda *inputs: self._run(*inputs, True, False), pixels, queries)
    return self._run(pixels, queries, training, training)

  def _run(self, pixels, queries, training, recomputes):
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
          pixels, queries = recompute(run, pixels, queries)
        else:
          pixels, queries = run(pixels, queries)
    return pixels, queries


def _block(in_channels, filters, options, block, norm, original, output):
  """Returns the residual block of input stride `original` in a stage of output stride `output`."""
  if block.has_attention:
    channels = (filters * options.attention_bottleneck_expansion, filters, 4 * filters)
    if options.positions_image_size:
      reach = -(-options.positions_image_size // original) - 1
      block = block._replace(attention=block.attention._replace(max_distance=reach))
    return BottleneckBlock(in_channels, channels, norm, block)
  if options.kind == 'resnet':
    return BottleneckBlock(in_channels, (filters, filters, 4 * filters), norm, block)
  if output < 32:
    return BasicBlock(in_channels, (4 * filters, 4 * filters), norm, block)
  return BottleneckBlock(in_channels, (filters, 2 * filters, 4 * filters), norm, block)
