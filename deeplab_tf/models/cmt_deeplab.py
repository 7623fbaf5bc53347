"""CMT-DeepLab: panoptic segmentation by clustering mask transformers (CVPR 2022).

The network is MaX-DeepLab-S (models.max_deeplab) with three changes, each of which can be switched
off. Queries are cluster centers.

  clustering update                 Each dual-path layer assigns pixels to clusters, which updates
                                    both (section 3.3, equations 5 to 8). The logits of the
                                    assignment are passed on from layer to layer and end in the mask
                                    logits.
  location-sensitive clustering     Each center predicts a reference mask of a few points, which
                                    enters the layer (equations 9 to 12).
  stronger decoder                  There are no dual-path layers in the backbone. Six axial blocks
                                    with such layers follow it, three at stage 5 and three at stage
                                    4 (section 3.4).

Without the changes it is the paper's baseline: MaX-DeepLab-S, there with GELU
(`backbone { activation: GELU }`). With the Recursive Feature Network the whole network is there
twice. There is no released code; docs/cmt_deeplab.md lists what the paper leaves open.
"""

from typing import Any, Optional, Union

import tensorflow as tf

from deeplab_tf import architecture as architectures
from deeplab_tf import models, modules
from deeplab_tf.architecture import Architecture, ParameterGroup, TargetForm
from deeplab_tf.backbones import axial_resnet, block_group_network
from deeplab_tf.backbones import max_deeplab as max_backbones
from deeplab_tf.backbones.block_group_network import TwoPathNetwork
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.layers import hourglass
from deeplab_tf.layers.clustering import ClusteringLayers, ClusteringOptions, Clusters
from deeplab_tf.layers.convolution import Projection
from deeplab_tf.layers.dual_path_attention import DualPathLayers, DualPathOptions
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.hourglass import Hourglass
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses.cmt_deeplab import FIRST_NETWORK, CMTDeepLabCriterion
from deeplab_tf.models import max_deeplab
from deeplab_tf.models.max_deeplab import MaXDeepLab
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import ConfigError

# Backbones with the stronger decoder.
BACKBONES = ('axial_resnet50', 'axial_resnet104')
# The backbone without it, which has dual-path layers.
BASELINE = 'max_deeplab_s'


