"""Panoptic-DeepLab: semantic segmentation, centers of instances, offsets to them (CVPR 2020).

The network of figure 2: one backbone, a decoder and a head for the classes, another decoder with
two heads for the instances. Axial-DeepLab (ECCV 2020) is this network with an axial backbone.
Where the papers and DeepLab2 differ, it follows DeepLab2.

A semantic model (`task: SEMANTIC`) is the semantic branch alone.
"""

from typing import Optional

import tensorflow as tf

from deeplab_tf import architecture, backbones, models, tasks
from deeplab_tf.architecture import Architecture, ParameterGroup, TargetForm
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.config_text import ConfigError
from deeplab_tf.heads import convolution_head
from deeplab_tf.heads.convolution_head import ConvolutionHead
from deeplab_tf.losses.panoptic_deeplab import PanopticDeepLabCriterion
from deeplab_tf.models._keras_model import KerasModel
from deeplab_tf.pixel_decoders import aspp_decoder
from deeplab_tf.pixel_decoders.aspp_decoder import ASPPDecoder
from deeplab_tf.postprocessing import panoptic_deeplab
from deeplab_tf.postprocessing.panoptic_deeplab_semantic import PanopticDeepLabSemantic
from deeplab_tf.tasks import Task


class PanopticDeepLab(KerasModel):
  """The network; see `call` for what it returns.

  Attributes:
    dataset_info: The classes.
    backbone: Network from images to features.
    semantic_decoder, semantic_head: Layers of the semantic branch.
    instance_decoder, center_head, offset_head: Layers of the instance branch, or None.
  """

  def __init__(self, *,
               dataset_info: DatasetInfo,
               backbone: Backbone,
               semantic_decoder: ASPPDecoder,
               semantic_head: ConvolutionHead,
               instance_decoder: Optional[ASPPDecoder] = None,
               center_head: Optional[ConvolutionHead] = None,
               offset_head: Optional[ConvolutionHead] = None):
    # === Layers ===
    super().__init__(dataset_info)
    self.backbone = backbone
    self.semantic_decoder = semantic_decoder
    self.semantic_head = semantic_head
    self.instance_decoder = instance_decoder
    self.center_head = center_head
    self.offset_head = offset_head

  # === Forward pass ===

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Segments images.

    Args:
      images: [batch, height, width, 3], normalized by the config's `image_normalization`,
        by default to [-1, 1].
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      float32 `semantic_logits` [batch, h, w, number of classes] and, with an instance branch,
      `center_heatmap` [batch, h, w, 1], about 1 at the center of an instance, and
      `center_offsets` [batch, h, w, 2], (y, x) to the center in pixels of this map. h and w are
      those of the decoder's last low level, in published networks ceil(height / 4) and
      ceil(width / 4).
    """
    features = self.backbone(images, training=training)
    decoded = self.semantic_decoder(features, training=training)
    outputs = {'semantic_logits': self.semantic_head(decoded, training=training)}
    if self.instance_decoder is not None:
      decoded = self.instance_decoder(features, training=training)
      outputs['center_heatmap'] = self.center_head(decoded, training=training)
      outputs['center_offsets'] = self.offset_head(decoded, training=training)
    return {name: tf.cast(output, tf.float32) for name, output in outputs.items()}


# === From a config ===


def build(config, dataset_info: DatasetInfo, for_inference: bool = False) -> PanopticDeepLab:
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    for_inference: Not used: no part of the network is for training only.

  Raises:
    ValueError: The backbone or a feature is unknown; the message lists the known ones.
    ConfigError: The instance branch has no heads, or the task is SEMANTIC and there is an instance
      branch or a weight of small instances.
  """
  _check_task(config)
  model = _build(config, dataset_info)
  model.describe_by(config, for_inference)
  return model


def _check_task(config) -> None:
  if tasks.of(config) is not Task.SEMANTIC:
    return
  if config.model_options.panoptic_deeplab.instance.enable:
    raise ConfigError(
        'task is SEMANTIC and model_options.panoptic_deeplab.instance.enable is true: a semantic '
        'model has no instance branch; set enable to false and clear center_loss and '
        'regression_loss in trainer_options.loss_options, or clear task')
  if config.train_dataset_options.increase_small_instance_weights:
    raise ConfigError(
        'task is SEMANTIC and train_dataset_options.increase_small_instance_weights is true: the '
        'labels of a semantic model have no instances; set it to false')


