"""Loads an experiment from textprotos (see config_text) with overrides, and checks it.

Syntax errors and unknown names are reported with file and line, invalid values with file and field.
"""

import os
import re
from typing import Sequence

from deeplab_tf import config_fields, config_sizes, config_text, modules
from deeplab_tf.config_text import ConfigError
from deeplab_tf.protos import config_pb2, model_pb2

_PLACEHOLDER = re.compile(r'\$\{\w+\}')


def load_config(path: str, overrides: Sequence[str] = ()) -> config_pb2.ExperimentOptions:
  """Reads an experiment.

  A file that sets `base_config` is merged over that file, which may have a base as well. Messages
  are merged; a repeated field and the architecture are replaced. The fields listed in `clear` are
  removed from the base before the merge.

  Args:
    path: Path of a textproto of ExperimentOptions.
    overrides: Textprotos that are merged over the file in order. They may contain `clear`, but not
      `base_config`.

  Returns:
    The complete, checked experiment, without base_config and clear.

  Raises:
    ConfigError: A file is missing, cannot be parsed or contains invalid values. The message is one
      line with file, line if known, field, and what is allowed.
  """
  config, files = config_text.read(os.fspath(path))
  return overridden(config, overrides, files)


def overridden(config: config_pb2.ExperimentOptions, overrides: Sequence[str],
               path: str) -> config_pb2.ExperimentOptions:
  """Merges overrides into an experiment, which is modified, and checks it.

  Args:
    config: The experiment.
    overrides: See `load_config`.
    path: Path of the experiment, for messages.

  Returns:
    The experiment.

  Raises:
    ConfigError: An override cannot be parsed, or a value is invalid.
  """
  for override in overrides:
    config_text.override(config, override)
  validate(config, path)
  return config


def require_value(value: str, field: str) -> str:
  """Returns the value of a field that is about to be used.

  Raises:
    ConfigError: The value contains a placeholder such as "${TRAIN_SET}".
  """
  match = _PLACEHOLDER.search(value)
  if match:
    raise ConfigError(f'{field} is the placeholder "{match.group(0)}": set it in the config file '
                      f'or with --override')
  return value


def classifies_images(config: config_pb2.ExperimentOptions) -> bool:
  """Returns whether the experiment is image classification, to pre-train a backbone."""
  return config.model_options.WhichOneof('meta_architecture') == 'classification'


def require_segmentation(config: config_pb2.ExperimentOptions, purpose: str) -> None:
  """Raises ConfigError if an experiment is image classification.

  Args:
    config: The experiment.
    purpose: Name of the operation, which is for segmentation only, e.g. 'export'.
  """
  if classifies_images(config):
    raise ConfigError(f'model_options.classification classifies whole images, and {purpose} is for '
                      'segmentation: use the config of a segmentation model; its '
                      'model_options.initial_checkpoint takes over a pre-trained backbone')


def averages_predictions(config: config_pb2.ExperimentOptions) -> bool:
  """Returns whether predictions are averaged over input scales or mirrored images."""
  options = config.evaluator_options
  return options.add_flipped_images or list(options.eval_scales) not in ([], [1.0])


def averages_resized_images(config: config_pb2.ExperimentOptions) -> bool:
  """Returns whether predictions are averaged, and each of them starts at the image's file.

  panoptic_deeplab resizes the network's input instead.
  """
  return (averages_predictions(config)
          and config.model_options.WhichOneof('meta_architecture') == 'mask2former')


def validate(config: config_pb2.ExperimentOptions, path: str) -> None:
  """Checks that each value is allowed by the protos, and that values do not contradict each other.

  What depends on a single model is checked by the `build` functions of its module.

  Args:
    config: The experiment.
    path: Path of the experiment, for messages.

  Raises:
    ConfigError: A value is invalid. The message is one line with the path, the field and what is
      allowed.
  """
  for check in (_check_architecture, config_fields.problem, _check_backbone, _check_decoders,
                config_sizes.check, _check_task, _check_targets, _check_solver, _check_evaluation):
    message = check(config)
    if message:
      raise ConfigError(f'{path}: {message}')


# --- Contradictions ---------------------------------------------------------------------------

# Data sets whose images have one class each; all others have masks.
IMAGE_CLASS_DATASETS = ('image_folders', 'imagenet')

# (message, field) of fields that have no meaning for image classification.
_FOR_SEGMENTATION = (
    *((f'{options}_dataset_options', field) for options in ('train', 'eval')
      for field in ('min_resize_value', 'max_resize_value', 'resize_factor', 'resize_rule',
                    'size_divisor', 'decode_groundtruth_label')),
    *(('train_dataset_options.augmentations', field)
      for field in ('min_scale_factor', 'max_scale_factor', 'panoptic_copy_paste')),
    ('evaluator_options', 'save_predictions'),
    ('evaluator_options', 'save_raw_predictions'),
)


