"""Optimizers on a few small variables."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.architecture import ParameterGroup, parameter_groups
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.training import optimizers


def _solver(**fields):
  defaults = {'base_learning_rate': 0.1, 'training_number_of_steps': 1000, 'optimizer': 'sgd'}
  return trainer_pb2.SolverOptions(**{**defaults, **fields})


def _variables():
  return [tf.Variable([1.0, -2.0], name='conv/kernel'), tf.Variable([0.5], name='conv/bias'),
          tf.Variable([3.0], name='embedding/weight')]


def _build(solver, variables, backbone=()):
  groups = parameter_groups(variables, backbone, solver.backbone_learning_rate_multiplier)
  return optimizers.build(solver, variables, groups)


def _step(solver, variables, gradients, backbone=()):
  optimizer = _build(solver, variables, backbone)
  optimizer.build()
  clipped, norm = optimizer.clip([tf.constant(g) for g in gradients])
  optimizer.apply(clipped)
  return optimizer, float(norm)


GRADIENTS = ([3.0, 0.0], [4.0], [0.0])


def test_sgd_has_momentum():
  variables = _variables()
  optimizer, _ = _step(_solver(poly_learning_power=0.0), variables, GRADIENTS)
  optimizer.apply([tf.zeros(2), tf.zeros(1), tf.zeros(1)])
  np.testing.assert_allclose(variables[0], [1.0 - 0.3 - 0.9 * 0.3, -2.0], rtol=1e-6)


def test_adam_is_keras_adam_with_its_default_epsilon():
  variables = _variables()
  _step(_solver(optimizer='adam'), variables, GRADIENTS)
  # The first step of Adam moves by the rate, whatever the gradient.
  np.testing.assert_allclose(variables[0], [1.0 - 0.1, -2.0], rtol=1e-5)
  np.testing.assert_allclose(variables[1], [0.4], rtol=1e-5)
  optimizer = _build(_solver(optimizer='adam'), variables).groups[0].optimizer
  assert optimizer.get_config()['epsilon'] == 1e-7


@pytest.mark.parametrize('name', ['adamw', 'radam_lookahead'])
def test_decoupled_decay_shrinks_kernels_and_weights_alone(name):
  decayed, plain = _variables(), _variables()
  _step(_solver(optimizer=name, adamw_weight_decay=0.2), decayed, GRADIENTS)
  _step(_solver(optimizer=name), plain, GRADIENTS)
  for index, start in ((0, [1.0, -2.0]), (2, [3.0])):
    expected = plain[index].numpy() - 0.1 * 0.2 * np.array(start)
    np.testing.assert_allclose(decayed[index], expected, rtol=1e-5)
  np.testing.assert_array_equal(decayed[1], plain[1])


def _pytorch_adamw(start, gradients, rate, decay, epsilon):
  """Returns the values after each step, by PyTorch's definition of AdamW in float64."""
  value, first, second, values = np.array(start, np.float64), 0.0, 0.0, []
  for step, gradient in enumerate(np.asarray(gradients, np.float64), 1):
    value = value - rate * decay * value
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    mean, root = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step))
    value = value - rate * mean / (root + epsilon)
    values.append(value)
  return values


def test_adamw_with_an_epsilon_is_pytorchs():
  # Gradients near epsilon, as those of a large network that are clipped to a norm of 0.01.
  gradients = np.random.default_rng(0).normal(size=(4, 2)) * [1e-8, 1e-6]
  values = {}
  for epsilon in (1e-8, 0.0):
    variable = tf.Variable([1.0, -2.0], name='conv/kernel')
    optimizer = _build(_solver(optimizer='adamw', adamw_weight_decay=0.2, adamw_epsilon=epsilon,
                               poly_learning_power=0.0), [variable])
    optimizer.build()
    values[epsilon] = []
    for gradient in gradients:
      optimizer.apply([tf.constant(gradient, tf.float32)])
      values[epsilon].append(variable.numpy())
  expected = _pytorch_adamw([1.0, -2.0], gradients, 0.1, 0.2, 1e-8)
  np.testing.assert_allclose(values[1e-8], expected, rtol=1e-5)
  # Keras' own form and epsilon give small gradients much smaller steps.
  assert np.abs(np.array(values[0.0]) - expected).max() > 0.05


def test_backbone_has_its_own_rate_and_the_rest_the_base_rate():
  fresh = _variables()
  optimizer = _build(_solver(backbone_learning_rate_multiplier=0.1), fresh, fresh[:1])
  # Gradients are in the order of the groups.
  assert [v.name for v in optimizer.variables] == ['conv/bias:0', 'embedding/weight:0',
                                                   'conv/kernel:0']
  optimizer.build()
  optimizer.apply([tf.ones(1), tf.ones(1), tf.ones(2)])
  np.testing.assert_allclose(fresh[1], [0.5 - 0.1], rtol=1e-6)
  np.testing.assert_allclose(fresh[0], [1.0 - 0.01, -2.0 - 0.01], rtol=1e-6)
  rates = optimizer.learning_rates()
  assert float(rates['backbone']) == pytest.approx(0.1 * float(rates['main']))
  assert [g.name for g in optimizer.groups] == ['main', 'backbone']
  assert set(optimizer.checkpoint_items) == {'optimizer', 'backbone_optimizer'}


def test_multiplier_of_one_makes_one_group():
  variables = _variables()
  assert len(_build(_solver(), variables, variables[:1]).groups) == 1


