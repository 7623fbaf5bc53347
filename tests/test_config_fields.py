"""A config may have the values that the protos state beside each field."""

import pytest
from google.protobuf import descriptor

from deeplab_tf import config_fields
from deeplab_tf.protos import config_pb2, field_options_pb2

RANGE, NUMBERS, CHOICES, UNSUPPORTED = (
    getattr(field_options_pb2, name) for name in ('range', 'numbers', 'choices', 'unsupported'))
TYPE = descriptor.FieldDescriptor


def _fields(message=config_pb2.ExperimentOptions.DESCRIPTOR, path=()):
  """Yields each field of the schema with its path, without those of messages that are refused."""
  for field in message.fields:
    yield (*path, field.name), field
    if field.message_type is not None and not field.GetOptions().Extensions[UNSUPPORTED]:
      yield from _fields(field.message_type, (*path, field.name))


FIELDS = list(_fields())


def _having(extension):
  """The fields that have an option, to parametrize a test."""
  found = [(path, field) for path, field in FIELDS
           if (bool(field.GetOptions().Extensions[extension]) if extension in (CHOICES, UNSUPPORTED)
               else field.GetOptions().HasExtension(extension))]
  assert found
  return pytest.mark.parametrize('path,field', found, ids=['.'.join(path) for path, _ in found])


def _problem(path, value=None):
  """What is wrong with a config in which one field is set."""
  config = config_pb2.ExperimentOptions()
  message = config
  for name in path[:-1]:
    repeated = message.DESCRIPTOR.fields_by_name[name].label == TYPE.LABEL_REPEATED
    message = getattr(message, name).add() if repeated else getattr(message, name)
    message.SetInParent()
  field = message.DESCRIPTOR.fields_by_name[path[-1]]
  if field.label == TYPE.LABEL_REPEATED:
    getattr(message, path[-1]).append(value)
  elif field.message_type is not None:
    getattr(message, path[-1]).SetInParent()
  else:
    setattr(message, path[-1], value)
  return config_fields.problem(config)


def test_every_default_is_allowed():
  for path, field in FIELDS:
    if field.has_default_value:
      assert _problem(path, field.default_value) is None, path


@_having(RANGE)
def test_a_number_outside_of_its_range_is_named(path, field):
  limits = field.GetOptions().Extensions[RANGE]
  assert limits.HasField('min') or limits.HasField('max')
  is_whole = field.cpp_type != TYPE.CPPTYPE_FLOAT
  for name, step in (('min', -1), ('max', 1)):
    if not limits.HasField(name):
      continue
    end = getattr(limits, name)
    end, beyond = (int(end), int(end) + step) if is_whole else (end, end + step * 1e-3)
    # In float32 an end may lie just outside of the range.
    assert _problem(path, end if is_whole else end - step * 1e-6) is None
    verb = 'has' if field.label == TYPE.LABEL_REPEATED else 'is'
    message = _problem(path, beyond)
    assert message.startswith(f'{".".join(path)} {verb} {beyond:g}: it must be ')
    assert f'{limits.min:g}' in message
    assert (f'to {limits.max:g}' in message) == limits.HasField('max')


@_having(NUMBERS)
def test_a_number_that_is_not_listed_is_named(path, field):
  numbers = field.GetOptions().Extensions[NUMBERS]
  for value in numbers.value:
    assert _problem(path, value) is None
  first, *others = (str(value) for value in numbers.value)
  first += f' ({numbers.first_means})' if numbers.first_means else ''
  assert _problem(path, 7) == f'{".".join(path)} is 7: allowed are {", ".join([first, *others])}'


@_having(CHOICES)
def test_a_string_that_is_no_choice_is_named_with_the_nearest(path, field):
  choices = field.GetOptions().Extensions[CHOICES]
  path = path if field.message_type is None else (*path, 'name')
  for value in choices:
    assert _problem(path, value) is None
  allowed = ', '.join(f"'{choice}'" for choice in choices)
  wrong = choices[0] + 'x'
  assert _problem(path, wrong) == (f'{".".join(path)} is "{wrong}": allowed are {allowed}. Did you '
                                   f'mean "{choices[0]}"?')


@_having(UNSUPPORTED)
def test_what_this_library_does_not_do_is_refused_where_it_is_asked_for(path, field):
  values = {TYPE.TYPE_BOOL: True, TYPE.TYPE_STRING: 'a'}
  purpose = field.GetOptions().Extensions[UNSUPPORTED]
  message = f'{".".join(path)} is for {purpose}, which this library does not support; remove it'
  assert _problem(path, values.get(field.type)) == message
  if field.type == TYPE.TYPE_BOOL:
    assert _problem(path, False) is None


def test_a_loss_without_a_name_has_the_usual_one():
  assert _problem(('trainer_options', 'loss_options', 'center_loss', 'name'), '') is None


def test_messages_are_found_in_lists_and_by_their_path():
  config = config_pb2.ExperimentOptions()
  options = config.model_options.max_deeplab
  for channels in (1, 2):
    options.auxiliary_low_level.add(channels_project=channels)
  found = [(path, message) for path, message in config_fields.messages(config)
           if message.DESCRIPTOR.name == 'LowLevelOptions']
  assert [message.channels_project for _, message in found] == [1, 2]
  assert {path for path, _ in found} == {'model_options.max_deeplab.auxiliary_low_level'}
  assert not options.HasField('pixel_space_head'), 'looking changes nothing'


@pytest.mark.parametrize('name,verb', [('sigma', 'is'), ('eval_scales', 'has')])
def test_numbers_are_finite(name, verb):
  path = ({'sigma': 'train_dataset_options'}.get(name, 'evaluator_options'), name)
  assert _problem(path, float('nan')) == (f'{".".join(path)} {verb} nan: it must be a finite '
                                          'number')
