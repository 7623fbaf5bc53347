"""Which checkpoints a run accepts, and from which it starts."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_runs

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.architecture import parameter_groups
from deeplab_tf.checkpoints import restore
from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.training import checkpointing, optimizers, runs


class Network(keras.Model):

  def __init__(self, width=4, bias=True):
    super().__init__()
    self.kernel = self.add_weight('kernel', (3, width))
    self.inner = [keras.layers.Dense(2), keras.layers.Dense(2, use_bias=bias)]
    for layer in self.inner:
      layer.build((None, width))


def _save(model, folder, step=5):
  checkpoint = checkpointing.make_checkpoint(
      {'model': model, 'global_step': tf.Variable(step, dtype=tf.int64)})
  return checkpointing.make_manager(checkpoint, str(folder), 2).save(step)


def test_paths_are_those_of_the_checkpoint_of_a_real_model(tmp_path):
  model = models.build_model(config_lib.load_config(tiny_runs.write_config(tmp_path)))
  saved = restore.shapes_in_checkpoint(_save(model, tmp_path))
  own = variables_by_path(model)
  assert set(own) == set(saved)
  assert len(own) == len(model.variables)
  restore.check_same_model(model, tf.train.latest_checkpoint(tmp_path))


def test_another_model_is_refused_with_the_first_differences(tmp_path):
  prefix = _save(Network(), tmp_path)
  restore.check_same_model(Network(), prefix)
  with pytest.raises(ValueError, match=r'kernel is \[3, 4\] there and \[3, 5\] in the config'):
    restore.check_same_model(Network(width=5), prefix)
  with pytest.raises(ValueError, match='inner/1/bias is only there'):
    restore.check_same_model(Network(bias=False), prefix)


def test_initial_checkpoint_sets_what_fits_and_tells_the_rest(tmp_path):
  source = Network(width=4)
  for variable in source.variables:
    variable.assign(tf.ones_like(variable))
  _save(source, tmp_path)
  target = Network(width=5)
  kernel = target.kernel.numpy()
  lines = checkpointing.restore_initial(target, str(tmp_path))
  np.testing.assert_array_equal(target.kernel, kernel)
  np.testing.assert_array_equal(target.inner[1].bias, [1.0, 1.0])
  assert lines[0] == f'initial checkpoint: 2 of 5 variables from {tmp_path}/ckpt-5'
  assert any('kernel: [3, 4] there, [3, 5] here' in line for line in lines)


def test_initial_checkpoint_without_a_match_is_an_error(tmp_path):
  tf.train.Checkpoint(other=tf.Variable(1.0)).save(str(tmp_path / 'ckpt'))
  with pytest.raises(ValueError, match='nothing in .* matches'):
    checkpointing.restore_initial(Network(), str(tmp_path))


def test_initial_checkpoint_that_is_a_placeholder_or_absent_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r'\$\{INIT_CHECKPOINT\}.*--override=.*initial_checkpoint'):
    checkpointing.restore_initial(Network(), '${INIT_CHECKPOINT}')
  with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
    checkpointing.restore_initial(Network(), str(tmp_path))
  prefix = _save(Network(), tmp_path)
  with pytest.raises(FileNotFoundError, match='Did you mean .*ckpt-5'):
    checkpointing.restore_initial(Network(), prefix[:-2])


def test_find_checkpoint_takes_prefix_file_and_folder(tmp_path):
  prefix = _save(Network(), tmp_path)
  for path in (prefix, prefix + '.index', prefix + '.data-00000-of-00001', str(tmp_path)):
    assert restore.find_checkpoint(path) == prefix


@pytest.mark.parametrize('name, program', [
    ('encoder/_stem/_conv', 'DeepLab2: convert it with trainer/convert_checkpoint.py first'),
    ('backbone/_encoder/_stem', 'Model Garden: convert it with trainer/convert_checkpoint.py')])
def test_initial_checkpoint_of_another_program_is_recognized(name, program, tmp_path):
  node = checkpoint = tf.train.Checkpoint()
  for attribute in name.split('/'):
    setattr(node, attribute, tf.Module())
    node = getattr(node, attribute)
  node.kernel = tf.Variable(1.0)
  checkpoint.save(str(tmp_path / 'ckpt'))
  with pytest.raises(ValueError, match=program) as error:
    checkpointing.restore_initial(Network(), str(tmp_path))
  assert '\n' not in str(error.value)


def test_the_last_layer_is_left_out_if_the_options_say_so(tmp_path):
  config = config_lib.load_config(tiny.write_config(tmp_path))
  options = config.model_options
  architecture = models.architecture(config)
  source = models.build_model(config)
  _save(source, tmp_path)
  model = models.build_model(config)
  last_layers = architecture.last_layers(model)
  assert checkpointing.left_out(config, model, last_layers) == []
  options.restore_semantic_last_layer_from_initial_checkpoint = False
  # MaX-DeepLab has no instance branch.
  options.restore_instance_last_layer_from_initial_checkpoint = False
  skip = checkpointing.left_out(config, model, last_layers)
  assert sorted(skip) == ['semantic_head/last/bias', 'semantic_head/last/kernel']
  before = model.semantic_head.last.kernel.numpy()
  lines = checkpointing.restore_initial(model, str(tmp_path), skip)
  np.testing.assert_array_equal(model.semantic_head.last.kernel, before)
  np.testing.assert_array_equal(model.queries, source.queries)
  assert any(line.startswith('  left out on request, as initialized: 2 var') for line in lines)
  assert '      semantic_head/last/kernel' in lines


def test_a_model_without_the_head_has_no_last_layer_to_leave_out(tmp_path):
  config = config_lib.load_config(tiny_runs.write_config(tmp_path))
  config.model_options.restore_semantic_last_layer_from_initial_checkpoint = False
  model = models.build_model(config)
  layers = models.architecture(config).last_layers(model)
  assert checkpointing.left_out(config, model, layers) == []


def test_the_latest_checkpoint_is_the_newest_whole_one(tmp_path, capsys):
  assert checkpointing.latest(str(tmp_path / 'nothing')) is None
  _save(Network(), tmp_path, 5)
  prefix = _save(Network(), tmp_path, 6)
  assert checkpointing.latest(str(tmp_path)) == prefix
  (tmp_path / 'ckpt-6.index').write_bytes(b'')
  assert checkpointing.latest(str(tmp_path)) == f'{tmp_path}/ckpt-5'
  assert 'ckpt-6 is not whole' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['sgd', 'radam_lookahead'])
def test_state_of_another_optimizer_is_refused(name, tmp_path):
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  config = config_lib.load_config(tiny_runs.write_config(tmp_path))
  solver = config.trainer_options.solver_options

  def checkpoint():
    model, step = Network(), tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.build(solver, model.trainable_variables,
                                 parameter_groups(model.trainable_variables))
    optimizer.build()
    return checkpointing.make_checkpoint(
        {'model': model, 'global_step': step, **optimizer.checkpoint_items})

  prefix = checkpoint().save(str(tmp_path / 'ckpt'))
  checkpointing.restore_training(checkpoint(), prefix, strategy)
  solver.optimizer = name
  with pytest.raises(ValueError, match='another optimizer'):
    checkpointing.restore_training(checkpoint(), prefix, strategy)


def test_a_run_starts_from_the_initial_checkpoint_only_without_one_of_its_own(tmp_path):
  path = tiny_runs.write_config(tmp_path)
  source = models.build_model(config_lib.load_config(path))
  _save(source, tmp_path / 'source')
  override = f'model_options {{ initial_checkpoint: "{tmp_path / "source"}" }}'
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')

  def start():
    config = config_lib.load_config(path, [override])
    return runs.Run(config, str(tmp_path / 'model'), 'train', strategy)

  first = start()
  np.testing.assert_array_equal(first.model.queries, source.queries)
  first.model.queries.assign(tf.zeros_like(first.model.queries))
  first._training.begin()
  first._training.save()
  first._setup.folder.release()
  np.testing.assert_array_equal(start().model.queries, tf.zeros_like(source.queries))