def test_groups_hold_each_variable_once():
  variables = _variables()
  for groups in ([ParameterGroup('main', variables[:2], 1.0, True)],
                 [ParameterGroup('main', variables, 1.0, True),
                  ParameterGroup('head', variables[2:], 1.0, False)]):
    with pytest.raises(ValueError, match='each trainable variable once.*embedding/weight'):
      optimizers.build(_solver(), variables, groups)


def test_groups_of_one_name_share_an_optimizer_and_a_rate():
  variables = _variables()
  groups = [ParameterGroup('backbone', variables[2:], 0.1, True),
            ParameterGroup('main', variables[1:2], 1.0, True),
            ParameterGroup('main', variables[:1], 1.0, False)]
  solver = _solver(optimizer='adamw', adamw_weight_decay=0.2)
  optimizer = optimizers.build(solver, variables, groups)
  assert [g.name for g in optimizer.groups] == ['backbone', 'main']
  # In the order of the model, whatever that of the groups.
  assert optimizer.groups[1].variables == variables[:2]
  assert optimizer.decayed_variables == [variables[2], variables[1]]
  optimizer.build()
  optimizer.apply([tf.zeros(1), tf.zeros(2), tf.zeros(1)])
  np.testing.assert_allclose(variables[2], [3.0 * (1 - 0.2 * 0.01)], rtol=1e-6)
  np.testing.assert_array_equal(variables[0], [1.0, -2.0])
  np.testing.assert_allclose(variables[1], [0.5 * (1 - 0.2 * 0.1)], rtol=1e-6)
  groups[2] = groups[2]._replace(rate=0.5)
  with pytest.raises(ValueError, match='"main" have several rates'):
    optimizers.build(solver, variables, groups)


def test_clipping_is_by_the_norm_over_all_groups():
  variables = _variables()
  solver = _solver(use_gradient_clipping=True, clip_gradient_norm=1.0,
                   backbone_learning_rate_multiplier=1.0)
  _, norm = _step(solver, variables, GRADIENTS)
  assert norm == pytest.approx(5.0)
  np.testing.assert_allclose(variables[0], [1.0 - 0.1 * 3 / 5, -2.0], rtol=1e-6)
  np.testing.assert_allclose(variables[1], [0.5 - 0.1 * 4 / 5], rtol=1e-6)


def test_small_gradients_are_not_clipped():
  variables = _variables()
  _step(_solver(use_gradient_clipping=True, clip_gradient_norm=10.0), variables, GRADIENTS)
  np.testing.assert_allclose(variables[1], [0.5 - 0.4], rtol=1e-6)


def test_a_variable_without_gradient_stays():
  variables = _variables()
  optimizer = _build(_solver(optimizer='adam'), variables)
  optimizer.build()
  optimizer.apply([None, tf.ones(1), tf.ones(1)])
  np.testing.assert_array_equal(variables[0], [1.0, -2.0])


def test_penalty_counts_kernels_alone():
  optimizer = _build(_solver(), _variables())
  penalty = optimizers.l2_penalty(optimizer.decayed_variables, 0.1)
  assert float(penalty) == pytest.approx(0.05 * (1 + 4 + 9))


def test_unknown_optimizer_lists_those_there_are():
  with pytest.raises(ValueError, match='"lion".*"adam", "adamw", "sgd", "radam_lookahead"'):
    _build(_solver(optimizer='lion'), _variables())


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_state_survives_a_checkpoint(name, tmp_path):
  # Seven steps: Lookahead meets its slow weights at the sixth.
  solver = _solver(optimizer=name, backbone_learning_rate_multiplier=0.5)

  def start():
    variables = _variables()
    optimizer = _build(solver, variables, variables[:1])
    optimizer.build()
    items = dict(optimizer.checkpoint_items, variables=variables)
    return variables, optimizer, tf.train.Checkpoint(**items)

  def step(optimizer, i):
    optimizer.apply([tf.constant([0.1 * i + 0.2] * v.shape[0]) for v in optimizer.variables])

  variables, optimizer, checkpoint = start()
  for i in range(4):
    step(optimizer, i)
  path = checkpoint.save(str(tmp_path / 'ckpt'))
  for i in range(4, 7):
    step(optimizer, i)

  again, optimizer, checkpoint = start()
  checkpoint.restore(path).assert_consumed()
  assert int(optimizer.groups[0].optimizer.iterations) == 4
  for i in range(4, 7):
    step(optimizer, i)
  for restored, uninterrupted in zip(again, variables):
    np.testing.assert_array_equal(restored, uninterrupted)


def test_lookahead_pulls_back_to_the_slow_weights_every_sixth_step():
  variables = _variables()
  optimizer = _build(_solver(optimizer='radam_lookahead'), variables)
  optimizer.build()
  path = [variables[1].numpy()[0]]
  for _ in range(6):
    optimizer.apply([tf.ones_like(v) for v in variables])
    path.append(variables[1].numpy()[0])
  moves = -np.diff(path)
  assert np.all(moves[:5] > 0)
  assert moves[5] < 0


def test_the_schedule_is_in_the_graph_once_and_not_for_each_variable():
  """A step schedule is a chain of conditions, which took half of the time of a first step."""
  def conditions(count):
    variables = [tf.Variable(tf.ones([2]), name='kernel') for _ in range(count)]
    solver = _solver(optimizer='adamw', adamw_weight_decay=0.1, learning_policy='step',
                     decay_steps=[4, 8])
    optimizer = optimizers.build(solver, variables, [ParameterGroup('main', variables, 1.0, True)])
    optimizer.build()
    graph = tf.function(lambda: optimizer.apply([tf.ones([2])] * count),
                        autograph=False).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return sum(node.op in ('If', 'StatelessIf', 'Case', 'StatelessCase') for node in nodes)

  assert 0 < conditions(6) == conditions(2)
