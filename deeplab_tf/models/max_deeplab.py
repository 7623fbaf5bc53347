"""MaX-DeepLab: panoptic segmentation with a dual-path mask transformer (CVPR 2021).

The network of figures 3 and A.9. It has two paths, pixels and memory. The memory has N vectors, the
queries, one for each mask that can be predicted. Both paths run through

  backbone -> extra_stage -> pixel_decoder -> mask_head

where each block for pixels (the paper's P2P) from stage 5 on (MaX-DeepLab-S) or from stride 16 on
(MaX-DeepLab-L) is followed by a dual-path layer (layers.dual_path_attention), which updates both
paths: M2P and M2M under one softmax, a feed-forward network of the memory, and P2M.

The decoder has L stacks (L = 0 in MaX-DeepLab-S, L = 2 in MaX-DeepLab-L). Those that are
pre-trained belong to the backbone (1 in MaX-DeepLab-L), all others to the pixel decoder.

Where the paper and its released code (DeepLab2) differ, the network follows the code: the extra
stage is not in the paper, and section A.6 initializes all decoder stacks randomly. Comments name
the other differences.
"""

import functools
from typing import Any, Optional

import tensorflow as tf

from deeplab_tf import architecture, models, modules
from deeplab_tf.architecture import Architecture, ParameterGroup, TargetForm
from deeplab_tf.backbones import block_group_network
from deeplab_tf.backbones import max_deeplab as backbones
from deeplab_tf.backbones.block_group_network import NetworkOptions, TwoPathNetwork
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.heads import convolution_head
from deeplab_tf.heads.convolution_head import ConvolutionHead
from deeplab_tf.heads.mask_head import MaskHead
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers import hourglass
from deeplab_tf.layers.block_group import BlockGroup, QueryLayers
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathLayers, DualPathOptions
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.hourglass import Hourglass
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses.max_deeplab import MaXDeepLabCriterion
from deeplab_tf.models._keras_model import KerasModel
from deeplab_tf.pixel_decoders import aspp_decoder
from deeplab_tf.pixel_decoders.aspp_decoder import ASPPDecoder
from deeplab_tf.postprocessing import mask_transformer
from deeplab_tf.protos import model_pb2
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import ConfigError


