"""The network behind DeepLab2's residual, axial and dual-path backbones: a stem and its stages.

Variants differ only in their options; each backbone module lists its own in VARIANTS.
"""

import functools
from typing import Any, NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.backbones import used_fields
from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers import hourglass
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions, QueryLayers
from deeplab_tf.layers.dilation import pad_for_stride
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import check_span
from deeplab_tf.layers.stem import make_stem
from deeplab_tf.user_errors import ConfigError

# Number of blocks of the stage at stride 2, in the networks that have one.
_FIRST_STAGE_BLOCKS = 3
# Fields of BackboneOptions.
_USED_FIELDS = (
    'output_stride', 'use_squeeze_and_excite', 'drop_path_keep_prob', 'drop_path_schedule',
    'stem_width_multiplier', 'backbone_width_multiplier', 'backbone_layer_multiplier',
    'use_sac_beyond_stride', 'recomputed', 'attention', 'activation')


class NetworkOptions(NamedTuple):
  """Options that define a variant.

  Attributes:
    stem: Kind of the stem, see stem.make_stem; 'none': stage 1 takes the images.
    num_blocks: Numbers of blocks of stages 2 to 5.
    has_first_stage: Whether stage 1 is residual blocks after the stem, not the stem itself.
    pooled: Whether stage 2 has stride 1 and follows a 3x3 max pooling of stride 2, as in ResNets;
      else it has stride 2 itself, as in DeepLab2's.
    stem_width: Factor on the channels of the stem and of stage 1.
    width: Factor on the channels of all other stages.
    decoder_stacks: Number of times that a decoder walks to stride 4 and back (Hourglass); 0: no
      decoder.
    groups: Options that all stages share.
  """
  stem: str = 'inception'
  num_blocks: tuple[int, ...] = (3, 4, 6, 3)
  has_first_stage: bool = False
  pooled: bool = False
  stem_width: float = 1.0
  width: float = 1.0
  decoder_stacks: int = 0
  groups: BlockGroupOptions = BlockGroupOptions()

  def with_groups(self, **changes) -> 'NetworkOptions':
    """Returns the options with changed fields of BlockGroupOptions for all stages."""
    return self._replace(groups=self.groups._replace(**changes))

  def with_blocks(self, **changes) -> 'NetworkOptions':
    """Returns the options with changed fields of BlockOptions for all blocks."""
    return self._replace(groups=self.groups.with_blocks(**changes))


class _Network(keras.layers.Layer):
  """A stem of stride 2, stages 2 to 5 of stride 2 each until the output stride, and a decoder.

  Attributes:
    options: The NetworkOptions.
    stem: Layer of stride 2, whose output is stage 1 if there is no first_stage; or None.
    first_stage: BlockGroup of stage 1, or None.
    stages: BlockGroups of stages 2 to 5.
    decoder: Hourglass, or None.
    features: Tuple of Features, which a call returns: 'stage1' to 'stage5' before the activation
      and 'res1' to 'res5' after it; 'decoder1' and so on, before it, of a decoder; and at last the
      end of the network, 'backbone_output', after the activation.
    decoder_inputs: Features that another stacked decoder may take, the oldest first; see
      hourglass.Hourglass.
  """

  def __init__(self, options: NetworkOptions, norm: NormFactory,
               query_layers: Optional[QueryLayers] = None):
    """Initializes the network.

    Args:
      options: Options of the variant.
      norm: Factory of the batch norms.
      query_layers: Factory of the query layers, see block_group.QueryLayers.
    """
    super().__init__()
    self.options = options
    self._activation = activation_lib.by_name(options.groups.block.activation)
    self.stem = self.first_stage = None
    channels, stride = 3, 1
    if options.stem != 'none':
      self.stem = make_stem(options.stem, options.stem_width, norm,
                            options.groups.block.activation)
      channels, stride = self.stem.channels, 2
    if options.has_first_stage:
      self.first_stage = BlockGroup(
          in_channels=channels, filters=round(32 * options.stem_width),
          num_blocks=_FIRST_STAGE_BLOCKS, stride=2 // stride, input_stride=stride,
          options=options.groups, norm=norm, takes_images=self.stem is None)
      channels, stride = self.first_stage.channels, 2
    outputs = [Feature('stage1', stride, channels)]
    self.stages = []
    if options.pooled:
      stride = 4
    for level, blocks in zip(range(2, 6), options.num_blocks):
      group = BlockGroup(
          in_channels=channels, filters=round(2**(level - 1) * 32 * options.width),
          num_blocks=blocks, stride=2**level // stride, input_stride=stride, options=options.groups,
          norm=norm, query_layer=query_layers and functools.partial(query_layers, stride))
      self.stages.append(group)
      channels, stride = group.channels, 2**level
      outputs.append(Feature(f'stage{level}', min(stride, options.groups.output_stride), channels))
    # If several stages have the same stride, a decoder takes the last.
    inputs = list({feature.stride: feature for feature in outputs}.values())
    self.decoder = None
    if options.decoder_stacks:
      self.decoder = hourglass.Hourglass(
          strides=hourglass.walk(options.groups.output_stride, options.decoder_stacks,
                                 to_the_end=False),
          features=inputs, num_blocks=1, width=options.width, options=options.groups, norm=norm,
          query_layers=query_layers)
    decoded = list(self.decoder.outputs) if self.decoder else []
    self.decoder_inputs = inputs + decoded
    self.features = (
        *outputs, *(f._replace(name=f.name.replace('stage', 'res')) for f in outputs), *decoded,
        self.decoder_inputs[-1]._replace(name='backbone_output'))

  def _run(self, images, queries, training, recursive=None):
    """Returns the features by name, and the queries."""
    x = images if self.stem is None else self.stem(images, training=training)
    if self.first_stage is not None:
      x, queries = self.first_stage(x, queries, training=training)
    features = {'stage1': x, 'res1': self._activation(x)}
    if self.options.pooled:
      # A value below all others does not change a maximum; after relu it could be 0.
      x = tf.nn.max_pool2d(pad_for_stride(features['res1'], 3, 1, x.dtype.min), 3, 2, 'VALID')
    for level, stage in zip(range(2, 6), self.stages):
      x, queries = stage(x, queries, training=training)
      if level == 2 and recursive is not None:
        x = (x + recursive) / 2
      features[f'stage{level}'] = x
      features[f'res{level}'] = self._activation(x)
    features['backbone_output'] = features['res5']
    if self.decoder is not None:
      features, queries = self.decoder(features, queries, training=training)
      features['backbone_output'] = self._activation(features[self.decoder.outputs[-1].name])
    return features, queries


