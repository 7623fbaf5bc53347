"""The stacked decoder: walks between resolutions and fuses earlier features at each step.

MaX-DeepLab, section 3.3 and figure A.9. One stack walks from the network's output stride to
stride 4 and back; after all stacks the decoder ends with one more walk to stride 4.
"""

import functools
from typing import Any, Optional, Sequence, Union

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions, QueryLayers
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.resized_fuse import ResizedFuse
from deeplab_tf.layers.shapes import dimensions

LOWEST_STRIDE = 4
# Number of features that a step fuses: the latest ones of its stride.
_SHORTCUTS = 2


def walk(output_stride: int, stacks: int, to_the_end: bool = True) -> list[int]:
  """Returns the strides that a decoder visits, e.g. 8, 4, 8, 16, 8, 4 for one stack.

  Args:
    output_stride: Stride at which the decoder starts.
    stacks: Number of times that it returns there (the paper's L).
    to_the_end: Whether it then goes to stride 4 once more.
  """
  up = [output_stride]
  while up[-1] > LOWEST_STRIDE:
    up.append(up[-1] // 2)
  return (up[1:] + up[-2::-1]) * stacks + (up[1:] if to_the_end else [])


class Hourglass(keras.layers.Layer):
  """A decoder along a walk, or along a part of one.

  Attributes:
    first_step: Number of the first step in the whole walk, from 1.
    outputs: List of Features, the output of each step; the names are 'decoder1' and so on.
    fuses: One ResizedFuse per step.
    stages: One BlockGroup per step.
  """

  def __init__(self, *, strides: Sequence[int], features: Sequence[Feature],
               num_blocks: Union[int, Sequence[int]], width: float, options: BlockGroupOptions,
               norm: NormFactory, query_layers: Optional[QueryLayers] = None, first_step: int = 1,
               stage_strides: Optional[Sequence[int]] = None):
    """Initializes the layer.

    Args:
      strides: Strides of the steps.
      features: Input features before their activation, the oldest first; the walk starts at the
        last.
      num_blocks: Blocks per step, or the blocks of each step.
      width: Factor on the channels of all steps.
      options: Options that all stages of the network share.
      norm: Factory of the batch norms.
      query_layers: Factory of the query layers, see block_group.QueryLayers.
      first_step: Number of the first step in the whole walk, from 1.
      stage_strides: For each step, the stride in the network without dilation, which decides the
        kind and the width of its blocks. By default blocks at the lowest resolution are those of
        stride 32, whatever the output stride.
    """
    super().__init__()
    self.first_step = first_step
    self.outputs, self.fuses, self.stages, self._inputs = [], [], [], []
    if stage_strides is None:
      stage_strides = [32 if stride == options.output_stride else stride for stride in strides]
    if isinstance(num_blocks, int):
      num_blocks = [num_blocks] * len(strides)
    features, current = list(features), features[-1]
    steps = zip(strides, stage_strides, num_blocks)
    for step, (stride, stage, blocks) in enumerate(steps, first_step):
      earlier = [f for f in features if f.stride == stride and f is not current]
      fused = [current] + earlier[-_SHORTCUTS:]
      channels = round(stage * 64 * width) // 4 * 4
      self.fuses.append(ResizedFuse([f.channels for f in fused], [f.stride for f in fused],
                                    channels, stride, norm=norm,
                                    activation=options.block.activation))
      self.stages.append(BlockGroup(
          in_channels=channels, filters=channels // 4, num_blocks=blocks, stride=1,
          input_stride=stage, options=options, norm=norm,
          query_layer=query_layers and functools.partial(query_layers, stride)))
      self._inputs.append([f.name for f in fused])
      current = Feature(f'decoder{step}', stride, channels)
      features.append(current)
      self.outputs.append(current)

  def call(self, features: dict[str, tf.Tensor], queries: Any = None,
           training: bool = False) -> tuple[dict[str, tf.Tensor], Any]:
    """Runs the decoder.

    Args:
      features: [batch, height, width, channels] each, before the activation, by name.
      queries: State of the queries, see BlockGroup; None without query layers.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      The features and those of `outputs`, before the activation; and the updated queries.
    """
    features = dict(features)
    for fuse, stage, names, output in zip(self.fuses, self.stages, self._inputs, self.outputs):
      # The last fused feature has the resolution of the step.
      size = dimensions(features[names[-1]])[1:3]
      pixels = fuse([features[name] for name in names], size, training=training)
      features[output.name], queries = stage(pixels, queries, training=training)
    return features, queries