class MaXDeepLab(KerasModel):
  """The network; see `call` for what it returns.

  Attributes:
    dataset_info: The classes.
    queries: float32 [1, num_queries, memory channels], the initial memory.
    backbone: Stages, and in MaX-DeepLab-L a decoder stack. Its blocks are pre-trained, the
      dual-path layers after some of them are not.
    extra_stage: Stage after the backbone at the output stride, with dual-path layers and not
      pre-trained; DeepLab2 names it "extra".
    pixel_decoder: Decoder stacks that are not pre-trained, then the last steps up to stride 4.
    mask_head: Output heads for classes, masks and pixel features (equation 15).
    semantic_head: Auxiliary head, used by a loss only (section 3.4); None without the loss.
    semantic_decoder: Decoder before `semantic_head` if the pixel decoder has no stack, else None.
  """

  def __init__(self, *,
               dataset_info: DatasetInfo,
               backbone: TwoPathNetwork,
               extra_stage: BlockGroup,
               pixel_decoder: Hourglass,
               mask_head: MaskHead,
               num_queries: int,
               memory_channels: int,
               semantic_decoder: Optional[ASPPDecoder] = None,
               semantic_head: Optional[ConvolutionHead] = None,
               activation: str = 'relu'):
    """Initializes the model from its layers, the attributes of the class.

    `num_queries` and `memory_channels` are the sizes of the initial memory, and `activation` is the
    name of the activation of the features before the heads.
    """
    super().__init__(dataset_info)
    self.queries = self.add_weight('queries', (1, num_queries, memory_channels),
                                   initializer=keras.initializers.TruncatedNormal(stddev=1.0))
    self.backbone = backbone
    self.extra_stage = extra_stage
    self.pixel_decoder = pixel_decoder
    self.mask_head = mask_head
    self.semantic_decoder = semantic_decoder
    self.semantic_head = semantic_head
    self._activation = activation_lib.by_name(activation)

  # === Forward pass ===

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Segments images.

    Args:
      images: [batch, height, width, 3], normalized by the config's `image_normalization`,
        by default to [-1, 1].
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      float32 `mask_logits` [batch, h, w, queries] before the softmax of equation 15,
      `class_logits` [batch, queries, classes + 1] with "no object" last, `pixel_features`
      [batch, h, w, channels] of unit norm (the paper's g), and `semantic_logits` [batch, h, w,
      number of classes] if the model has that head. h and w are ceil(height / 4) and
      ceil(width / 4), except that with a semantic decoder `semantic_logits` have the size of the
      last feature in `auxiliary_low_level`.
    """
    features, memory = self.backbone(images, self.initial_memory(images), training=training)
    features, memory = self.decode(features, memory, training)
    return self.predict_masks(features, memory, training)

  def initial_memory(self, images: tf.Tensor) -> tf.Tensor:
    """Returns the memory before the first layer, [batch, queries, memory channels]."""
    return tf.cast(tf.tile(self.queries, [dimensions(images)[0], 1, 1]), images.dtype)

  def decode(self, features: dict[str, tf.Tensor], memory: Any,
             training: bool) -> tuple[dict[str, tf.Tensor], Any]:
    """Runs the layers between backbone and heads; returns their features, and the memory."""
    features['extra'], memory = self.extra_stage(features[self.backbone.decoder_inputs[-1].name],
                                                 memory, training=training)
    return self.pixel_decoder(features, memory, training=training)

  def predict_masks(self, features: dict[str, tf.Tensor], memory: tf.Tensor,
                    training: bool) -> dict[str, tf.Tensor]:
    """Returns the outputs of `call`."""
    # Features are passed on before their activation.
    pixels = self._activation(features[self.pixel_decoder.outputs[-1].name])
    outputs = self.mask_head(memory, pixels, training=training)
    if self.semantic_head is not None:
      semantic = self._semantic_feature(features, training)
      semantic = self.semantic_head(semantic, training=training)
      outputs['semantic_logits'] = tf.cast(semantic, tf.float32)
    return outputs

  def _semantic_feature(self, features, training):
    """Returns the input of the semantic head (section 3.4).

    The paper takes the first decoder output of stride 4. As in DeepLab2 it is the first one after
    the pre-trained stacks, and for models whose stacks are all pre-trained (in the paper only for
    L = 0) it comes from a decoder with ASPP.
    """
    if self.semantic_decoder is not None:
      return self.semantic_decoder(features, training=training)
    return self._activation(features[first_at_lowest_stride(self.pixel_decoder).name])


def first_at_lowest_stride(decoder: Hourglass) -> Feature:
  """Returns the first output of stride 4 of a decoder."""
  return next(f for f in decoder.outputs if f.stride == hourglass.LOWEST_STRIDE)


# === From a config ===


def build(config, dataset_info: DatasetInfo, for_inference: bool = False) -> MaXDeepLab:
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    for_inference: Whether to leave out the auxiliary semantic head and its decoder.

  Raises:
    ConfigError: The backbone is not one of MaX-DeepLab's, or the numbers of decoder stacks
      contradict each other; the message says what is allowed.
  """
  options = config.model_options.max_deeplab
  network, variant = _variant(config.model_options.backbone, options)
  norm = models.norm_factory(config.trainer_options.solver_options)
  dual_path_layers = DualPathLayers(
      DualPathOptions(
          channels=variant.transformer_channels,  # Of the keys, for an input of stride 16.
          feed_forward_channels=options.feed_forward_channels,
          pixel_to_memory=options.pixel_to_memory_attention,
          memory_to_memory=options.memory_to_memory_attention,
          activation=network.groups.block.activation),
      variant.memory_channels, norm, variant.transformer_beyond_stride)
  backbone = TwoPathNetwork(network, norm, dual_path_layers)

  # As in DeepLab2 it has the width and dual-path channels of stage 5, whose input has stride 16,
  # and the blocks for an input of stride 32, whatever the output stride is.
  extra_stage = after_stage5(backbone, variant.decoder_blocks, dual_path_layers, norm)
  # The decoder starts from this feature in place of the backbone's last one.
  extra = Feature('extra', network.groups.output_stride, extra_stage.channels)
  stacks = variant.decoder_stacks - network.decoder_stacks
  pixel_decoder = Hourglass(
      strides=hourglass.walk(network.groups.output_stride, stacks),
      features=[*backbone.decoder_inputs[:-1], extra], num_blocks=variant.decoder_blocks,
      width=network.width, options=network.groups, norm=norm, query_layers=dual_path_layers,
      first_step=1 + (len(backbone.decoder.outputs) if backbone.decoder else 0))
  model = MaXDeepLab(
      dataset_info=dataset_info, backbone=backbone, extra_stage=extra_stage,
      pixel_decoder=pixel_decoder,
      **heads(config, options, dataset_info, backbone=backbone, pixel_decoder=pixel_decoder,
              variant=variant, stacks=stacks, for_inference=for_inference))
  model.describe_by(config, for_inference)
  return model


