"""Reads an experiment from a textproto, merges overrides and checks that it makes sense.

protobuf tells the line of a syntax error or an unknown name; errors of meaning name the file
and the field.
"""

import os
import re
from typing import Sequence

from google.protobuf import descriptor as descriptor_lib
from google.protobuf import message as message_lib
from google.protobuf import text_format

from deeplab_tf import modules
from deeplab_tf.protos import config_pb2

_PLACEHOLDER = re.compile(r'\$\{\w+\}')
_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "(\w+)"')
_UNKNOWN_ENUM = re.compile(r'Enum type "([\w.]+)" has no value named (\w+)')
_POSITION = re.compile(r'^(\d+):\d+ : ')


class ConfigError(ValueError):
  """A config that cannot be used; the message is one line for the user."""


def load_config(path: str, overrides: Sequence[str] = ()) -> config_pb2.ExperimentOptions:
  """Reads an experiment.

  Args:
    path: A textproto of ExperimentOptions.
    overrides: Textprotos merged over the file in order: the last wins, and a repeated field
      replaces the file's.

  Returns:
    The experiment, checked.

  Raises:
    ConfigError: The file is missing, does not parse or does not make sense. One line with file,
      line where known, field, and what is allowed.
  """
  path = os.fspath(path)
  try:
    with open(path, encoding='utf-8') as file:
      text = file.read()
  except IsADirectoryError:
    raise ConfigError(f'{path}: is a folder; --config_file takes a .textproto file') from None
  except UnicodeDecodeError:
    raise ConfigError(f'{path}: is no text file; --config_file takes a .textproto file') from None
  except FileNotFoundError:
    raise ConfigError(f'{path}: no such file.{_nearest_file(path)}') from None
  config = _parse(text, path)
  for override in overrides:
    _merge(config, _parse(override, f'--override={override!r}'))
  validate(config, path)
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


def validate(config: config_pb2.ExperimentOptions, path: str) -> None:
  """Raises ConfigError where values contradict each other; names the file and the field."""
  for check in (_check_architecture, _check_backbone, _check_data, _check_solver, _check_choices,
                _check_ranges):
    message = check(config)
    if message:
      raise ConfigError(f'{path}: {message}')


# --- Parsing ----------------------------------------------------------------------------------


def _parse(text: str, source: str) -> config_pb2.ExperimentOptions:
  message = config_pb2.ExperimentOptions()
  try:
    text_format.Parse(text, message)
  except text_format.ParseError as error:
    raise ConfigError(f'{source}{_explain(str(error))}') from None
  return message


def _explain(error: str) -> str:
  """Turns protobuf's 'line:column : text' into ':line: text' with the nearest valid name."""
  position = _POSITION.match(error)
  line = f':{position.group(1)}' if position else ''
  text = _POSITION.sub('', error).strip()
  field = _UNKNOWN_FIELD.search(text)
  enum = _UNKNOWN_ENUM.search(text)
  if field:
    names = list(_find_message(field.group(1)).fields_by_name)
    text = (f'unknown field "{field.group(2)}" in {_short(field.group(1))}.'
            f'{modules.nearest(field.group(2), names) or " It has: " + ", ".join(names) + "."}')
  elif enum:
    names = list(_find_enum(enum.group(1)).values_by_name)
    text = (f'unknown value "{enum.group(2)}" of {_short(enum.group(1))}: allowed are '
            f'{", ".join(names)}.{modules.nearest(enum.group(2), names)}')
  return f'{line}: {text}'


def _find_message(full_name: str):
  return config_pb2.DESCRIPTOR.pool.FindMessageTypeByName(full_name)


def _find_enum(full_name: str):
  return config_pb2.DESCRIPTOR.pool.FindEnumTypeByName(full_name)


def _short(full_name: str) -> str:
  return full_name.split('.', 1)[1]


def _merge(target: message_lib.Message, source: message_lib.Message) -> None:
  """Merges source into target; repeated fields and other members of a oneof are replaced."""
  for field, value in source.ListFields():
    if field.label == descriptor_lib.FieldDescriptor.LABEL_REPEATED:
      target.ClearField(field.name)
      getattr(target, field.name).MergeFrom(value)
    elif field.message_type is not None:
      _merge_message(getattr(target, field.name), value)
    else:
      setattr(target, field.name, value)


def _merge_message(target: message_lib.Message, source: message_lib.Message) -> None:
  target.SetInParent()
  _merge(target, source)


def _nearest_file(path: str) -> str:
  folder = os.path.dirname(path) or '.'
  if not os.path.isdir(folder):
    return f' The folder {folder} does not exist either.'
  names = [name for name in os.listdir(folder) if name.endswith('.textproto')]
  return modules.nearest(os.path.basename(path), names)


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

# Closed choices that DeepLab2 keeps as strings; every other closed choice is an enum.
_CHOICES = {
    'model_options.backbone.drop_path_schedule': ('constant', 'linear'),
    'model_options.decoder.decoder_conv_type': ('depthwise_separable_conv', 'standard_conv'),
    'trainer_options.solver_options.learning_policy': ('poly', 'cosine'),
    'trainer_options.solver_options.optimizer': ('adam', 'adamw', 'sgd', 'radam_lookahead'),
    'trainer_options.loss_options.semantic_loss.name': ('', 'softmax_cross_entropy'),
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
    'evaluator_options.transformer_class_confidence_threshold': (0, 1),
    'evaluator_options.pixel_confidence_threshold': (0, 1),
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
  for options in ('train_dataset_options', 'eval_dataset_options'):
    for size in getattr(config, options).crop_size:
      if size < backbone.output_stride:
        return (f'{options}.crop_size has {size}, smaller than '
                f'model_options.backbone.output_stride {backbone.output_stride}')
  return None


def _check_data(config):
  for options in ('train_dataset_options', 'eval_dataset_options'):
    dataset = getattr(config, options)
    if len(dataset.crop_size) not in (0, 2):
      return (f'{options}.crop_size has {len(dataset.crop_size)} values; it takes two, height '
              'and width')
    for name in ('min_resize_value', 'max_resize_value'):
      if len(getattr(dataset, name)) > 2:
        return f'{options}.{name} has more than two values; it takes one, or height and width'
    largest = list(dataset.max_resize_value)
    limits = zip(largest * 2 if len(largest) == 1 else largest, dataset.crop_size)
    for value, crop in limits:
      if value > crop:
        return (f'{options}.max_resize_value {value} is larger than crop_size {crop}: a resized '
                'image would not fit')
    scales = dataset.augmentations
    if not 0 < scales.min_scale_factor <= scales.max_scale_factor:
      return (f'{options}.augmentations: min_scale_factor {scales.min_scale_factor:g} must be '
              f'positive and at most max_scale_factor {scales.max_scale_factor:g}')
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
