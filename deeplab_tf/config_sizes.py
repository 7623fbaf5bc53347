"""Checks that the sizes in DatasetOptions do not contradict each other."""

from typing import Optional


def check(config) -> Optional[str]:
  """Returns one line that says what is wrong with an experiment's image sizes, or None."""
  for field in ('train_dataset_options', 'eval_dataset_options'):
    options = getattr(config, field)
    message = _check_lengths(options) or _check_limits(options) or _check_rule(options)
    if not message and field == 'train_dataset_options':
      message = _check_training(options)
    if message:
      return f'{field}{message}'
  return None


def _check_lengths(options):
  if len(options.crop_size) not in (0, 2):
    return f'.crop_size has {len(options.crop_size)} values; it takes two, height and width'
  for name in ('min_resize_value', 'max_resize_value'):
    if len(getattr(options, name)) > 2:
      return f'.{name} has more than two values; it takes one, or height and width'
  return None


def _check_limits(options):
  largest = list(options.max_resize_value)
  for value, crop in zip(largest * 2 if len(largest) == 1 else largest, options.crop_size):
    # With the other rule images are scaled down until they fit into the crop.
    if value > crop and options.resize_rule == options.DEEPLAB2:
      return (f'.max_resize_value {value} is larger than crop_size {crop}: a resized image would '
              'not fit')
  scales = options.augmentations
  if not 0 < scales.min_scale_factor <= scales.max_scale_factor:
    return (f'.augmentations: min_scale_factor {scales.min_scale_factor:g} must be positive and at '
            f'most max_scale_factor {scales.max_scale_factor:g}')
  return None


def _check_rule(options):
  if options.size_divisor < 0:
    return f'.size_divisor is {options.size_divisor}: it must be at least 1, or 0 for crop_size'
  if options.size_divisor and options.crop_size:
    return (' has crop_size and size_divisor, which is for images of any size: set one of them, '
            'and clear the other')
  if options.resize_rule == options.DEEPLAB2:
    return None
  smallest, largest = list(options.min_resize_value), list(options.max_resize_value)
  if len(smallest) != 1 or smallest[0] < 1 or len(largest) > 1 or min(largest, default=0) < 0:
    return (f'.resize_rule SHORTER_SIDE has min_resize_value {smallest} and max_resize_value '
            f'{largest}: it takes one length of the shorter side, and one limit of the longer '
            'side or none')
  if options.resize_factor:
    return '.resize_factor is for resize_rule DEEPLAB2: clear it, or resize_rule'
  return None


def _check_training(options):
  for name in ('resize_rule', 'size_divisor'):
    if getattr(options, name):
      return (f'.{name} is for evaluation: remove it; a training has augmentations '
              '{ random_shorter_side } and crop_size')
  return None
