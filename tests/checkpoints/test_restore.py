"""Checkpoints are read completely, or refused with one line."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.checkpoints import convert, restore
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module
from deeplab_tf.layers.variable_paths import variables_by_path


def _config(folder, override=''):
  return deeplab_tf.load_config(tiny.write_config(folder), [override])


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A config, a model and a folder with its checkpoint, as training writes it."""
  folder = tmp_path_factory.mktemp('checkpoint')
  config = _config(folder)
  model = deeplab_tf.build_model(config)
  model.backbone.stem.conv1.norm.moving_mean.assign_add(
      tf.ones_like(model.backbone.stem.conv1.norm.moving_mean))
  optimizer = keras.optimizers.Adam()
  optimizer.build(model.trainable_variables)
  step = tf.Variable(7, dtype=tf.int64)
  checkpoint = tf.train.Checkpoint(model=model, global_step=step, optimizer=optimizer)
  tf.train.CheckpointManager(checkpoint, str(folder), 1).save(checkpoint_number=7)
  return config, model, folder


def _assert_same_values(model, other):
  for variable, expected in zip(model.variables, other.variables):
    np.testing.assert_array_equal(variable, expected)


@pytest.mark.parametrize('name', ['', 'ckpt-7', 'ckpt-7.index', 'ckpt-7.data-00000-of-00001'])
def test_a_folder_a_prefix_and_a_file_name_a_checkpoint(saved, name):
  config, model, folder = saved
  other = deeplab_tf.build_model(config)
  assert (other.queries.numpy() != model.queries.numpy()).any()
  restore.load_checkpoint(other, str(folder / name))
  _assert_same_values(other, model)


def test_names_are_those_of_the_file(saved):
  _, model, folder = saved
  variables = variables_by_path(model)
  assert len(variables) == len(model.variables)
  assert {key: v.shape.as_list() for key, v in variables.items()} == (
      restore.shapes_in_checkpoint(str(folder / 'ckpt-7')))


def test_a_model_without_training_parts_reads_a_checkpoint_that_has_them(saved):
  config, model, folder = saved
  network = serving_module.build_network(config, catalog.from_config(config))
  assert network.semantic_head is None and model.semantic_head is not None
  restore.load_checkpoint(network, folder)
  np.testing.assert_array_equal(network.queries, model.queries)


@pytest.mark.parametrize('override, message', [
    ('model_options { max_deeplab { num_queries: 12 } }',
     r'queries is \[1, 16, 32\] there and \[1, 12, 32\] in the config'),
    ('model_options { backbone { backbone_layer_multiplier: 0.1 } }', 'is only there'),
    ('model_options { backbone { backbone_layer_multiplier: 0.7 } }', 'is not there'),
])
def test_another_models_checkpoint_is_refused_and_changes_nothing(saved, tmp_path, override,
                                                                  message):
  _, _, folder = saved
  other = deeplab_tf.build_model(_config(tmp_path, override))
  before = [v.numpy() for v in other.variables]
  with pytest.raises(ValueError, match=f'ckpt-7 is a checkpoint of another model: .*{message}'):
    restore.load_checkpoint(other, folder)
  for variable, expected in zip(other.variables, before):
    np.testing.assert_array_equal(variable, expected)


def test_a_missing_checkpoint_is_told_with_the_nearest(saved, tmp_path):
  _, model, folder = saved
  with pytest.raises(FileNotFoundError, match='no such checkpoint.*Did you mean "ckpt-7"'):
    restore.load_checkpoint(model, str(folder / 'ckpt-70'))
  with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
    restore.load_checkpoint(model, str(tmp_path))
  with pytest.raises(FileNotFoundError, match='does not exist'):
    restore.load_checkpoint(model, str(tmp_path / 'a' / 'ckpt-1'))


def test_a_corrupt_checkpoint_is_one_line(saved, tmp_path):
  _, model, folder = saved
  for part in ('index', 'data-00000-of-00001'):
    content = (folder / f'ckpt-7.{part}').read_bytes()
    (tmp_path / f'ckpt-7.{part}').write_bytes(content if part == 'index' else content[:500])
  with pytest.raises(ValueError, match='corrupt') as error:
    restore.load_checkpoint(model, str(tmp_path / 'ckpt-7'))
  assert '\n' not in str(error.value)
  (tmp_path / 'ckpt-7.index').write_bytes(b'no index')
  with pytest.raises(ValueError, match='cannot be read as a checkpoint') as error:
    restore.load_checkpoint(model, str(tmp_path / 'ckpt-7'))
  assert '\n' not in str(error.value)


def _averages(model):
  return {path: tf.Variable(v + 1.0) for path, v in variables_by_path(model).items()
          if path.startswith('backbone/')}


def test_averages_are_read_in_place_of_the_weights_where_there_are_any(saved, tmp_path):
  config, model, _ = saved
  averages = _averages(model)
  prefix = tf.train.Checkpoint(model=model, **{restore.AVERAGED: averages}).write(
      str(tmp_path / 'ckpt-3'))
  names = dict(tf.train.list_variables(prefix))
  assert all(restore.averaged_key(path) in names for path in averages)
  assert set(restore.shapes_in_checkpoint(prefix)) == set(variables_by_path(model))
  other = deeplab_tf.build_model(config)
  restore.load_checkpoint(other, prefix)
  for path, variable in variables_by_path(other).items():
    expected = averages.get(path, variables_by_path(model)[path])
    np.testing.assert_array_equal(variable, expected)
    np.testing.assert_array_equal(restore.read_variable(prefix, path), expected)
  restore.load_checkpoint(other, prefix, averaged=False)
  _assert_same_values(other, model)
  path = next(iter(averages))
  np.testing.assert_array_equal(restore.read_variable(prefix, path, averaged=False),
                                variables_by_path(model)[path])


def test_a_name_with_a_dot_or_a_slash_has_its_average(tmp_path):
  model = tf.Module()
  model.parts = {'a.b/c': tf.Variable(1.0)}
  (path,) = variables_by_path(model)
  prefix = tf.train.Checkpoint(model=model, **{restore.AVERAGED: {path: tf.Variable(2.0)}}).write(
      str(tmp_path / 'ckpt-3'))
  assert restore.averaged_key(path) in restore.names_in_checkpoint(prefix)
  assert restore.read_variable(prefix, path) == 2.0


def test_what_is_saved_here_is_read_back(saved, tmp_path):
  config, model, _ = saved
  prefix = convert.save_checkpoint(model, str(tmp_path / 'new' / 'ckpt-0'))
  for path in (prefix, str(tmp_path / 'new')):
    other = deeplab_tf.build_model(config)
    restore.load_checkpoint(other, path)
    _assert_same_values(other, model)
  assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == [
      'checkpoint', 'ckpt-0.data-00000-of-00001', 'ckpt-0.index']
