"""Loads an experiment: from textprotos (see config_text), with overrides, and checked.

protobuf tells the line of a syntax error or an unknown name; errors of meaning name the file
and the field.
"""

import math
import os
import re
from typing import Sequence

from google.protobuf import descriptor as descriptor_lib

from deeplab_tf import config_sizes, config_text, modules
from deeplab_tf.config_text import ConfigError
from deeplab_tf.protos import config_pb2

_PLACEHOLDER = re.compile(r'\$\{\w+\}')


def load_config(path: str, overrides: Sequence[str] = ()) -> config_pb2.ExperimentOptions:
  """Reads an experiment.

  A file that sets `base_config` is laid over that file, which may have a base as well. What is
  laid over wins: messages are merged, a repeated field replaces the one below, another
  architecture the one below, and the fields that `clear` lists are taken away from what lies
  below before.

  Args:
    path: A textproto of ExperimentOptions.
    overrides: Textprotos laid over the file in order: the last wins. They may `clear`, and may
      not name a base.

  Returns:
    The experiment, checked and complete: without base_config and clear.

  Raises:
    ConfigError: A file is missing, does not parse or does not make sense. One line with file,
      line where known, field, and what is allowed.
  """
  config, files = config_text.read(os.fspath(path))
  for override in overrides:
    config_text.override(config, override)
  validate(config, files)
  return config


def require_value(value: str, field: str) -> str:
  """Returns the value of a field that is about to be used.

  Raises:
    ConfigError: It still holds a placeholder such as "${TRAIN_SET}".
  """
  match = _PLACEHOLDER.search(value)
  if match:
    raise ConfigError(f'{field} is the placeholder "{match.group(0)}": set it in the config file '
                      f'or with --override')
  return value


def classifies_images(config: config_pb2.ExperimentOptions) -> bool:
  """Whether the experiment is image classification, to pre-train a backbone."""
  return config.model_options.WhichOneof('meta_architecture') == 'classification'


def require_segmentation(config: config_pb2.ExperimentOptions, purpose: str) -> None:
  """Raises ConfigError if a config is one of image classification.

  Args:
    config: The experiment.
    purpose: What is about to be done and is for segmentation, e.g. 'export'.
  """
  if classifies_images(config):
    raise ConfigError(f'model_options.classification classifies whole images, and {purpose} is for '
                      'segmentation: use the config of a segmentation model; its '
                      'model_options.initial_checkpoint takes over a pre-trained backbone')


def validate(config: config_pb2.ExperimentOptions, path: str) -> None:
  """Raises ConfigError where values contradict each other; names the file and the field."""
  for check in (_check_architecture, _check_backbone, _check_decoders, config_sizes.check,
                _check_task, _check_solver, _check_losses, _check_evaluation, _check_choices,
                _check_ranges, _check_finite):
    message = check(config)
    if message:
      raise ConfigError(f'{path}: {message}')


# --- Meaning ----------------------------------------------------------------------------------

_ARCHITECTURES_ELSEWHERE = {
    'deeplab_v3': 'semantic segmentation only',
    'deeplab_v3_plus': 'semantic segmentation only',
    'motion_deeplab': 'video',
    'vip_deeplab': 'video and depth',
}

# (message, field, what it is for): fields of DeepLab2 for what this library does not do.
_REFUSED = (
    ('train_dataset_options', 'use_two_frames', 'video'),
    ('train_dataset_options', 'use_next_frame', 'video'),
    ('train_dataset_options', 'cameras_to_use', 'multi-camera video'),
    ('eval_dataset_options', 'use_two_frames', 'video'),
    ('eval_dataset_options', 'use_next_frame', 'video'),
    ('eval_dataset_options', 'cameras_to_use', 'multi-camera video'),
    ('trainer_options.loss_options', 'motion_loss', 'video'),
    ('trainer_options.loss_options', 'next_regression_loss', 'video'),
    ('trainer_options.loss_options', 'depth_loss', 'depth'),
    ('model_options.panoptic_deeplab', 'depth_head', 'depth'),
    ('model_options.panoptic_deeplab.instance', 'next_regression_head', 'video'),
)

# Data sets whose images have one class each; all others have masks.
IMAGE_CLASS_DATASETS = ('image_folders', 'imagenet')