def after_stage5(backbone: TwoPathNetwork, num_blocks: int, query_layers: QueryLayers,
                 norm: NormFactory) -> BlockGroup:
  """Returns a stage of the width of stage 5 that follows a backbone."""
  return BlockGroup(
      in_channels=backbone.decoder_inputs[-1].channels,
      filters=round(16 * 32 * backbone.options.width), num_blocks=num_blocks, stride=1,
      input_stride=32, options=backbone.options.groups, norm=norm,
      query_layer=functools.partial(query_layers, 16))


def heads(config, options, dataset_info: DatasetInfo, *, backbone: TwoPathNetwork,
          pixel_decoder: Hourglass, variant: backbones.MaskTransformerOptions, stacks: int,
          for_inference: bool) -> dict[str, Any]:
  """Returns what MaXDeepLab takes besides the layers before the heads.

  Args:
    config: ExperimentOptions.
    options: MaXDeepLabOptions, or others with the same fields of heads and queries.
    dataset_info: The classes.
    backbone: The backbone.
    pixel_decoder: The pixel decoder.
    variant: Numbers of channels.
    stacks: Number of stacks of the pixel decoder.
    for_inference: Whether to leave out the auxiliary semantic head and its decoder.
  """
  norm = models.norm_factory(config.trainer_options.solver_options)
  activation = backbone.options.groups.block.activation
  # The paper's 2Conv, which predicts g.
  pixel_head = convolution_head.build(options.pixel_space_head, pixel_decoder.outputs[-1].channels,
                                      norm, activation=activation)
  # num_classes may count the ignored class too, so the mask head takes the number of class ids.
  mask_head = MaskHead(
      memory_channels=variant.memory_channels, feature_channels=variant.feature_channels,
      pixel_head=pixel_head, pixel_channels=options.pixel_space_head.output_channels,
      num_classes=len(dataset_info.class_ids), norm=norm, activation=activation)
  semantic_decoder = semantic_head = None
  if options.HasField('auxiliary_semantic_head') and not for_inference:
    semantic_channels = first_at_lowest_stride(pixel_decoder).channels
    if not stacks:
      semantic_decoder = aspp_decoder.build(
          config.model_options.decoder, options.auxiliary_low_level, backbone.features,
          config.train_dataset_options.crop_size, norm, activation)
      semantic_channels = semantic_decoder.channels
    semantic_head = convolution_head.build(options.auxiliary_semantic_head, semantic_channels,
                                           norm, dataset_info.num_classes, activation)
  return {'mask_head': mask_head, 'num_queries': options.num_queries,
          'memory_channels': variant.memory_channels, 'semantic_decoder': semantic_decoder,
          'semantic_head': semantic_head, 'activation': activation}


def _variant(backbone_options, options):
  """Returns the backbone's NetworkOptions and MaskTransformerOptions, changed by the config.

  Raises:
    ConfigError: See `build`.
  """
  name = backbone_options.name
  if name not in backbones.MASK_TRANSFORMERS:
    known = backbones.MASK_TRANSFORMERS
    raise ConfigError(f'model_options.backbone.name is "{name}": max_deeplab takes '
                      f'{", ".join(known)}.{modules.nearest(name, known)}')
  network = block_group_network.configured(backbones.VARIANTS[name], backbone_options)
  variant = backbones.MASK_TRANSFORMERS[name]
  # One field sets the channels of memory and heads.
  changed = {
      'memory_channels': 'memory_channels',
      'feature_channels': 'memory_channels',
      'transformer_channels': 'transformer_channels',
      'transformer_beyond_stride': 'transformer_beyond_stride',
      'decoder_blocks': 'decoder_blocks_per_stage',
      'decoder_stacks': 'num_decoder_stacks',
  }
  variant = variant._replace(**{own: getattr(options, field) for own, field in changed.items()
                                if options.HasField(field)})
  network = with_blocks_of_kind(network, options.pixel_to_pixel_attention)
  if options.HasField('num_backbone_decoder_stacks'):
    network = network._replace(decoder_stacks=options.num_backbone_decoder_stacks)
  if not 0 <= network.decoder_stacks <= variant.decoder_stacks:
    raise ConfigError(
        f'model_options.max_deeplab.num_backbone_decoder_stacks is {network.decoder_stacks}: it '
        f'must be from 0 to num_decoder_stacks, {variant.decoder_stacks}, which includes the '
        'pre-trained stacks')
  return network, variant