class CMTDeepLab(MaXDeepLab):
  """The network; see `call` for what it returns, and MaXDeepLab for the other attributes.

  Attributes:
    queries: float32 [1, num_queries, memory channels], the initial cluster centers.
    reference_embedding: Projection from the initial centers to the reference masks before the first
      layer (e of equation 9), or None.
    first_network: The first of the two networks of a Recursive Feature Network, or None.
  """

  def __init__(self, *, dataset_info: DatasetInfo, num_points: int = 0,
               first_network: Optional['CMTDeepLab'] = None, has_clusters: bool = False,
               **layers: Any):
    """Initializes the model.

    Args:
      dataset_info: The classes.
      num_points: Number of points of a reference mask; 0: no reference masks.
      first_network: The first network of a Recursive Feature Network, of the same sizes.
      has_clusters: Whether the dual-path layers are clustering layers.
      **layers: See MaXDeepLab.
    """
    super().__init__(dataset_info=dataset_info, **layers)
    self._has_clusters = has_clusters
    self.reference_embedding = None
    if num_points:
      self.reference_embedding = Projection(layers['memory_channels'], 2 * num_points)
    self.first_network = first_network

  def call(self, images: tf.Tensor, training: bool = False,
           all_predictions: bool = False) -> dict[str, tf.Tensor]:
    """Segments images.

    Args:
      images: [batch, height, width, 3], normalized by the config's `image_normalization`,
        by default to [-1, 1].
      training: Whether batch norms use the batch's statistics and branches are dropped.
      all_predictions: Whether what clustering layers predict is returned at inference too.

    Returns:
      The outputs of MaXDeepLab. In training also, where the network has them, `mask_logits_0` and
      so on, float32 [batch, h, w, queries], the affinity logits of the clustering layers at their
      own resolutions; `reference_points`, float32 [batch, layers, queries, points, 2], (y, x) in
      [0, 1]; and all outputs of the first of two networks, named 'first_network/mask_logits' and so
      on. With all_predictions the same without the last layer's logits, which are part of
      `mask_logits`, and without the first network's outputs.
    """
    outputs, recursive = {}, None
    if self.first_network is not None:
      first = self.first_network
      with tf.name_scope(first.name):
        features, memory = first.extract(images, training)
        recursive = features[first.pixel_decoder.outputs[-1].name]
        if training:
          outputs = {FIRST_NETWORK + name: value
                     for name, value in first.outputs_of(features, memory, training).items()}
    features, memory = self.extract(images, training, recursive)
    return {**self.outputs_of(features, memory, training, all_predictions), **outputs}

  def call_all_layers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the outputs at inference with those of clustering layers; see `call`."""
    return self(images, training=False, all_predictions=True)

  def initial_checkpoint_path(self, path: str) -> str:
    """Returns the path in the checkpoint of a single network or of a backbone."""
    return path[len(FIRST_NETWORK):] if path.startswith(FIRST_NETWORK) else path

  @property
  def first_prediction(self) -> int:
    """Number of the layer after which the first masks are there."""
    return 1

  def extract(self, images: tf.Tensor, training: bool, recursive: Optional[tf.Tensor] = None
              ) -> tuple[dict[str, tf.Tensor], Union[tf.Tensor, Clusters]]:
    """Runs one network up to its heads.

    Args:
      images: [batch, height, width, 3], normalized.
      training: Whether batch norms use the batch's statistics and branches are dropped.
      recursive: The last feature of the network before this one; None without one.

    Returns:
      The features by name, before the activation, and the cluster centers.
    """
    features, memory = self.backbone(images, self.initial_memory(images), training=training,
                                     recursive=recursive)
    return self.decode(features, memory, training)

  def outputs_of(self, features: dict[str, tf.Tensor], memory: Union[tf.Tensor, Clusters],
                 training: bool, all_predictions: bool = False) -> dict[str, tf.Tensor]:
    """Returns the outputs of one network; see `call`."""
    if not self._has_clusters:
      return self.predict_masks(features, memory, training)
    outputs = self.predict_masks(features, memory.centers, training)
    if memory.affinities:
      # The residual connection of equation 6 includes the final segmentation.
      size = dimensions(outputs['mask_logits'])[1:3]
      outputs['mask_logits'] += resize_bilinear(memory.affinities[-1], size)
    # Training supervises all of them; otherwise the final masks stand for those of the last layer.
    affinities = memory.affinities if training else memory.affinities[:-1]
    if training or all_predictions:
      outputs.update({f'mask_logits_{i}': x for i, x in enumerate(affinities)})
      if memory.references:
        outputs['reference_points'] = tf.stack(memory.references, axis=1)
    return outputs

  def initial_memory(self, images: tf.Tensor) -> Union[tf.Tensor, Clusters]:
    """Returns the cluster centers before the first layer."""
    centers = super().initial_memory(images)
    if not self._has_clusters:
      return centers
    embedding = None
    if self.reference_embedding is not None:
      # In float32, as small corrections are added up over the layers.
      embedding = tf.cast(self.reference_embedding(centers), tf.float32)
    return Clusters(centers, embedding)


# === From a config ===


def build(config, dataset_info: DatasetInfo, for_inference: bool = False) -> CMTDeepLab:
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    for_inference: Whether to leave out the auxiliary semantic head and its decoder.

  Raises:
    ConfigError: The backbone is not one of CMT-DeepLab's, or options contradict each other; the
      message says what is allowed.
  """
  options = config.model_options.cmt_deeplab
  if options.coordinate_convolutions and not options.num_reference_points:
    raise ConfigError(
        'model_options.cmt_deeplab.coordinate_convolutions is true and num_reference_points is 0: '
        'the coordinates of centers are their reference masks; set the first to false or the '
        'second above 0, e.g. 8')
  first = None
  if options.recursive_feature_network:
    first = _network(config, dataset_info, for_inference)
  model = _network(config, dataset_info, for_inference, first)
  model.describe_by(config, for_inference)
  return model


def _network(config, dataset_info, for_inference, first=None) -> CMTDeepLab:
  options = config.model_options.cmt_deeplab
  norm = models.norm_factory(config.trainer_options.solver_options)
  network, variant = _variant(config.model_options.backbone, options)
  has_clusters = options.clustering_update or options.num_reference_points > 0
  sizes = DualPathOptions(
      channels=variant.transformer_channels, feed_forward_channels=options.feed_forward_channels,
      activation=network.groups.block.activation)
  if has_clusters:
    layers = ClusteringLayers(
        sizes, ClusteringOptions(options.clustering_update, options.num_reference_points,
                                 options.coordinate_convolutions),
        variant.memory_channels, norm, variant.transformer_beyond_stride)
  else:
    layers = DualPathLayers(sizes, variant.memory_channels, norm,
                            variant.transformer_beyond_stride)
  backbone = TwoPathNetwork(network, norm, None if options.stronger_decoder else layers)
  extra_stage = max_deeplab.after_stage5(backbone, variant.decoder_blocks, layers, norm)
  pixel_decoder = _pixel_decoder(options, network, variant, backbone, extra_stage, layers, norm)
  return CMTDeepLab(
      dataset_info=dataset_info, backbone=backbone, extra_stage=extra_stage,
      pixel_decoder=pixel_decoder, num_points=options.num_reference_points, first_network=first,
      has_clusters=has_clusters,
      **max_deeplab.heads(config, options, dataset_info, backbone=backbone,
                          pixel_decoder=pixel_decoder, variant=variant, stacks=0,
                          for_inference=for_inference))