class BlockGroupNetwork(_Network):
  """The network as a backbone (features.Backbone), without queries; see _Network."""

  def __init__(self, options: NetworkOptions, norm: NormFactory):
    """Initializes the network.

    Args:
      options: Options of the variant.
      norm: Factory of the batch norms.
    """
    super().__init__(options, norm)

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalized.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      [batch, h, w, channels] for each of `features`, by name.
    """
    return self._run(images, None, training)[0]


class TwoPathNetwork(_Network):
  """The network with query layers among its blocks, for a second path of queries; see _Network."""

  def call(self, images: tf.Tensor, queries: Any, training: bool = False,
           recursive: Optional[tf.Tensor] = None) -> tuple[dict[str, tf.Tensor], Any]:
    """Extracts features and updates queries.

    Args:
      images: [batch, height, width, 3], normalized.
      queries: Initial state of the queries, as the query layers take it.
      training: Whether batch norms use the batch's statistics and branches are dropped.
      recursive: A feature of the shape of 'stage2', with which that is averaged (CMT-DeepLab's
        Recursive Feature Network); None without one.

    Returns:
      [batch, h, w, channels] for each of `features`, by name; and the updated state of the queries.
    """
    return self._run(images, queries, training, recursive)


# === From a config ===


def build(variant: NetworkOptions, options, norm: NormFactory) -> BlockGroupNetwork:
  """Builds a variant with the changes of BackboneOptions; see configured."""
  return BlockGroupNetwork(configured(variant, options), norm)


def configured(variant: NetworkOptions, options) -> NetworkOptions:
  """Returns a variant with the changes of BackboneOptions.

  Raises:
    ConfigError: The options set attention that the network does not have, an invalid span, or
      what only other backbones have.
  """
  used_fields.check(options, _USED_FIELDS)
  block = variant.groups.block
  changes = {'squeeze_and_excite': options.use_squeeze_and_excite}
  if options.HasField('activation'):
    changes['activation'] = options.Activation.Name(options.activation).lower()
  if options.HasField('attention'):
    if not variant.groups.axial_beyond_stride:
      raise ConfigError(f'model_options.backbone.attention is set, but {options.name} has no '
                        'axial attention; remove it or choose another backbone')
    fields = {'normalized' if field.name == 'batch_norms' else field.name: value
              for field, value in options.attention.ListFields()}
    changes['num_heads'] = fields.pop('num_heads', block.num_heads)
    changes['attention'] = attention = block.attention._replace(**fields)
    check_span(attention.kind, attention.span, 'model_options.backbone.attention.span')
  return variant._replace(
      num_blocks=tuple(max(1, int(n * options.backbone_layer_multiplier))
                       for n in variant.num_blocks),
      stem_width=options.stem_width_multiplier,
      width=options.backbone_width_multiplier).with_blocks(**changes).with_groups(
          output_stride=options.output_stride,
          drop_path_keep_prob=options.drop_path_keep_prob,
          drop_path_schedule=options.drop_path_schedule,
          sac_beyond_stride=options.use_sac_beyond_stride,
          recomputed=options.Recomputation.Name(options.recomputed).lower())
