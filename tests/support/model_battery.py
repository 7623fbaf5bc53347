"""What every network must do, whatever it predicts."""

import numpy as np
import tensorflow as tf

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import trainer_pb2


def check_sizes_unknown_while_tracing(model, size) -> None:
  """Checks that a graph for any size gives the outputs of one for a known size."""
  run = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])],
                    autograph=False)
  images = tf.random.uniform([1, *size, 3])
  static, dynamic = model(images), run(images)
  for name in static:
    np.testing.assert_allclose(dynamic[name], static[name], atol=2e-4, err_msg=name)


def check_no_call_makes_variables(model) -> None:
  """Checks that all variables exist after the constructor."""
  before = variables_by_path(model)
  assert len(before) == len(model.variables)
  model(tf.zeros([1, 65, 65, 3]))
  assert set(variables_by_path(model)) == set(before)


def idle_variables(model, criterion, images, targets) -> list[str]:
  """Returns the paths of the trainable variables that a loss gives no gradient."""
  # Residual branches start at zero, and what is before them then has no gradient.
  for path, variable in variables_by_path(model).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.1))
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(criterion(model(images, training=True), targets).total)
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  gradients = tape.gradient(loss, model.trainable_variables)
  return [paths[id(v)] for v, g in zip(model.trainable_variables, gradients)
          if g is None or not np.abs(tf.convert_to_tensor(g)).max() > 0]


def backbone_variables(architecture, model) -> list:
  """Returns the variables of a network that pre-training gives, which have a rate of their own."""
  solver = trainer_pb2.SolverOptions(backbone_learning_rate_multiplier=0.5)
  return [v for group in architecture.parameter_groups(model, solver) if group.name == 'backbone'
          for v in group.variables]


def backbone_shapes(path, overrides=()) -> dict[str, list]:
  """Returns path -> shape of the variables of a config's network that pre-training gives."""
  config = deeplab_tf.load_config(path, overrides)
  with tf.Graph().as_default():  # Variables without values.
    model = deeplab_tf.build_model(config)
  paths = {id(v): p for p, v in variables_by_path(model).items()}
  return {paths[id(v)]: v.shape.as_list()
          for v in backbone_variables(models.architecture(config), model)}