def _variant(backbone_options, options):
  """Returns the backbone's NetworkOptions and MaskTransformerOptions.

  Raises:
    ConfigError: See `build`.
  """
  name = backbone_options.name
  allowed = BACKBONES if options.stronger_decoder else (BASELINE,)
  if name not in allowed:
    with_or_without = 'with' if options.stronger_decoder else 'without'
    raise ConfigError(f'model_options.backbone.name is "{name}": cmt_deeplab takes '
                      f'{", ".join(allowed)} {with_or_without} its stronger_decoder.'
                      f'{modules.nearest(name, allowed)}')
  if options.stronger_decoder and backbone_options.output_stride < 16:
    raise ConfigError(f'model_options.backbone.output_stride is {backbone_options.output_stride}: '
                      'cmt_deeplab takes 16 and 32 with its stronger_decoder')
  variants = axial_resnet.VARIANTS if options.stronger_decoder else max_backbones.VARIANTS
  network = max_deeplab.with_blocks_of_kind(
      block_group_network.configured(variants[name], backbone_options),
      options.pixel_to_pixel_attention)
  variant = max_backbones.MASK_TRANSFORMERS[BASELINE]._replace(
      memory_channels=options.memory_channels, feature_channels=options.memory_channels,
      transformer_channels=options.transformer_channels)
  if options.stronger_decoder:
    variant = variant._replace(transformer_beyond_stride=16,
                               decoder_blocks=options.decoder_blocks_per_stage)
  return network, variant


def _pixel_decoder(options, network, variant, backbone, extra_stage, layers, norm) -> Hourglass:
  """Returns the decoder from the blocks at stage 5 to stride 4."""
  stride = network.groups.output_stride
  extra = Feature('extra', stride, extra_stage.channels)
  if not options.stronger_decoder:
    return Hourglass(strides=hourglass.walk(stride, 0),
                     features=[*backbone.decoder_inputs[:-1], extra],
                     num_blocks=variant.decoder_blocks, width=network.width,
                     options=network.groups, norm=norm, query_layers=layers)
  # The blocks at stage 4 have its width also where stage 5 is dilated, so that both have the same
  # resolution. Reading: the last steps have one block, as in MaX-DeepLab-S.
  stages = [16, 8, 4]
  shortcuts = [f for f in backbone.features if f.name in ('stage2', 'stage3', 'stage4')]
  return Hourglass(
      strides=[min(stage, stride) for stage in stages], features=[*shortcuts, extra],
      num_blocks=[variant.decoder_blocks, 1, 1], width=network.width, options=network.groups,
      norm=norm, query_layers=layers, stage_strides=stages)


def parameter_groups(model: CMTDeepLab, solver) -> list[ParameterGroup]:
  """Returns the groups of pre-trained variables and of all others; see max_deeplab."""
  backbone = []
  for network in filter(None, (model.first_network, model)):
    backbone.extend(max_deeplab.pretrained_variables(network))
  return architectures.parameter_groups(model.trainable_variables, backbone,
                                        solver.backbone_learning_rate_multiplier)


def inference_variables(model: CMTDeepLab) -> list[tf.Variable]:
  """Returns the trainable variables without those of the auxiliary semantic heads and decoders.

  Of the first of two networks the heads are counted too, as in the paper.
  """
  training_only = set()
  for network in filter(None, (model.first_network, model)):
    for part in filter(None, (network.semantic_decoder, network.semantic_head)):
      training_only.update(id(v) for v in part.trainable_variables)
  return [v for v in model.trainable_variables if id(v) not in training_only]


def last_layers(model: CMTDeepLab) -> dict[str, list[keras.layers.Layer]]:
  """Returns the last layers of the semantic heads; see max_deeplab.last_layers."""
  return {'semantic': [network.semantic_head.last
                       for network in filter(None, (model.first_network, model))
                       if network.semantic_head is not None]}


def build_criterion(config, dataset_info):
  """Returns the loss of the network's outputs; see losses.cmt_deeplab.

  Raises:
    ConfigError: There is a loss, but not the part of the network that it is for.
  """
  options = config.model_options.cmt_deeplab
  approximation = models.loss_term(config, 'mask_approximation_loss')
  if (options.num_reference_points and not options.coordinate_convolutions
      and not approximation.weight):
    raise ConfigError(
        f'model_options.cmt_deeplab.num_reference_points is {options.num_reference_points} with '
        'coordinate_convolutions: false and without mask_approximation_loss, so that nothing '
        'trains the reference masks: set the loss, or num_reference_points to 0')
  if approximation.weight and not options.num_reference_points:
    raise ConfigError(
        f'trainer_options.loss_options.mask_approximation_loss has weight '
        f'{approximation.weight:g} and needs reference masks, but '
        'model_options.cmt_deeplab.num_reference_points is 0: set it, e.g. to 8, or clear '
        'mask_approximation_loss')
  return CMTDeepLabCriterion(mask_approximation_term=approximation,
                             **max_deeplab.criterion_options(config, dataset_info))


ARCHITECTURE = Architecture(
    name='cmt_deeplab', build=build, build_criterion=build_criterion,
    postprocessors={Task.PANOPTIC: max_deeplab.build_postprocessor},
    parameter_groups=parameter_groups, inference_variables=inference_variables,
    last_layers=last_layers, target_form=TargetForm.MASK, masks_compete=True)
