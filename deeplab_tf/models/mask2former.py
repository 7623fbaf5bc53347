"""Mask2Former: segmentation with masked attention (CVPR 2022, arXiv 2112.01527).

The network of figure 2. Learned queries, each of which predicts one mask with its class, pass a
transformer decoder that reads three of the pixel decoder's features in turn:

  backbone -> pixel_decoder -> transformer_decoder

Options give the ablations of tables 4 and 5, and MaskFormer (NeurIPS 2021, arXiv 2107.06278).

Where the paper and its released code differ, the network follows the code, and comments say so.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf import backbones, models, pixel_decoders, tasks
from deeplab_tf import config as config_lib
from deeplab_tf.architecture import Architecture, ParameterGroup, TargetForm
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.layers import variable_paths
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.masked_decoder import CrossAttention, MaskedDecoderOptions
from deeplab_tf.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from deeplab_tf.losses.mask2former import ComparisonOptions, Mask2FormerCriterion
from deeplab_tf.losses.mask_comparison import Focal
from deeplab_tf.models import _score_passes
from deeplab_tf.models._keras_model import KerasModel
from deeplab_tf.pixel_decoders.pixel_decoder import PixelDecoder
from deeplab_tf.postprocessing import mask2former_panoptic
from deeplab_tf.postprocessing.averaged_scores import AveragedScores
from deeplab_tf.postprocessing.mask2former_instances import Mask2FormerInstances
from deeplab_tf.postprocessing.mask2former_semantic import Mask2FormerSemantic
from deeplab_tf.structures import join_layers
from deeplab_tf.tasks import Task
from deeplab_tf.transformer_decoders.masked_attention_decoder import (
    MaskedAttentionDecoder,
    QueryFeatures,
    Scales,
)
from deeplab_tf.user_errors import ConfigError

# Strides of the features of the backbone that the pixel decoder reads.
_STRIDES = (4, 8, 16, 32)
# Features of DeepLab2's backbones before their activation: `res2` is `stage2` after it.
_BEFORE_ACTIVATION = ('stage', 'decoder')
# Variables without weight decay besides those of norms: in the released code they are embeddings.
# The level embedding of the pixel decoder is a bare parameter there, and decays.
_EMBEDDINGS = tuple(f'transformer_decoder/{name}' for name in (
    'query_features', 'query_positions', 'level_embedding'))
_NORMS = (BatchNorm, LayerNorm, GroupNorm)


class Mask2Former(KerasModel):
  """The network; see `call` for what it returns.

  Attributes:
    dataset_info: The classes.
    backbone: Feature extractor.
    pixel_decoder: Decoder from the backbone's features to three feature maps and the mask features.
    transformer_decoder: Decoder of the queries, with the heads for classes and masks.
  """

  def __init__(self, *, dataset_info: DatasetInfo, backbone: Backbone,
               pixel_decoder: PixelDecoder,
               transformer_decoder: MaskedAttentionDecoder):
    """Initializes the model from its layers, the attributes of the class."""
    super().__init__(dataset_info)
    self.backbone = backbone
    self.pixel_decoder = pixel_decoder
    self.transformer_decoder = transformer_decoder

  def call(self, images: tf.Tensor, training: bool = False,
           all_predictions: bool = False) -> dict[str, tf.Tensor]:
    """Segments images.

    Args:
      images: [batch, height, width, 3], normalized by the config's `image_normalization`,
        IMAGENET for the released weights.
      training: Whether branches are dropped, batch norms use the batch's statistics, and all
        predictions of the transformer decoder are returned.
      all_predictions: Whether all predictions are returned at inference too.

    Returns:
      float32 `class_logits` [batch, queries, classes + 1] with "no object" last, `mask_logits`
      [batch, h, w, queries] before the sigmoid, and `pixel_features` [batch, h, w, channels], the
      mask features, whose products with the queries' embeddings are the masks; h and w are
      ceil(height / 4) and ceil(width / 4). If all predictions are returned, `class_logits_0`,
      `mask_logits_0` are those before the first layer, `class_logits_1`, `mask_logits_1` those
      after it, and so on. If query features have no loss, `_0` are those after the first layer.
    """
    features = self.backbone(images, training=training)
    decoded = self.pixel_decoder(features, training=training)
    levels = self.transformer_decoder.scales.select(decoded.levels, decoded.coarsest)
    outputs = join_layers(self.transformer_decoder(
        levels, decoded.mask_features, training=training, all_predictions=all_predictions))
    outputs['pixel_features'] = tf.cast(decoded.mask_features, tf.float32)
    return outputs

  def call_all_layers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    return self(images, training=False, all_predictions=True)

  @property
  def first_prediction(self) -> int:
    return self.transformer_decoder.first_prediction


# === From a config ===


def build(config, dataset_info: DatasetInfo, for_inference: bool = False) -> Mask2Former:
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    for_inference: Not used: no part of the network is for training only.

  Raises:
    ConfigError: The backbone does not have features of stride 4 to 32, or sizes contradict each
      other.
  """
  options = config.model_options.mask2former
  if options.pre_norm and options.pixel_decoder.num_encoder_layers:
    raise ConfigError(
        'model_options.mask2former.pre_norm is true and pixel_decoder.num_encoder_layers is '
        f'{options.pixel_decoder.num_encoder_layers}: the encoder has its layer norms after the '
        'residual connections alone; set pre_norm to false, or num_encoder_layers to 0')
  backbone = backbones.build(config.model_options.backbone,
                             models.norm_factory(config.trainer_options.solver_options))
  pixel_decoder = pixel_decoders.build(
      options.pixel_decoder, _features(backbone, config.model_options.backbone.name),
      mask_channels=options.mask_channels, num_heads=options.num_heads,
      recompute=options.recompute_layers)
  transformer_decoder = _build_transformer_decoder(
      options, pixel_decoder, num_classes=len(dataset_info.class_ids))
  model = Mask2Former(dataset_info=dataset_info, backbone=backbone, pixel_decoder=pixel_decoder,
                      transformer_decoder=transformer_decoder)
  model.describe_by(config, for_inference)
  return model


