"""Checks that every network must pass, whatever it predicts: the tests of a model inherit them.

  class TestMaXDeepLab(model_battery.ModelBattery):
    CONFIG = tiny.config_text()

    def shapes(self, network, size):
      ...

The network of a class is built once; a check that changes weights builds its own.
"""

import functools
import itertools
import subprocess
import sys
from typing import Any, NamedTuple, Sequence

import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf import architecture as architectures
from deeplab_tf import models
from deeplab_tf.checkpoints import restore
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.layers import randomness
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.tasks import Task
from deeplab_tf.training import precision, state, trainer

_STEPS = 12


class Network(NamedTuple):
  """A network and what belongs to it."""
  config: Any
  info: Any
  architecture: architectures.Architecture
  model: keras.Model
  criterion: Any

  def batch(self) -> tuple:
    """Returns the first images and targets of its training data."""
    return next(iter(pipeline.train_dataset(self.config, self.info, self.architecture.target_form,
                                            seed=0)))


def build(config) -> Network:
  """Builds the network of a config, with the same weights each time."""
  info, architecture = catalog.from_config(config), models.architecture(config)
  keras.utils.set_random_seed(0)
  return Network(config, info, architecture, models.build_model(config),
                 architecture.build_criterion(config, info))


class ModelBattery:
  """The checks. A subclass says which model, and which shapes its outputs have.

  Attributes:
    CONFIG: A textproto of a tiny experiment; '%(folder)s' stands for the folder with its data.
    OPTIONS: Name -> an override; each is a network whose every variable must train.
    INVARIANT: Ends of the paths of variables that change no loss.
    SIZES: Input sizes, height and width.
    HALF_PRECISION: Largest difference of bfloat16 outputs, relative to float32's largest value.
    STOCHASTIC: An override for a network with layers that draw random numbers in training.
  """
  CONFIG: str
  OPTIONS: dict[str, str] = {'as it is': ''}
  INVARIANT: tuple[str, ...] = ('norm_similarity/beta',)
  SIZES = ((65, 65), (64, 97), (33, 130), (50, 41))
  HALF_PRECISION = 0.3
  STOCHASTIC = 'model_options { backbone { drop_path_keep_prob: 0.5 } }'

  def shapes(self, network: Network, size: Sequence[int]) -> dict[str, list]:
    """Returns output -> shape without the batch, for an input size."""
    raise AssertionError(f'{type(self).__name__} has to say its shapes')

  def prepare(self, folder) -> None:
    """Writes the data that CONFIG names into a folder; by default it needs none."""

  @pytest.fixture(scope='class')
  def load(self, tmp_path_factory):
    """From overrides to the config."""
    folder = tmp_path_factory.mktemp('model')
    self.prepare(folder)
    path = folder / 'config.textproto'
    path.write_text(self.CONFIG.replace('%(folder)s', str(folder)), encoding='utf-8')
    return lambda *overrides: deeplab_tf.load_config(path, list(overrides))

  @pytest.fixture(scope='class')
  def network(self, load):
    return build(load())

  @pytest.fixture(scope='class')
  def batch(self, network):
    return network.batch()

  # === The forward pass ===

  @pytest.mark.parametrize('index', range(4))
  def test_outputs_of_any_input_size(self, network, index):
    size = self.SIZES[index]
    outputs = network.model(tf.random.stateless_normal([2, *size, 3], [0, 1]))
    assert {name: list(value.shape) for name, value in outputs.items()} == {
        name: [2, *shape] for name, shape in self.shapes(network, size).items()}
    for name, value in outputs.items():
      assert value.dtype == tf.float32 and np.isfinite(value).all(), name

  def test_sizes_unknown_while_tracing_give_the_same_outputs(self, network):
    run = tf.function(network.model, input_signature=[tf.TensorSpec([None, None, None, 3])],
                      autograph=False)
    images = tf.random.stateless_normal([1, 65, 97, 3], [0, 1])
    expected, found = network.model(images), run(images)
    for name in expected:
      np.testing.assert_allclose(found[name], expected[name], atol=2e-4, err_msg=name)

  def test_all_variables_exist_before_the_first_call(self, load):
    model = models.build_model(load())
    before = variables_by_path(model)
    assert len(before) == len(model.variables)
    model(tf.zeros([1, 33, 33, 3]))
    assert set(variables_by_path(model)) == set(before)

  def test_bfloat16_computes_about_the_same_on_float32_variables(self, load, network):
    config = load('trainer_options { precision: BFLOAT16 }')
    with precision.scope('BFLOAT16'):
      model = network.architecture.build(config, network.info)
    assert {v.dtype for v in model.variables} == {tf.float32}
    for variable, value in zip(model.variables, network.model.variables):
      variable.assign(value)
    images = tf.random.stateless_normal([1, 65, 65, 3], [0, 1])
    expected = network.model(images)
    for name, value in model(images).items():
      assert value.dtype == tf.float32, name
      largest = np.abs(expected[name]).max()
      assert np.abs(value - expected[name]).max() <= self.HALF_PRECISION * largest, name

  @pytest.mark.slow
  def test_xla_computes_the_same(self, network):
    images = tf.random.stateless_normal([1, 33, 49, 3], [0, 1])
    compiled = tf.function(network.model, jit_compile=True, autograph=False)(images)
    for name, value in network.model(images).items():
      np.testing.assert_allclose(compiled[name], value, atol=2e-4, err_msg=name)

  # === Training ===

  @pytest.fixture
  def option(self, request, load):
    return load(f'model_options {{ {self.OPTIONS[request.param]} }}')

  def pytest_generate_tests(self, metafunc):
    if 'option' in metafunc.fixturenames:
      metafunc.parametrize('option', self.OPTIONS, indirect=True)

  def test_a_gradient_reaches_every_variable(self, option, batch):
    idle = idle_variables(build(option), batch)
    # An offset that all logits of a softmax share changes nothing.
    assert not [path for path in idle if not path.endswith(self.INVARIANT)], idle

  def test_steps_on_one_batch_lower_the_loss(self, load, batch):
    config = load('trainer_options { solver_options { base_learning_rate: 0.01 optimizer: "adam" '
                  f'warmup_steps: 0 training_number_of_steps: {_STEPS} }} }}')
    losses = []
    strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
    info, architecture = catalog.from_config(config), models.architecture(config)
    model, step = state.build_model(config, info, architecture, strategy)
    made = trainer.build(
        config, architecture, info, strategy=strategy,
        state=state.build(config, architecture, model, step, strategy),
        batches=lambda start: itertools.repeat(batch),
        on_step=lambda step, output, seconds: losses.append(float(output.losses['total'])))
    made.train(_STEPS)
    assert np.isfinite(losses).all() and min(losses[-3:]) < 0.9 * losses[0], losses

  def test_drop_path_and_dropout_follow_the_seed_and_stop_at_inference(self, load):
    network = build(load(self.STOCHASTIC))
    open_residual_branches(network.model)
    images = tf.random.stateless_normal([2, 33, 33, 3], [0, 1])

    def outputs(seed, training):
      with randomness.seeded(tf.constant([0, seed])):
        return tf.concat([tf.reshape(value, [-1]) for value in network.model(
            images, training=training).values()], 0).numpy()

    np.testing.assert_array_equal(outputs(1, True), outputs(1, True))
    assert np.abs(outputs(1, True) - outputs(2, True)).max() > 1e-3
    np.testing.assert_array_equal(outputs(1, False), outputs(2, False))

  def test_methods_of_keras_keep_their_meaning(self, network):
    own = {name for kind in type(network.model).__mro__ if kind.__module__.startswith('deeplab_tf')
           for name in vars(kind) if hasattr(keras.Model, name) and not name.startswith('_')}
    assert own <= {'call', 'save', 'save_weights', 'get_config', 'from_config'}

  def test_parameter_groups_hold_each_variable_once(self, network):
    for rate in (1.0, 0.5):
      solver = trainer_pb2.SolverOptions(backbone_learning_rate_multiplier=rate)
      groups = network.architecture.parameter_groups(network.model, solver)
      ids = [id(v) for group in groups for v in group.variables]
      assert sorted(ids) == sorted(id(v) for v in network.model.trainable_variables)
      assert {group.name for group in groups} == {'main'} | ({'backbone'} if rate != 1 else set())
    used = {id(v) for v in network.architecture.inference_variables(network.model)}
    assert used <= set(ids)

  # === Files ===

  def test_a_checkpoint_gives_the_same_outputs(self, network, load, tmp_path):
    prefix = tf.train.Checkpoint(model=network.model, global_step=tf.Variable(
        3, dtype=tf.int64)).write(str(tmp_path / 'ckpt'))
    other = models.build_model(load())
    for variable in other.variables:
      variable.assign(-7 * tf.ones_like(variable))
    restore.load_checkpoint(other, prefix)
    images = tf.random.stateless_normal([1, 33, 33, 3], [0, 1])
    for name, value in network.model(images).items():
      np.testing.assert_array_equal(other(images)[name], value, err_msg=name)

  def test_a_saved_model_gives_the_same_maps_without_this_library(self, network, tmp_path):
    if Task.CLASSIFICATION in network.architecture.postprocessors:
      pytest.skip('classification is for pre-training, and has no export')
    image, expected = export(network, tmp_path)
    np.save(tmp_path / 'image.npy', image)
    done = subprocess.run([sys.executable, '-c', _SERVE, str(tmp_path)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / 'found.npz') as found:
      assert set(found) == set(expected)
      check_same_maps(found, expected)

  @pytest.mark.slow
  def test_a_saved_model_of_every_option_gives_the_same_maps(self, option, tmp_path):
    network = build(option)
    if Task.CLASSIFICATION in network.architecture.postprocessors:
      pytest.skip('classification is for pre-training, and has no export')
    image, expected = export(network, tmp_path)
    serve = tf.saved_model.load(str(tmp_path / 'saved')).signatures['serving_default']
    check_same_maps(serve(images=tf.constant(image)), expected)


_SERVE = """
import sys
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
serve = tf.saved_model.load(folder + '/saved').signatures['serving_default']
found = serve(images=tf.constant(np.load(folder + '/image.npy')))
assert not any(name.startswith('deeplab_tf') for name in sys.modules)
np.savez(folder + '/found.npz', **{name: value.numpy() for name, value in found.items()})
"""


def export(network: Network, folder) -> tuple:
  """Exports a network to folder/saved; returns an image and what the program predicts of it."""
  config, info = network.config, network.info
  prefix = tf.train.Checkpoint(model=network.model).write(str(folder / 'exported'))
  inference = serving_module.build_network(config, info)
  restore.load_checkpoint(inference, prefix)
  module = serving_module.build(config, info, inference)
  image = np.random.default_rng(0).integers(0, 256, (1, 47, 70, 3)).astype(np.uint8)
  expected = module.predict(tf.constant(image))
  saved_model.export_saved_model(module, config, info, str(folder / 'saved'))
  return image, expected


def check_same_maps(found, expected) -> None:
  """Checks a prediction of the image of `export`."""
  assert set(found) == set(expected)
  assert found['panoptic_map'].shape == (1, 47, 70)
  assert np.mean(found['panoptic_map'] == expected['panoptic_map']) > 0.99


def open_residual_branches(model) -> None:
  """Makes residual branches count, which start at zero: what is before them has no gradient."""
  for path, variable in variables_by_path(model).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.1))


