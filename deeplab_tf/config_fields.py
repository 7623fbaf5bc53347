"""Checks each field of a config by its options in the proto (protos/field_options.proto)."""

import math
from typing import Iterator, Optional

from google.protobuf import descriptor as descriptor_lib
from google.protobuf import message as message_lib

from deeplab_tf import modules
from deeplab_tf.protos import field_options_pb2


def messages(message: message_lib.Message,
             path: str = '') -> Iterator[tuple[str, message_lib.Message]]:
  """Yields a message and all messages that are set within it.

  Args:
    message: The message.
    path: Dotted path of the message.

  Yields:
    (dotted path, message); the elements of a repeated field share a path.
  """
  yield path, message
  for field, value in message.ListFields():
    if field.message_type is not None:
      for child in value if _is_repeated(field) else [value]:
        yield from messages(child, _join(path, field.name))


def problem(config: message_lib.Message) -> Optional[str]:
  """Finds the first field whose value is not allowed, among those that are set.

  Args:
    config: The message to check, with all messages within it.

  Returns:
    One line with the path of the field, its value and what is allowed; None if all are allowed.
  """
  for path, message in messages(config):
    for field, value in message.ListFields():
      found = _problem_of_field(message, field, value)
      if found:
        return f'{_join(path, field.name)}{found}'
  return None


def unsupported(message: message_lib.Message, name: str) -> str:
  """Returns the purpose of a DeepLab2 field that this library does not support, else ''."""
  field = message.DESCRIPTOR.fields_by_name[name]
  return field.GetOptions().Extensions[field_options_pb2.unsupported]


def is_set(message: message_lib.Message, name: str) -> bool:
  """Returns whether a field differs from its default, or, for a message, exists."""
  field = message.DESCRIPTOR.fields_by_name[name]
  if _is_repeated(field):
    return bool(len(getattr(message, name)))
  if field.message_type is None:
    return getattr(message, name) != field.default_value
  return message.HasField(name)


def _problem_of_field(message, field, value) -> Optional[str]:
  """Returns what is wrong, to be appended to the name of the field, or None."""
  purpose = unsupported(message, field.name)
  if purpose and is_set(message, field.name):
    return f' is for {purpose}, which this library does not support; remove it'
  options = field.GetOptions()
  if field.message_type is not None:
    choices = options.Extensions[field_options_pb2.choices]
    wrong = _problem_of_value(options, value.name) if choices and value.name else None
    return wrong and f'.name is {wrong}'
  verb = 'has' if _is_repeated(field) else 'is'
  for item in value if _is_repeated(field) else [value]:
    wrong = _problem_of_value(options, item)
    if wrong:
      return f' {verb} {wrong}'
  return None


def _problem_of_value(options, value) -> Optional[str]:
  """Returns the value and what is allowed instead, or None if it is allowed."""
  limits = options.Extensions[field_options_pb2.range]
  numbers = options.Extensions[field_options_pb2.numbers]
  choices = options.Extensions[field_options_pb2.choices]
  if limits.HasField('min') and value < limits.min or limits.HasField('max') and value > limits.max:
    return f'{value:g}: it must be {_range(limits)}'
  if numbers.value and value not in numbers.value:
    return f'{value}: allowed are {_numbers(numbers)}'
  if choices and value not in choices:
    return (f'"{value}": allowed are {", ".join(map(repr, choices))}.'
            f'{modules.nearest(value, choices)}')
  if isinstance(value, float) and not math.isfinite(value):
    return f'{value}: it must be a finite number'
  return None


def _range(limits: field_options_pb2.Range) -> str:
  if not limits.HasField('max'):
    return f'at least {limits.min:g}'
  if not limits.HasField('min'):
    return f'at most {limits.max:g}'
  return f'from {limits.min:g} to {limits.max:g}'


def _numbers(numbers: field_options_pb2.Numbers) -> str:
  meaning = f' ({numbers.first_means})' if numbers.first_means else ''
  first, *others = numbers.value
  return ', '.join([f'{first}{meaning}', *map(str, others)])


def _is_repeated(field: descriptor_lib.FieldDescriptor) -> bool:
  return field.label == descriptor_lib.FieldDescriptor.LABEL_REPEATED


def _join(path: str, name: str) -> str:
  return f'{path}.{name}' if path else name
