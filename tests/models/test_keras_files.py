"""Every network as a Keras model: names of variables, and Keras' file formats."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers
import tiny_classification
import tiny_mask2former

import deeplab_tf
from deeplab_tf import architecture
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module
from deeplab_tf.layers import folding, variable_paths
from deeplab_tf.user_errors import UsageError

KINDS = ('mask', 'center', 'class', 'inference', 'mask2former')
IMAGES = tf.random.stateless_normal([1, 65, 81, 3], [0, 1])


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('configs')
  mask = deeplab_tf.load_config(tiny.write_config(folder))
  (folder / 'center.textproto').write_text(tiny_centers.CONFIG)
  return {'mask': mask, 'inference': mask,
          'mask2former': deeplab_tf.load_config(tiny_mask2former.write_config(folder)),
          'center': deeplab_tf.load_config(folder / 'center.textproto'),
          'class': deeplab_tf.load_config(tiny_classification.write_experiment(folder))}


def _build(configs, kind):
  config = configs[kind]
  if kind == 'inference':
    return serving_module.build_network(config, catalog.from_config(config))
  return deeplab_tf.build_model(config)


@pytest.fixture(scope='module')
def two_models(configs):
  """From a kind to two models with variables of their own, built once."""
  return functools.cache(lambda kind: [_build(configs, kind) for _ in range(2)])


def _assert_same(model, other):
  """Checks that two models give the same, to the last bit."""
  outputs, others = model(IMAGES), other(IMAGES)
  assert set(outputs) == set(others)
  for name, output in outputs.items():
    np.testing.assert_array_equal(others[name], output, err_msg=name)


@pytest.mark.parametrize('kind', KINDS)
def test_variables_are_named_by_their_paths(kind, two_models):
  model = two_models(kind)[0]
  assert len(model.variables) > 100
  for path, variable in variable_paths.variables_by_path(model).items():
    assert variable.name == f'{path}:0'
  assert len({variable.name for variable in model.variables}) == len(model.variables)
  kernels = [v for v in model.trainable_variables if architecture.is_kernel(v)]
  assert 10 < len(kernels) < len(model.trainable_variables)


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5', ''])
@pytest.mark.parametrize('kind', KINDS)
def test_weights_are_written_and_read_back(kind, ending, two_models, tmp_path):
  model, other = two_models(kind)
  path = str(tmp_path / f'a{ending}')
  model.save_weights(path)
  for variable in other.variables:
    variable.assign(-7 * tf.ones_like(variable))
  status = other.load_weights(path)
  if not ending:
    status.assert_consumed()
  _assert_same(model, other)
  if ending:
    assert os.listdir(tmp_path) == [f'a{ending}']


@pytest.mark.parametrize('kind', KINDS)
def test_a_whole_model_is_written_and_read_back(kind, two_models, tmp_path):
  model = two_models(kind)[0]
  model(IMAGES)
  model.save(tmp_path / 'a.keras')
  assert os.listdir(tmp_path) == ['a.keras']
  loaded = keras.models.load_model(tmp_path / 'a.keras')
  assert type(loaded) is type(model)
  _assert_same(model, loaded)
  keras.models.save_model(model, tmp_path / 'b.keras')
  _assert_same(model, keras.models.load_model(tmp_path / 'b.keras'))


def test_a_saved_model_by_keras_is_read_back(two_models, tmp_path):
  model = two_models('class')[0]
  outputs = model(IMAGES)
  model.save(tmp_path / 'saved')
  loaded = keras.models.load_model(tmp_path / 'saved')(IMAGES)
  for name, output in outputs.items():
    np.testing.assert_allclose(loaded[name], output, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('kind', KINDS)
def test_one_hdf5_file_of_a_whole_model_is_refused_before_it_is_written(kind, two_models, tmp_path):
  model = two_models(kind)[0]
  model(IMAGES)
  for name, options in (('a.h5', {}), ('a', {'save_format': 'h5'}), ('a.hdf5', {})):
    with pytest.raises(UsageError, match='save_weights.*trainer/export.py'):
      model.save(tmp_path / name, **options)
  assert not os.listdir(tmp_path)


def test_a_folded_model_writes_weights_and_not_itself(configs, tmp_path):
  models = [_build(configs, 'inference') for _ in range(2)]
  for model in models:
    folding.fold_norms(model)
  with pytest.raises(UsageError, match='without folded batch norms'):
    models[0].save(tmp_path / 'a.keras')
  assert not os.listdir(tmp_path)
  models[0].save_weights(tmp_path / 'a.h5')
  models[1].load_weights(tmp_path / 'a.h5')
  _assert_same(*models)


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5', '.keras'])
def test_what_fails_leaves_the_file_before_and_no_torso(ending, two_models, tmp_path, monkeypatch):
  model = two_models('class')[0]
  path = tmp_path / f'a{ending}'
  path.write_text('before')

  def fail(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('h5py.Group.create_dataset', fail)
  with pytest.raises(OSError, match='No space left'):
    model.save(path) if ending == '.keras' else model.save_weights(path)
  assert os.listdir(tmp_path) == [path.name] and path.read_text() == 'before'


_MIRRORED = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import deeplab_tf
from deeplab_tf import architecture
from deeplab_tf import models
from deeplab_tf.layers import variable_paths
from deeplab_tf.data import catalog
from deeplab_tf.training import state

strategy = tf.distribute.MirroredStrategy(['/cpu:0', '/cpu:1'])
config = deeplab_tf.load_config(sys.argv[1], ['trainer_options { precision: BFLOAT16 }'])
arguments = config, catalog.from_config(config), models.architecture(config), strategy
model, other = (state.build_model(*arguments)[0] for _ in range(2))
for path, variable in variable_paths.variables_by_path(model).items():
  names = [value.name for value in strategy.experimental_local_results(variable)]
  assert [variable.name, *names] == [f'{path}:0', f'{path}:0', f'{path}/replica_1:0'], names
for name in ('a.h5', 'a.weights.h5', 'a'):
  model.save_weights(f'{sys.argv[2]}/{name}')
  other.queries.assign(tf.zeros_like(other.queries))
  other.load_weights(f'{sys.argv[2]}/{name}')
  for first, second in zip(model.variables, other.variables):
    for value in strategy.experimental_local_results(second):
      np.testing.assert_array_equal(first.numpy(), value.numpy(), err_msg=first.name)
print('same', len(model.variables))
"""


@pytest.mark.slow
def test_variables_of_a_strategy_and_of_mixed_precision_are_named_and_written(tmp_path):
  (tmp_path / 'weights').mkdir()
  done = subprocess.run(
      [sys.executable, '-c', _MIRRORED, str(tiny.write_config(tmp_path)),
       str(tmp_path / 'weights')],
      capture_output=True, text=True, check=False, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  assert int(done.stdout.split('same ')[1]) > 100