def _build(config, dataset_info) -> PanopticDeepLab:
  model_options, options = config.model_options, config.model_options.panoptic_deeplab
  norm = models.norm_factory(config.trainer_options.solver_options)
  backbone = backbones.build(model_options.backbone, norm)

  def decoder(decoder_options, low_level):
    return aspp_decoder.build(decoder_options, low_level, backbone.features,
                              config.train_dataset_options.crop_size, norm)

  _check_head(options, 'semantic_head')
  semantic_decoder = decoder(model_options.decoder, options.low_level)
  semantic_head = convolution_head.build(options.semantic_head, semantic_decoder.channels, norm,
                                         dataset_info.num_classes)
  if not options.instance.enable:
    return PanopticDeepLab(dataset_info=dataset_info, backbone=backbone,
                           semantic_decoder=semantic_decoder, semantic_head=semantic_head)

  instance = options.instance
  _check_head(instance, 'center_head', 'instance.')
  _check_head(instance, 'regression_head', 'instance.')
  own = instance.HasField('instance_decoder_override')
  # As in DeepLab2, an override takes no options from the semantic decoder.
  instance_decoder = decoder(instance.instance_decoder_override if own else model_options.decoder,
                             instance.low_level_override or options.low_level)
  channels = instance_decoder.channels
  return PanopticDeepLab(
      dataset_info=dataset_info, backbone=backbone, semantic_decoder=semantic_decoder,
      semantic_head=semantic_head, instance_decoder=instance_decoder,
      center_head=convolution_head.build(instance.center_head, channels, norm, 1),
      offset_head=convolution_head.build(instance.regression_head, channels, norm, 2))


def _check_head(options, name: str, prefix: str = ''):
  if getattr(options, name).head_channels < 1:
    path = f'model_options.panoptic_deeplab.{prefix}'
    hint = f', or {path}enable to false' if prefix else ''
    raise ConfigError(f'{path}{name}.head_channels is not set: set it, e.g. to '
                      f'{32 if prefix else 256}{hint}')


def parameter_groups(model: PanopticDeepLab, solver) -> list[ParameterGroup]:
  """Returns the groups of the backbone, which is pre-trained, and of the other variables."""
  return architecture.parameter_groups(
      model.trainable_variables, model.backbone.trainable_variables,
      solver.backbone_learning_rate_multiplier)


def inference_variables(model: PanopticDeepLab) -> list[tf.Variable]:
  """Returns the trainable variables that inference uses: all."""
  return model.trainable_variables


def last_layers(model: PanopticDeepLab) -> dict[str, list[keras.layers.Layer]]:
  """Returns the final convolutions of the heads, by branch."""
  heads = [head for head in (model.center_head, model.offset_head) if head is not None]
  return {'semantic': [model.semantic_head.last], 'instance': [head.last for head in heads]}


def build_criterion(config, dataset_info) -> PanopticDeepLabCriterion:
  """Returns the loss of the network's outputs; see losses.panoptic_deeplab.

  Raises:
    ConfigError: A loss of the instance branch is set, and there is no such branch.
  """
  if not config.model_options.panoptic_deeplab.instance.enable:
    for name in ('center_loss', 'regression_loss'):
      if models.loss_term(config, name).weight:
        raise ConfigError(
            f'trainer_options.loss_options.{name} is set and '
            'model_options.panoptic_deeplab.instance.enable is false: there is no instance '
            'branch; clear one of the two')
  return PanopticDeepLabCriterion(
      dataset_info.ignore_label, models.loss_term(config, 'semantic_loss'),
      models.loss_term(config, 'center_loss'), models.loss_term(config, 'regression_loss'))


def build_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing of the network's outputs; its shapes are static in any case."""
  del static_shapes
  return panoptic_deeplab.build(config.evaluator_options, dataset_info)


def build_semantic_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the post-processing of a semantic model; its shapes are static in any case."""
  del config, dataset_info, static_shapes
  return PanopticDeepLabSemantic()


ARCHITECTURE = Architecture(
    name='panoptic_deeplab', build=build, build_criterion=build_criterion,
    postprocessors={Task.PANOPTIC: build_postprocessor,
                    Task.SEMANTIC: build_semantic_postprocessor}, parameter_groups=parameter_groups,
    inference_variables=inference_variables, last_layers=last_layers,
    target_form=TargetForm.CENTER)