# (message, field): what has no meaning where whole images are classified.
_FOR_SEGMENTATION = (
    *((f'{options}_dataset_options', field) for options in ('train', 'eval')
      for field in ('min_resize_value', 'max_resize_value', 'resize_factor', 'resize_rule',
                    'size_divisor', 'decode_groundtruth_label')),
    *(('train_dataset_options.augmentations', field)
      for field in ('min_scale_factor', 'max_scale_factor', 'panoptic_copy_paste')),
    ('evaluator_options', 'save_predictions'),
    ('evaluator_options', 'save_raw_predictions'),
)

_DECODERS = ('model_options.decoder',
             'model_options.panoptic_deeplab.instance.instance_decoder_override')
_CONVOLUTIONS = ('depthwise_separable_conv', 'standard_conv')

# Closed choices that DeepLab2 keeps as strings; every other closed choice is an enum.
_CHOICES = {
    'model_options.backbone.drop_path_schedule': ('constant', 'linear'),
    'model_options.decoder.decoder_conv_type': _CONVOLUTIONS,
    **{f'{decoder}.aspp_conv_type': _CONVOLUTIONS for decoder in _DECODERS},
    'trainer_options.solver_options.learning_policy': ('poly', 'cosine'),
    'trainer_options.solver_options.optimizer': ('adam', 'adamw', 'sgd', 'radam_lookahead'),
    'trainer_options.loss_options.semantic_loss.name': ('', 'softmax_cross_entropy'),
    'trainer_options.loss_options.center_loss.name': ('', 'mse'),
    'trainer_options.loss_options.regression_loss.name': ('', 'l1'),
    'evaluator_options.transformer_post_processing': ('pixelwise', 'maskwise'),
    'evaluator_options.raw_panoptic_format':
        ('two_channel_png', 'three_channel_png', 'two_channel_numpy_array'),
    'train_dataset_options.shapes.split': ('train', 'val'),
    'eval_dataset_options.shapes.split': ('train', 'val'),
}

# field: (smallest, largest); None is no limit.
_RANGES = {
    'model_options.backbone.drop_path_keep_prob': (1e-3, 1),
    'model_options.backbone.stem_width_multiplier': (1e-3, None),
    'model_options.backbone.backbone_width_multiplier': (1e-3, None),
    'model_options.backbone.backbone_layer_multiplier': (1e-3, None),
    'model_options.max_deeplab.num_queries': (1, None),
    'model_options.max_deeplab.memory_channels': (0, None),
    'model_options.max_deeplab.transformer_channels': (0, None),
    'model_options.max_deeplab.feed_forward_channels': (1, None),
    'model_options.max_deeplab.num_decoder_stacks': (0, None),
    'model_options.max_deeplab.num_backbone_decoder_stacks': (0, None),
    'model_options.max_deeplab.decoder_blocks_per_stage': (0, None),
    'model_options.classification.dropout_rate': (0, 0.999),
    'trainer_options.loss_options.classification_loss.weight': (1e-6, None),
    'trainer_options.loss_options.classification_loss.label_smoothing': (0, 0.999),
    'trainer_options.num_checkpoints_to_keep': (1, None),
    'trainer_options.gradient_accumulation_steps': (1, None),
    'trainer_options.ema_decay': (0, 0.999999),
    'trainer_options.max_skipped_steps': (0, None),
    'trainer_options.solver_options.learning_rate_batch_size': (0, None),
    'trainer_options.save_checkpoints_steps': (1, None),
    'trainer_options.save_summaries_steps': (1, None),
    'trainer_options.steps_per_loop': (1, None),
    'trainer_options.solver_options.base_learning_rate': (0, None),
    'trainer_options.solver_options.warmup_steps': (0, None),
    'trainer_options.solver_options.training_number_of_steps': (1, None),
    'trainer_options.solver_options.batchnorm_momentum': (0, 1),
    'trainer_options.solver_options.clip_gradient_norm': (0, None),
    'train_dataset_options.batch_size': (1, None),
    'eval_dataset_options.batch_size': (1, None),
    'train_dataset_options.max_thing_id': (1, None),
    'train_dataset_options.max_damaged_images': (0, None),
    'eval_dataset_options.max_damaged_images': (0, None),
    'train_dataset_options.shapes.num_images': (1, None),
    'eval_dataset_options.shapes.num_images': (1, None),
    'train_dataset_options.imagenet.num_classes': (2, None),
    'eval_dataset_options.imagenet.num_classes': (2, None),
    'train_dataset_options.augmentations.min_crop_area': (1e-3, 1),
    'evaluator_options.transformer_class_confidence_threshold': (0, 1),
    'evaluator_options.pixel_confidence_threshold': (0, 1),
    'evaluator_options.center_score_threshold': (0, None),
    'evaluator_options.nms_kernel': (1, None),
    'evaluator_options.keep_k_centers': (1, None),
}


