"""The precision of each part of a model."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.training import precision, state

# Norms that Keras' mixed precision would hand a rounded input; here they compute in float32.
_IN_FLOAT32 = ('Softmax', 'SparseSoftmaxCrossEntropyWithLogits', 'LogSoftmax', 'Rsqrt')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  path = tiny_runs.write_config(tmp_path_factory.mktemp('config'))
  return config_lib.load_config(path)


@pytest.fixture(scope='module')
def batch(config):
  info = catalog.from_config(config)
  return next(iter(pipeline.train_dataset(config, info, 'mask', seed=0)))


def _build(config, name):
  options = config.trainer_options
  options.precision = options.Precision.Value(name)
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  return state.build_model(config, catalog.from_config(config), models.architecture(config),
                           strategy)[0]


@pytest.mark.parametrize('name, dtype', [('BFLOAT16', tf.bfloat16), ('FLOAT16', tf.float16)])
def test_convolutions_are_low_and_variables_losses_softmaxes_and_norms_float32(
    config, batch, name, dtype):
  model = _build(config, name)
  assert {v.dtype for v in model.variables} == {tf.float32}
  criterion = models.architecture(config).build_criterion(config, catalog.from_config(config))
  images, targets = batch

  @tf.function(autograph=False)
  def step(images, targets):
    outputs = model(images, training=True)
    result = criterion(outputs, targets)
    assert {x.dtype for x in outputs.values()} == {tf.float32}
    assert {x.dtype for x in result.losses.values()} == {tf.float32}
    return result.total

  operations = step.get_concrete_function(images, targets).graph.get_operations()
  by_type = {}
  for operation in operations:
    by_type.setdefault(operation.type, []).append(operation)
  assert {o.inputs[0].dtype for o in by_type['Conv2D']} == {dtype}
  assert dtype in {o.inputs[0].dtype for o in by_type['MatMul']}
  for kind in _IN_FLOAT32:
    for operation in by_type.get(kind, ()):
      assert operation.inputs[0].dtype == tf.float32, operation.name
  for operation in by_type['FusedBatchNormV3']:
    assert {x.dtype for x in operation.inputs[1:3]} == {tf.float32}, operation.name
  for operation in by_type['EagerPyFunc']:  # The matching costs.
    assert operation.inputs[0].dtype == tf.float32


def test_bfloat16_predicts_about_what_float32_does(config, batch):
  full, low = _build(config, 'FLOAT32'), _build(config, 'BFLOAT16')
  for a, b in zip(full.variables, low.variables):
    np.testing.assert_array_equal(a, b)
  expected, found = full(batch[0], training=True), low(batch[0], training=True)
  for name in expected:
    spread = np.std(expected[name])
    assert np.abs(expected[name] - found[name]).mean() < 0.1 * spread, name


def test_the_precision_of_one_model_is_not_that_of_the_next():
  with precision.scope('BFLOAT16'):
    pass
  assert keras.mixed_precision.global_policy().name == 'float32'