def with_blocks_of_kind(network: NetworkOptions, kind: int) -> NetworkOptions:
  """Returns the network with the blocks from stride 16 on of a PixelToPixelAttention."""
  kinds = model_pb2.ModelOptions.MaXDeepLabOptions
  if kind == kinds.VARIANT_DEFAULT:
    return network
  return network.with_groups(axial_beyond_stride=16 if kind == kinds.AXIAL else 0)


def parameter_groups(model: MaXDeepLab, solver) -> list[ParameterGroup]:
  """Returns the groups of pre-trained variables and of all others.

  The pre-trained variables are those of the backbone except its dual-path layers;
  backbone_learning_rate_multiplier applies to them (section 4 and A.6).
  """
  return architecture.parameter_groups(model.trainable_variables, pretrained_variables(model),
                                       solver.backbone_learning_rate_multiplier)


def pretrained_variables(model: MaXDeepLab) -> list[tf.Variable]:
  """Returns the trainable variables of the backbone without those of its dual-path layers."""
  others = {id(v) for layer in model.backbone.submodules if isinstance(layer, DualPathLayer)
            for v in layer.trainable_variables}
  return [v for v in model.backbone.trainable_variables if id(v) not in others]


def inference_variables(model: MaXDeepLab) -> list[tf.Variable]:
  """Returns the trainable variables that inference uses.

  They are all but those of the auxiliary semantic head and its decoder.
  """
  training_only = {id(v) for part in (model.semantic_decoder, model.semantic_head)
                   if part is not None for v in part.trainable_variables}
  return [v for v in model.trainable_variables if id(v) not in training_only]


def last_layers(model: MaXDeepLab) -> dict[str, list[keras.layers.Layer]]:
  """Returns the last layer of the semantic head.

  restore_semantic_last_layer_from_initial_checkpoint refers to it. The class layer of the mask head
  also depends on the number of classes, but is restored wherever its shape fits, as in DeepLab2.
  """
  return {'semantic': [] if model.semantic_head is None else [model.semantic_head.last]}


def build_criterion(config, dataset_info):
  """Returns the loss of the network's outputs; see losses.max_deeplab.

  Raises:
    ConfigError: There is a semantic loss, but no semantic head.
  """
  return MaXDeepLabCriterion(**criterion_options(config, dataset_info))


def criterion_options(config, dataset_info) -> dict[str, Any]:
  """Returns the arguments of MaXDeepLabCriterion, for max_deeplab and what has its losses.

  Raises:
    ConfigError: See `build_criterion`.
  """
  losses = config.trainer_options.loss_options
  name = config.model_options.WhichOneof('meta_architecture')
  options = getattr(config.model_options, name)
  term = functools.partial(models.loss_term, config)
  semantic_weight = term('semantic_loss').weight
  if semantic_weight and not options.HasField('auxiliary_semantic_head'):
    raise ConfigError(
        f'trainer_options.loss_options.semantic_loss has weight {semantic_weight:g} and needs '
        f'model_options.{name}.auxiliary_semantic_head, which is not set: set it, or clear '
        'semantic_loss')
  return {
      'ignore_label': dataset_info.ignore_label,
      'pq_style_weight': term('pq_style_loss').weight,
      'mask_id_term': term('mask_id_cross_entropy_loss'),
      'instance_discrimination_term': term('instance_discrimination_loss'),
      'semantic_term': term('semantic_loss'),
      'sample_k': options.instance_discrimination_sample_k,
      'sample_temperature': options.instance_discrimination_sample_temperature,
      'similarity': losses.Similarity.Name(losses.pq_style_similarity).lower(),
      'negatives': losses.Negatives.Name(losses.pq_style_negatives).lower(),
      'solver': models.matching_solver(config),
  }


def build_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing of the network's outputs; see postprocessing.mask_transformer."""
  return mask_transformer.build(config.evaluator_options, dataset_info, static_shapes)


ARCHITECTURE = Architecture(
    name='max_deeplab', build=build, build_criterion=build_criterion,
    postprocessors={Task.PANOPTIC: build_postprocessor}, parameter_groups=parameter_groups,
    inference_variables=inference_variables, last_layers=last_layers,
    target_form=TargetForm.MASK, masks_compete=True)
