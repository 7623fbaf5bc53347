"""The network behind DeepLab2's residual, axial and dual-path backbones: a stem and its stages.

Variants differ in numbers only; each backbone module lists its own in VARIANTS.
"""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import hourglass
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dilation import pad_for_stride
from deeplab_tf.layers.dual_path_attention import DualPathOptions
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import check_span
from deeplab_tf.layers.stem import make_stem
from deeplab_tf.user_errors import ConfigError

# Blocks of the stage at stride 2, of the networks that have one.
_FIRST_STAGE_BLOCKS = 3


class NetworkOptions(NamedTuple):
  """Numbers that make a variant.

  Attributes:
    stem: See stem.make_stem; 'none': stage 1 takes the images.
    num_blocks: Blocks of stages 2 to 5.
    has_first_stage: Whether stage 1 is residual blocks behind the stem, not the stem itself.
    pooled: Whether stage 2 has stride 1 behind a 3x3 max pooling of stride 2, as in ResNets,
      instead of a stride of its own, as in DeepLab2's.
    stem_width: Factor on the channels of the stem and of stage 1.
    width: Factor on the channels of all other stages.
    decoder_stacks: Times that a decoder walks to stride 4 and back (Hourglass).
    groups: What all stages share.
  """
  stem: str = 'inception'
  num_blocks: tuple[int, ...] = (3, 4, 6, 3)
  has_first_stage: bool = False
  pooled: bool = False
  stem_width: float = 1.0
  width: float = 1.0
  decoder_stacks: int = 0
  groups: BlockGroupOptions = BlockGroupOptions()

  def customized(self, options) -> 'NetworkOptions':
    """Returns the network with what BackboneOptions change.

    Raises:
      ValueError: They are about attention that the network does not have, or its span is wrong.
    """
    attention, num_heads = self.groups.attention, self.groups.num_heads
    if options.HasField('attention'):
      if not self.groups.axial_beyond_stride:
        raise ConfigError(f'model_options.backbone.attention is set, but {options.name} has no '
                          'axial attention; remove it or choose another backbone')
      changes = {'normalized' if field.name == 'batch_norms' else field.name: value
                 for field, value in options.attention.ListFields()}
      num_heads = changes.pop('num_heads', num_heads)
      attention = attention._replace(**changes)
      check_span(attention.kind, attention.span, 'model_options.backbone.attention.span')
    return self._replace(
        num_blocks=tuple(max(1, int(n * options.backbone_layer_multiplier))
                         for n in self.num_blocks),
        stem_width=options.stem_width_multiplier,
        width=options.backbone_width_multiplier).with_groups(
            output_stride=options.output_stride,
            drop_path_keep_prob=options.drop_path_keep_prob,
            drop_path_schedule=options.drop_path_schedule,
            squeeze_and_excite=options.use_squeeze_and_excite,
            sac_beyond_stride=options.use_sac_beyond_stride,
            attention=attention,
            num_heads=num_heads,
            recomputed=options.Recomputation.Name(options.recomputed).lower())

  def with_groups(self, **changes) -> 'NetworkOptions':
    """Returns the network with other fields of BlockGroupOptions in all stages."""
    return self._replace(groups=self.groups._replace(**changes))


class BlockGroupNetwork(keras.layers.Layer):
  """A stem of stride 2, stages 2 to 5 of stride 2 each until the output stride, and a decoder.

  Attributes:
    options: NetworkOptions.
    stem: Of stride 2; its output is stage 1, if that is no stage of its own. None: no stem.
    first_stage: BlockGroup of stage 1, or None.
    stages: BlockGroups of stages 2 to 5.
    decoder: Hourglass, or None.
    features: What there is to take in before its activation, a list of hourglass.Features.
    channels: dict from an activated feature's name ('res1' to 'res5', 'backbone_output') to its
      channels.
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
    self.stem = self.first_stage = None
    channels, stride = 3, 1
    if options.stem != 'none':
      self.stem = make_stem(options.stem, options.stem_width, norm)
      channels, stride = self.stem.channels, 2
    if options.has_first_stage:
      self.first_stage = BlockGroup(channels, round(32 * options.stem_width), _FIRST_STAGE_BLOCKS,
                                    2 // stride, stride, options.groups, norm,
                                    takes_images=self.stem is None)
      channels, stride = self.first_stage.channels, 2
    self.features = [hourglass.Feature('stage1', stride, channels)]
    self.stages = []
    if options.pooled:
      stride = 4
    for level, blocks in zip(range(2, 6), options.num_blocks):
      group = BlockGroup(channels, round(2**(level - 1) * 32 * options.width), blocks,
                         2**level // stride, stride, options.groups, norm,
                         dual_path and dual_path.at_stride(stride), memory_channels)
      self.stages.append(group)
      channels, stride = group.channels, 2**level
      # Of the stages at the output stride the decoder takes the last.
      reached = min(stride, options.groups.output_stride)
      self.features = [f for f in self.features if f.stride != reached]
      self.features.append(hourglass.Feature(f'stage{level}', reached, channels))
    self.decoder = None
    if options.decoder_stacks:
      self.decoder = hourglass.Hourglass(
          hourglass.walk(options.groups.output_stride, options.decoder_stacks, to_the_end=False),
          self.features, 1, options.width, options.groups, norm, dual_path, memory_channels)
      self.features = self.features + self.decoder.outputs
    self.channels = {'res1': (self.first_stage or self.stem).channels}
    self.channels.update({f'res{level}': stage.channels
                          for level, stage in enumerate(self.stages, 2)})
    self.channels['backbone_output'] = self.features[-1].channels

  def call(self, images: tf.Tensor, memory: Optional[tf.Tensor] = None,
           training: bool = False) -> tuple[dict[str, tf.Tensor], Optional[tf.Tensor]]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalised.
      memory: [batch, queries, memory channels], or None without dual-path layers.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      Features by name, [batch, h, w, channels] each: 'stage1' to 'stage5' before, 'res1' to
      'res5' after the activation, the decoder's 'decoder1' and so on before it, and the end
      of the network, 'backbone_output', after it; and the memory.
    """
    x = images if self.stem is None else self.stem(images, training=training)
    if self.first_stage is not None:
      x, memory = self.first_stage(x, memory, training=training)
    features = {'stage1': x, 'res1': tf.nn.relu(x)}
    if self.options.pooled:
      # Activated values are not negative, so that zeros around them change no maximum.
      x = tf.nn.max_pool2d(pad_for_stride(features['res1'], 3, 1), 3, 2, 'VALID')
    for level, stage in zip(range(2, 6), self.stages):
      x, memory = stage(x, memory, training=training)
      features[f'stage{level}'] = x
      features[f'res{level}'] = tf.nn.relu(x)
    features['backbone_output'] = features['res5']
    if self.decoder is not None:
      features, memory = self.decoder(features, memory, training=training)
      features['backbone_output'] = tf.nn.relu(features[self.features[-1].name])
    return features, memory