def _get(config, path: str):
  """Returns the value of a dotted field; defaults where messages are absent."""
  value = config
  for name in path.split('.'):
    value = getattr(value, name)
  return value


def _is_set(message, name: str) -> bool:
  field = message.DESCRIPTOR.fields_by_name[name]
  if field.label == descriptor_lib.FieldDescriptor.LABEL_REPEATED:
    return bool(len(getattr(message, name)))
  if field.message_type is None:
    return getattr(message, name) != field.default_value
  return message.HasField(name)


def _check_architecture(config):
  name = config.model_options.WhichOneof('meta_architecture')
  available = modules.available('models')
  if name is None:
    return f'model_options: no architecture is set; set one of {", ".join(available)}'
  if name in _ARCHITECTURES_ELSEWHERE:
    return (f'model_options.{name} is for {_ARCHITECTURES_ELSEWHERE[name]}, which this library '
            f'does not do; set one of {", ".join(available)}')
  if name not in available:
    return f'model_options.{name} is not available; set one of {", ".join(available)}'
  for path, field, purpose in _REFUSED:
    if _is_set(_get(config, path), field):
      return f'{path}.{field} is for {purpose}, which this library does not do; remove it'
  return None


def _check_backbone(config):
  backbone = config.model_options.backbone
  if backbone.output_stride not in (8, 16, 32):
    return (f'model_options.backbone.output_stride is {backbone.output_stride}: allowed are '
            '8, 16, 32')
  if backbone.use_sac_beyond_stride not in (-1, 2, 4, 8, 16, 32):
    return ('model_options.backbone.use_sac_beyond_stride is '
            f'{backbone.use_sac_beyond_stride}: allowed are -1 (none), 2, 4, 8, 16, 32')
  # Of the variants that have no attention over whole axes, building says that it must be positive.
  span = backbone.attention.span
  if span < 0 or span and span % 2 == 0:
    return (f'model_options.backbone.attention.span is {span}: it must be an odd number, so that '
            'the query is in the middle, or 0 for all positions')
  if backbone.attention.HasField('num_heads') and backbone.attention.num_heads < 1:
    return (f'model_options.backbone.attention.num_heads is {backbone.attention.num_heads}: it '
            'must be at least 1')
  beyond = config.model_options.max_deeplab.transformer_beyond_stride
  if beyond not in (0, 4, 8, 16, 32):
    return (f'model_options.max_deeplab.transformer_beyond_stride is {beyond}: allowed are 0 (as '
            'the backbone says), 4, 8, 16, 32')
  for options in ('train_dataset_options', 'eval_dataset_options'):
    for size in getattr(config, options).crop_size:
      if size < backbone.output_stride:
        return (f'{options}.crop_size has {size}, smaller than '
                f'model_options.backbone.output_stride {backbone.output_stride}')
  return None


def _check_decoders(config):
  for path in _DECODERS:
    decoder = _get(config, path)
    if decoder.skip_aspp and decoder.aspp_use_only_1x1_proj_conv:
      return (f'{path} has skip_aspp and aspp_use_only_1x1_proj_conv, which both stand in place of '
              'ASPP: remove one')
  return None


