"""Every module of models describes its architecture completely."""

import dataclasses
import inspect

import pytest

from deeplab_tf import modules
from deeplab_tf.architecture import Architecture, TargetForm
from deeplab_tf.models._keras_model import KerasModel
from deeplab_tf.protos import model_pb2
from deeplab_tf.tasks import Task

NAMES = modules.available('models')


@pytest.fixture(name='module', params=NAMES)
def fixture_module(request):
  return modules.load('models', request.param)


def test_every_module_is_a_field_of_the_schema():
  # DeepLab2's other architectures are fields too, and are refused by name.
  fields = model_pb2.ModelOptions.DESCRIPTOR.oneofs_by_name['meta_architecture'].fields
  assert set(NAMES) <= {field.name for field in fields}


def test_it_is_described(module):
  found = module.ARCHITECTURE
  assert isinstance(found, Architecture)
  assert found.name == module.__name__.split('.')[-1]
  for field in dataclasses.fields(found):
    value = getattr(found, field.name)
    assert value is not None, field.name
    if field.type is not bool and callable(value):
      assert value.__module__ == module.__name__ and value.__doc__, field.name
  assert isinstance(found.target_form, TargetForm)
  assert found.postprocessors and all(isinstance(task, Task) for task in found.postprocessors)
  if not found.has_queries:
    assert not found.masks_compete


def test_functions_take_what_the_library_hands_them(module):
  found = module.ARCHITECTURE
  parameters = inspect.signature(found.build).parameters
  assert list(parameters) == ['config', 'dataset_info', 'for_inference']
  assert parameters['for_inference'].default is False
  assert list(inspect.signature(found.build_criterion).parameters) == ['config', 'dataset_info']
  for build in found.postprocessors.values():
    assert list(inspect.signature(build).parameters) == ['config', 'dataset_info', 'static_shapes']
  assert list(inspect.signature(found.parameter_groups).parameters) == ['model', 'solver']


def test_its_network_is_a_class_that_keras_can_write(module):
  own = [value for value in vars(module).values() if inspect.isclass(value)
         and issubclass(value, KerasModel) and value.__module__ == module.__name__]
  assert len(own) == 1
  assert 'dataset_info' in inspect.signature(own[0].__init__).parameters
