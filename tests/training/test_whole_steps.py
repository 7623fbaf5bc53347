"""The train step and the evaluation step of a whole model are reproducible and fit for TPU."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.data import catalog
from deeplab_tf.training import batches, state, trainer
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction

_HOST_CALLS = {'PyFunc', 'EagerPyFunc', 'PyFuncStateless'}


@pytest.fixture
def config(tmp_path):
  return config_lib.load_config(tiny_runs.write_config(tmp_path))


def build(config, **listeners):
  """Returns (model, trainer) as a run makes them."""
  info, architecture = catalog.from_config(config), models.architecture(config)
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  model, step = state.build_model(config, info, architecture, strategy)
  learnt = state.build(config, architecture, model, step, strategy)
  return model, trainer.build(
      config, architecture, info, strategy=strategy, state=learnt,
      batches=lambda start: batches.training(config, info, 'mask', strategy, start), **listeners)


def operations(function) -> list:
  """Returns the types of all operations of a concrete function and those that it calls."""
  graph = function.graph.as_graph_def()
  found = [node.op for node in graph.node]
  return found + [node.op for called in graph.library.function for node in called.node_def]


@pytest.mark.slow
def test_the_first_100_losses_are_a_function_of_config_seed_and_data(config):
  def losses(seed):
    config.trainer_options.seed = seed
    seen = []
    _, made = build(config, on_step=lambda step, output, seconds: seen.append(
        float(output.losses['total'])))
    made.train(100 if seed == 0 else 1)
    return seen

  first = losses(0)
  assert len(set(first)) == 100
  assert losses(0) == first
  assert losses(1)[0] != first[0]


def test_the_train_step_for_xla_has_static_shapes_and_never_calls_the_host(config):
  config.trainer_options.jit_compile = True
  config.trainer_options.gradient_accumulation_steps = 2
  config.trainer_options.ema_decay = 0.9
  _, made = build(config)
  batch = next(made._batches(0))
  step = made._compiled_step.get_concrete_function(batch, tf.constant(False))
  found = operations(step)
  assert 'Conv2DBackpropFilter' in found  # The whole step is there.
  assert not _HOST_CALLS & set(found)
  assert 'Where' not in found  # Its output has as many rows as there are hits.
  # The matching solver on the host is what the check above is there for.
  config.trainer_options.jit_compile = False
  step = build(config)[1]._compiled_step.get_concrete_function(batch, tf.constant(False))
  assert _HOST_CALLS & set(operations(step))


def test_the_evaluation_step_compiles_and_predicts_the_same(config):
  info, architecture = catalog.from_config(config), models.architecture(config)
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  model, _ = state.build_model(config, info, architecture, strategy)
  images = tf.random.uniform([3, 65, 65, 3], -1, 1, seed=1)
  predictions = []
  for compiled in (False, True):
    predict = ReplicatedPrediction(
        strategy, model, architecture.build_postprocessor(config, info, compiled), 4,
        static=compiled, jit_compile=compiled)
    predictions.append(predict(images))
    if compiled:
      # Filled up, so that the last batch is none of its own.
      predict(images[:1])
      assert predict._step.experimental_get_tracing_count() == 1
      step = predict._step.get_concrete_function(tf.zeros([4, 65, 65, 3]))
      assert not _HOST_CALLS & set(operations(step))
  for name, plain, compiled in zip(predictions[0]._fields, *predictions):
    assert plain.shape == compiled.shape, name
    np.testing.assert_allclose(plain, compiled, rtol=1e-4, atol=1e-5, err_msg=name)