def idle_variables(network: Network, batch: tuple) -> list[str]:
  """Returns the paths of the trainable variables that the loss of a batch gives no gradient."""
  open_residual_branches(network.model)
  images, targets = batch
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(network.criterion(network.model(images, training=True), targets).total)
  paths = {id(v): path for path, v in variables_by_path(network.model).items()}
  variables = network.model.trainable_variables
  return [paths[id(v)] for v, g in zip(variables, tape.gradient(loss, variables))
          if g is None or not np.abs(tf.convert_to_tensor(g)).max() > 0]


def backbone_variables(architecture, model) -> list:
  """Returns the variables of a network that pre-training gives, which have a rate of their own."""
  solver = trainer_pb2.SolverOptions(backbone_learning_rate_multiplier=0.5)
  return [v for group in architecture.parameter_groups(model, solver) if group.name == 'backbone'
          for v in group.variables]


@functools.cache
def backbone_shapes(path, overrides=()) -> dict[str, list]:
  """Returns path -> shape of the variables of a config's network that pre-training gives."""
  config = deeplab_tf.load_config(path, overrides)
  with tf.Graph().as_default():  # Variables without values.
    model = deeplab_tf.build_model(config)
  paths = {id(v): p for p, v in variables_by_path(model).items()}
  return {paths[id(v)]: v.shape.as_list()
          for v in backbone_variables(models.architecture(config), model)}