def _build_transformer_decoder(options, pixel_decoder, num_classes):
  """Returns the transformer decoder of Mask2FormerOptions.

  Args:
    options: Mask2FormerOptions.
    pixel_decoder: The pixel decoder whose features it reads.
    num_classes: Number of classes; that of a DatasetInfo may count the ignored class too.
  """
  design = options.transformer_decoder
  scales = Scales[design.Scales.Name(design.scales)]
  reads_backbone = scales is Scales.BACKBONE_STRIDE_32
  return MaskedAttentionDecoder(
      feature_channels=(pixel_decoder.coarsest_channels if reads_backbone
                        else pixel_decoder.channels),
      mask_channels=options.mask_channels, num_queries=options.num_queries,
      num_classes=num_classes, num_layers=options.num_layers,
      options=MaskedDecoderOptions(
          channels=options.hidden_channels, feed_forward_channels=options.feed_forward_channels,
          num_heads=options.num_heads, pre_norm=options.pre_norm,
          cross_attention=CrossAttention[design.CrossAttention.Name(design.cross_attention)],
          self_attention_first=design.self_attention_first, dropout_rate=design.dropout_rate),
      scales=scales,
      query_features=QueryFeatures[design.QueryFeatures.Name(design.query_features)],
      force_input_projections=options.force_input_projection,
      recompute_layers=options.recompute_layers)


def _features(backbone, name: str) -> Sequence[Feature]:
  """Returns the features of a backbone that the pixel decoder reads, from high resolution to low.

  They are the last of each stride, without those before their activation.

  Args:
    backbone: The backbone.
    name: Name of its variant.
  """
  by_stride = {feature.stride: feature for feature in backbone.features
               if not feature.name.startswith(_BEFORE_ACTIVATION)}
  if not set(_STRIDES) <= set(by_stride):
    listed = ', '.join(f'{f.name} of stride {f.stride}' for f in by_stride.values())
    raise ConfigError(
        f'model_options.backbone.name is "{name}": mask2former needs features of stride 4, 8, 16 '
        f'and 32, and the backbone has {listed}; set output_stride to 32 or use a backbone such as '
        'torchvision_resnet50')
  return [by_stride[stride] for stride in _STRIDES]


