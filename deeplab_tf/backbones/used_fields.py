"""Refuses BackboneOptions that a backbone would ignore."""

from typing import Collection

from deeplab_tf.user_errors import ConfigError

# Fields that every backbone takes. `pretrained_weights` is never used; a training says so when it
# starts.
_COMMON = ('name', 'pretrained_weights')


def check(options, used: Collection[str]) -> None:
  """Checks that options do not set what the backbone does not use.

  Args:
    options: BackboneOptions.
    used: Names of the fields that the backbone uses, besides its name.

  Raises:
    ConfigError: Another field is set, and not to its default.
  """
  for field, value in options.ListFields():
    if field.name in used or field.name in _COMMON:
      continue
    path = f'model_options.backbone.{field.name}'
    if field.message_type is not None:
      raise ConfigError(f'{path} is set, but {options.name} does not take it; remove it or choose '
                        'another backbone')
    if value != field.default_value:
      given, allowed = (_text(field, v) for v in (value, field.default_value))
      raise ConfigError(f'{path} is {given}: {options.name} allows only {allowed}; remove it or '
                        'choose another backbone')


def recomputes_blocks(options) -> bool:
  """Returns whether each block is recomputed in the backward pass, for a network without groups.

  Args:
    options: BackboneOptions.

  Raises:
    ConfigError: Something else is to be recomputed.
  """
  if options.recomputed not in (options.NOTHING, options.BLOCKS):
    given = options.Recomputation.Name(options.recomputed)
    raise ConfigError(f'model_options.backbone.recomputed is {given}: {options.name} allows '
                      'NOTHING, BLOCKS')
  return options.recomputed == options.BLOCKS


def stage_numbers(options, message: str, field: str, default: tuple[int, ...]) -> tuple[int, ...]:
  """Returns a number for each of the four stages.

  Args:
    options: BackboneOptions.
    message: Name of the message with the options of the variant, e.g. 'swin'.
    field: Name of a repeated field of the message.
    default: Numbers of the variant, for a field that is not set.

  Raises:
    ConfigError: The field has not four numbers.
  """
  numbers = tuple(getattr(getattr(options, message), field)) or default
  if len(numbers) != 4:
    raise ConfigError(f'model_options.backbone.{message}.{field} has {len(numbers)} numbers: give '
                      f'one for each of the 4 stages, e.g. {list(default)}')
  return numbers


def _text(field, value):
  if field.enum_type is not None:
    return field.enum_type.values_by_number[value].name
  if isinstance(value, str):
    return f'"{value}"'
  return str(value).lower() if isinstance(value, bool) else f'{value:g}'