def _check_task(config):
  """Checks that data and options are for what the architecture does."""
  model = f'model_options.{config.model_options.WhichOneof("meta_architecture")}'
  classifies = classifies_images(config)
  for options in ('train_dataset_options', 'eval_dataset_options'):
    name = getattr(config, options).dataset
    has_classes = name in IMAGE_CLASS_DATASETS
    if name and has_classes != classifies:
      wanted = ('one class per image: ' + ' or '.join(IMAGE_CLASS_DATASETS) if classifies
                else 'masks; one class per image is for model_options.classification')
      return f'{options}.dataset is "{name}", and {model} needs data with {wanted}'
  if not classifies:
    if _is_set(config.train_dataset_options.augmentations, 'min_crop_area'):
      return ('train_dataset_options.augmentations.min_crop_area is for image classification; '
              'segmentation has min_scale_factor and crop_size')
    return None
  for path, field in _FOR_SEGMENTATION:
    if _is_set(_get(config, path), field):
      return f'{path}.{field} is for segmentation, and {model} classifies whole images; remove it'
  return None


def _check_solver(config):
  solver = config.trainer_options.solver_options
  path = 'trainer_options.solver_options'
  if solver.warmup_steps > solver.training_number_of_steps:
    return (f'{path}.warmup_steps {solver.warmup_steps} is more than training_number_of_steps '
            f'{solver.training_number_of_steps}')
  losses = config.trainer_options.loss_options
  scipy = losses.MatchingSolver.Value('SCIPY')
  if config.trainer_options.jit_compile and losses.matching_solver == scipy:
    return ('trainer_options.loss_options.matching_solver SCIPY cannot be compiled: set it to '
            'NATIVE, or trainer_options.jit_compile to false')
  return None


def _check_losses(config):
  """Checks that the network has an output for each loss; all but these it has always."""
  model, losses = config.model_options, config.trainer_options.loss_options
  has_term = losses.HasField('semantic_loss') and losses.semantic_loss.weight
  if (model.WhichOneof('meta_architecture') == 'max_deeplab' and has_term
      and not model.max_deeplab.HasField('auxiliary_semantic_head')):
    return ('trainer_options.loss_options.semantic_loss has weight '
            f'{losses.semantic_loss.weight:g} and needs model_options.max_deeplab.'
            'auxiliary_semantic_head, which is not set: set it, or clear semantic_loss')
  if (model.WhichOneof('meta_architecture') == 'panoptic_deeplab'
      and not model.panoptic_deeplab.instance.enable):
    for name in ('center_loss', 'regression_loss'):
      if losses.HasField(name) and getattr(losses, name).weight:
        return (f'trainer_options.loss_options.{name} is set and '
                'model_options.panoptic_deeplab.instance.enable is false: there is no instance '
                'branch; clear one of the two')
  return None


def _check_evaluation(config):
  """Checks that predictions are averaged where that is possible."""
  options, name = config.evaluator_options, config.model_options.WhichOneof('meta_architecture')
  for scale in options.eval_scales:
    if not 0.1 <= scale <= 10:
      return f'evaluator_options.eval_scales has {scale:g}: it must be from 0.1 to 10'
  averages = {'add_flipped_images': options.add_flipped_images,
              'eval_scales': any(scale != 1 for scale in options.eval_scales)}
  for field, is_set in averages.items():
    if is_set and name != 'panoptic_deeplab':
      return (f'evaluator_options.{field} averages predictions per pixel, which only '
              f'panoptic_deeplab makes; model_options has {name}: remove it')
  return None


def _check_choices(config):
  for path, allowed in _CHOICES.items():
    value = _get(config, path)
    if value not in allowed:
      return (f'{path} is "{value}": allowed are {", ".join(repr(a) for a in allowed if a)}.'
              f'{modules.nearest(value, allowed)}')
  return None


def _check_ranges(config):
  for path, (smallest, largest) in _RANGES.items():
    value = _get(config, path)
    if value < smallest or (largest is not None and value > largest):
      allowed = f'at least {smallest}' if largest is None else f'from {smallest} to {largest}'
      return f'{path} is {value:g}: it must be {allowed}'
  return None


def _check_finite(message, path=''):
  """Checks that no number anywhere is infinite or not a number."""
  for field, value in message.ListFields():
    where = f'{path}{field.name}'
    is_repeated = field.label == descriptor_lib.FieldDescriptor.LABEL_REPEATED
    for item in value if is_repeated else [value]:
      problem = None
      if field.message_type is not None:
        problem = _check_finite(item, f'{where}.')
      elif isinstance(item, float) and not math.isfinite(item):
        problem = f'{where} is {item}: it must be a finite number'
      if problem:
        return problem
  return None