def _get(config, path: str):
  """Returns the value of a field by its dotted path; the default if a message is absent."""
  value = config
  for name in path.split('.'):
    value = getattr(value, name)
  return value


def _check_architecture(config):
  name = config.model_options.WhichOneof('meta_architecture')
  available = modules.available('models')
  if name is None:
    return f'model_options: no architecture is set; set one of {", ".join(available)}'
  purpose = config_fields.unsupported(config.model_options, name)
  if purpose:
    return (f'model_options.{name} is for {purpose}, which this library does not support; set one '
            f'of {", ".join(available)}')
  if name not in available:
    return f'model_options.{name} is not available; set one of {", ".join(available)}'
  return None


def _check_backbone(config):
  backbone = config.model_options.backbone
  # Variants that cannot attend over whole axes require a positive span when they are built.
  span = backbone.attention.span
  if span < 0 or span and span % 2 == 0:
    return (f'model_options.backbone.attention.span is {span}: it must be an odd number, so that '
            'the query is in the middle, or 0 for all positions')
  for options in ('train_dataset_options', 'eval_dataset_options'):
    for size in getattr(config, options).crop_size:
      if size < backbone.output_stride:
        return (f'{options}.crop_size has {size}, smaller than '
                f'model_options.backbone.output_stride {backbone.output_stride}')
  return None


def _check_decoders(config):
  for path, message in config_fields.messages(config):
    if (isinstance(message, model_pb2.DecoderOptions) and message.skip_aspp
        and message.aspp_use_only_1x1_proj_conv):
      return (f'{path} has skip_aspp and aspp_use_only_1x1_proj_conv, which both stand in place of '
              'ASPP: remove one')
  return None


def _check_task(config):
  """Checks that data and options fit the task of the architecture."""
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
    if config_fields.is_set(config.train_dataset_options.augmentations, 'min_crop_area'):
      return ('train_dataset_options.augmentations.min_crop_area is for image classification; '
              'segmentation has min_scale_factor and crop_size')
    return None
  for path, field in _FOR_SEGMENTATION:
    if config_fields.is_set(_get(config, path), field):
      return f'{path}.{field} is for segmentation, and {model} classifies whole images; remove it'
  return None


def _check_targets(config):
  """Checks that empty masks are kept only where they can be made and are used."""
  path, options = 'train_dataset_options', config.train_dataset_options
  name = config.model_options.WhichOneof('meta_architecture')
  if options.keep_empty_masks and name != 'mask2former':
    return f'{path}.keep_empty_masks is for mask2former; model_options has {name}: remove it'
  paste = options.augmentations.panoptic_copy_paste
  if options.keep_empty_masks and paste.panoptic_copy_paste_scale:
    return (f'{path} has keep_empty_masks and augmentations.panoptic_copy_paste, which adds '
            'segments that the image does not have: remove one of them')
  if config.eval_dataset_options.keep_empty_masks:
    return 'eval_dataset_options.keep_empty_masks is for training: remove it'
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


def _check_evaluation(config):
  """Checks that predictions are averaged only if the architecture supports it."""
  options, name = config.evaluator_options, config.model_options.WhichOneof('meta_architecture')
  if options.eval_max_resize_value and name != 'mask2former':
    return ('evaluator_options.eval_max_resize_value is for mask2former; model_options has '
            f'{name}: remove it')
  if not averages_predictions(config) or name == 'panoptic_deeplab':
    return None
  field = 'add_flipped_images' if options.add_flipped_images else 'eval_scales'
  if name != 'mask2former':
    return (f'evaluator_options.{field} averages predictions per pixel, which only '
            'panoptic_deeplab makes, and mask2former for task SEMANTIC; model_options has '
            f'{name}: remove it')
  return _check_averaged_scores(config, f'evaluator_options.{field}')


def _check_averaged_scores(config, field):
  """Checks what mask2former needs to average its class scores."""
  data = config.eval_dataset_options
  if config.task != config.SEMANTIC:
    return (f'{field} averages class scores, and task is {config.Task.Name(config.task)}: for '
            'mask2former set task to SEMANTIC, or remove it')
  if data.resize_rule != data.SHORTER_SIDE or not data.size_divisor:
    return (f'{field} resizes each image to several sizes, for which mask2former needs '
            'eval_dataset_options { resize_rule: SHORTER_SIDE size_divisor: 32 } without crop_size')
  if data.batch_size != 1:
    # A batch would be padded to its largest image before it is resized.
    return (f'{field} resizes each image to several sizes: set eval_dataset_options.batch_size, '
            f'which is {data.batch_size}, to 1')
  if config.trainer_options.jit_compile:
    return (f'{field} makes inputs of many sizes, which cannot be compiled: set '
            'trainer_options.jit_compile to false')
  return None