def parameter_groups(model: Mask2Former, solver) -> list[ParameterGroup]:
  """Returns the groups of the backbone and of the other variables, with and without weight decay.

  As in the released code, norms, relative position biases and the embeddings of the transformer
  decoder do not decay; everything else does, biases included. backbone_learning_rate_multiplier is
  0.1 in the paper (section 4.1).
  """
  rate = solver.backbone_learning_rate_multiplier
  variables = variable_paths.variables_by_path(model)
  owners = variable_paths.owners_by_path(model)
  members = {}
  for path, variable in variables.items():
    if variable.trainable:
      decays = not (isinstance(owners[path], _NORMS) or 'position_bias' in path.split('/')
                    or path in _EMBEDDINGS)
      is_backbone = path.startswith('backbone/') and rate != 1.0
      members.setdefault((is_backbone, decays), []).append(variable)
  return [ParameterGroup('backbone' if is_backbone else 'main', found,
                         rate if is_backbone else 1.0, decays)
          for (is_backbone, decays), found in sorted(members.items(), key=lambda item: item[0])]


def inference_variables(model: Mask2Former) -> list[tf.Variable]:
  """Returns the trainable variables that inference uses: all."""
  return model.trainable_variables


def last_layers(model: Mask2Former) -> dict[str, list[keras.layers.Layer]]:
  """Returns the layer whose weights belong to the classes of one data set."""
  return {'semantic': [model.transformer_decoder.class_head]}


def build_criterion(config, dataset_info) -> Mask2FormerCriterion:
  """Returns the loss of the network's outputs; see losses.mask2former.

  Raises:
    ConfigError: An option of another mask loss is set.
  """
  del dataset_info
  losses = config.trainer_options.loss_options.mask2former_loss
  compared_at = {losses.POINTS: 'points', losses.MASKS: 'masks'}
  for name in ('focal_alpha', 'focal_gamma'):
    if losses.HasField(name) and losses.mask_loss != losses.FOCAL:
      raise ConfigError(
          f'trainer_options.loss_options.mask2former_loss.{name} is set, and mask_loss is '
          f'{losses.MaskLoss.Name(losses.mask_loss)}: remove it or set mask_loss to FOCAL')
  focal = Focal(losses.focal_alpha, losses.focal_gamma)
  comparison = ComparisonOptions(
      matching_at=compared_at[losses.matching_at], loss_at=compared_at[losses.loss_at],
      num_points=losses.num_points, oversample_ratio=losses.oversample_ratio,
      importance_sample_ratio=losses.importance_sample_ratio,
      focal=focal if losses.mask_loss == losses.FOCAL else None)
  return Mask2FormerCriterion(
      config.model_options.mask2former.num_queries, class_weight=losses.class_weight,
      mask_weight=losses.mask_weight, dice_weight=losses.dice_weight,
      no_object_weight=losses.no_object_weight, comparison=comparison,
      keep_empty_masks=config.train_dataset_options.keep_empty_masks,
      solver=models.matching_solver(config))


def build_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing of the network's outputs; see postprocessing."""
  return mask2former_panoptic.build(config.evaluator_options, dataset_info, static_shapes)


def build_instance_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing that finds instances; its shapes are always static."""
  del static_shapes
  return Mask2FormerInstances(dataset_info,
                              config.evaluator_options.mask2former_postprocessing.max_instances)


def build_semantic_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing that makes class maps.

  As in the released code, a model that was trained for this task resizes scores, and one that was
  trained for panoptic segmentation resizes mask logits. All shapes are static, except where scores
  are averaged over scales or mirrored images.
  """
  del static_shapes
  if config_lib.averages_resized_images(config):
    return AveragedScores(dataset_info, _score_passes.build(config))
  return Mask2FormerSemantic(dataset_info, resizes_scores=tasks.of(config) is Task.SEMANTIC)


ARCHITECTURE = Architecture(
    name='mask2former', build=build, build_criterion=build_criterion,
    postprocessors={Task.PANOPTIC: build_postprocessor,
                    Task.INSTANCE: build_instance_postprocessor,
                    Task.SEMANTIC: build_semantic_postprocessor}, parameter_groups=parameter_groups,
    inference_variables=inference_variables, last_layers=last_layers,
    target_form=TargetForm.MASK, masks_compete=False)
