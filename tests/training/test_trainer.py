"""The training step of a small network: losses, replicas, XLA, and values that are not finite."""

import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import matching
from deeplab_tf.architecture import parameter_groups
from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.losses.criterion import CriterionResult, PerImageCriterion, are_finite
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.training import optimizers, precision
from deeplab_tf.training.signals import Stopped
from deeplab_tf.training.state import TrainingState
from deeplab_tf.training.trainer import NonFiniteError, StepOptions, Trainer
from deeplab_tf.training.weight_average import WeightAverage

SOLVER = trainer_pb2.SolverOptions(base_learning_rate=0.01, training_number_of_steps=100,
                                   optimizer='adam', use_gradient_clipping=True,
                                   clip_gradient_norm=1.0)


class Network(keras.Model):
  """A projection and a synchronized batch norm."""

  def __init__(self):
    super().__init__()
    self.kernel = self.add_weight('kernel', (3, 4), initializer=keras.initializers.GlorotNormal(
        seed=1))
    self.norm = BatchNorm(4)

  def call(self, images, training=False):
    return {'logits': self.norm(images @ self.kernel, training=training)}


class SmallCriterion(PerImageCriterion):

  def image_losses(self, outputs, targets):
    logits = outputs['logits']
    losses = {'near': tf.reduce_mean((logits - targets)**2, [1, 2, 3]),
              'small': 0.1 * tf.reduce_mean(tf.abs(logits), [1, 2, 3])}
    statistics = {'mean': tf.reduce_mean(logits)}
    weights = {'near': 1.0, 'small': 0.1}
    return CriterionResult(losses, weights, tf.add_n(list(losses.values())), statistics,
                           are_finite(outputs))


criterion = SmallCriterion()


def batches_of(batch_size, poisoned_step=None):
  """Returns step -> an iterator over the batches from that step on."""

  def batches(start):
    step = start
    while True:
      rng = np.random.default_rng(step)
      images = rng.normal(size=(batch_size, 4, 4, 3)).astype(np.float32)
      if step == poisoned_step:
        images[0, 0, 0, 0] = np.nan
      yield tf.constant(images), tf.constant(
          rng.normal(size=(batch_size, 4, 4, 1)).astype(np.float32))
      step += 1

  return batches


def make(strategy=None, batches=None, loss_scale=False, decay=0.0, network=None,
         loss=None, stop_requested=lambda: False, **options):
  """Returns (trainer, the list that its steps are added to)."""
  strategy = strategy or tf.distribute.OneDeviceStrategy('/cpu:0')
  with strategy.scope():
    model = (network or Network)()
    step = tf.Variable(0, dtype=tf.int64, trainable=False,
                       aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    optimizer = optimizers.build(SOLVER, model.trainable_variables,
                                 parameter_groups(model.trainable_variables))
    optimizer.build()
    scale = precision.LossScale(2.0**10) if loss_scale else None
    average = WeightAverage(model, decay) if decay else None
  state = TrainingState(model, step, optimizer, scale, average)
  seen = []
  trainer = Trainer(strategy=strategy, state=state, criterion=loss or criterion,
                    batches=batches or batches_of(4),
                    on_step=lambda number, output, seconds: seen.append((number, output)),
                    stop_requested=stop_requested, options=StepOptions(4, **options))
  trainer.everything = (model.variables + [step]
                        + [v for g in optimizer.groups for v in g.optimizer.variables()])
  return trainer, seen


def test_steps_are_numbered_and_the_loss_is_the_mean_over_the_batch():
  trainer, seen = make()
  model = trainer._state.model
  kernel = model.kernel.numpy()
  images, targets = next(batches_of(4)(0))
  expected = criterion(model(images, training=True), targets)
  trainer.train(3)
  assert [number for number, _ in seen] == [1, 2, 3]
  output = seen[0][1]
  assert output.losses['near'] == pytest.approx(np.mean(expected.losses['near']), rel=1e-5)
  assert output.losses['total'] == pytest.approx(
      output.losses['near'] + output.losses['small'], rel=1e-6)
  assert output.learning_rates['main'] == pytest.approx(0.01)
  assert np.any(model.kernel.numpy() != kernel)
  assert all(output.checks.values())


def test_weight_decay_is_a_loss_term_of_its_own():
  trainer, seen = make(weight_decay=0.1)
  kernel = trainer._state.model.kernel.numpy()
  trainer.train(1)
  losses = seen[0][1].losses
  assert losses['weight_decay'] == pytest.approx(0.05 * np.sum(kernel**2), rel=1e-5)
  assert losses['total'] == pytest.approx(
      losses['near'] + losses['small'] + losses['weight_decay'], rel=1e-5)


def test_xla_gives_the_same_steps():
  plain, compiled = make(), make(jit_compile=True)
  for trainer, _ in (plain, compiled):
    trainer.train(3)
  for (_, a), (_, b) in zip(plain[1], compiled[1]):
    assert a.losses['total'] == pytest.approx(b.losses['total'], rel=1e-5)
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_a_step_that_is_not_finite_stops_and_changes_nothing(jit_compile):
  trainer, seen = make(batches=batches_of(4, poisoned_step=2), jit_compile=jit_compile)
  trainer.train(2)
  before = [v.numpy() for v in trainer.everything]
  with pytest.raises(NonFiniteError, match=r'step 3: not finite: logits, loss "near"'):
    trainer.train(2)
  after = [v.numpy() for v in trainer.everything]
  changed = [i for i, (a, b) in enumerate(zip(before, after)) if not np.array_equal(a, b)]
  # The steps are counted on, nothing else.
  assert changed == [len(trainer._state.model.variables)]
  assert len(seen) == 2


@pytest.mark.parametrize('solver, jit_compile', [('scipy', False), ('native', True)])
def test_costs_that_are_not_finite_are_named_with_both_solvers(solver, jit_compile):

  class MatchingCriterion(PerImageCriterion):

    def image_losses(self, outputs, targets):
      del targets
      logits = outputs['logits']
      costs = tf.reshape(logits, [-1, 4, 16])
      found = matching.match(tf.where(tf.math.is_finite(costs), costs, 0.),
                             tf.ones([4, 16], tf.bool), solver)
      loss = tf.reduce_mean(logits, [1, 2, 3]) + 0.0 * tf.cast(found[:, 0], tf.float32)
      return CriterionResult({'a': loss}, {'a': 1.0}, loss, {},
                             are_finite({'matching_costs': costs}))

  trainer, _ = make(batches=batches_of(4, poisoned_step=1), loss=MatchingCriterion(),
                    jit_compile=jit_compile)
  with pytest.raises(NonFiniteError, match=r'step 2: not finite: matching_costs, loss "a"'):
    trainer.train(2)


def test_steps_that_are_not_finite_are_skipped_up_to_the_limit():
  trainer, seen = make(batches=batches_of(4, poisoned_step=2), max_skipped_steps=1)
  trainer.train(2)
  kernel = trainer._state.model.kernel.numpy()
  trainer.train(1)
  np.testing.assert_array_equal(trainer._state.model.kernel, kernel)
  trainer.train(1)
  assert np.any(trainer._state.model.kernel.numpy() != kernel)
  assert [number for number, _ in seen] == [1, 2, 3, 4]
  assert [bool(o.applied) for _, o in seen] == [True, True, False, True]
  # Not in a row, so another one may be skipped, but not two.
  trainer, _ = make(batches=lambda start: (
      (tf.constant(np.nan, shape=[4, 4, 4, 3]), tf.zeros([4, 4, 4, 1])) for _ in range(9)),
                    max_skipped_steps=2)
  with pytest.raises(NonFiniteError, match=r'step 3: .*\(2 steps before it were skipped\)'):
    trainer.train(9)


def test_a_requested_stop_ends_after_a_whole_step():
  requests = iter([False, True, False])
  trainer, seen = make(stop_requested=lambda: next(requests))
  with pytest.raises(Stopped):
    trainer.train(3)
  assert [number for number, _ in seen] == [1, 2]
  assert seen[-1][1].applied


class FrozenNetwork(Network):
  """Has no batch statistics, and noise of its own for each image."""

  def __init__(self):
    super().__init__()
    self.norm = BatchNorm(4, frozen=True)

  def call(self, images, training=False):
    outputs = super().call(images, training=training)
    noise = randomness.uniform([images.shape[0], 1, 1, 1])
    return {'logits': outputs['logits'] * (0.5 + noise)}


class NoisyNetwork(Network):
  """Has noise of its own for each image before and after a batch norm over all replicas."""

  def call(self, images, training=False):
    shape = [images.shape[0], 1, 1, 1]
    images *= 0.5 + randomness.uniform(shape)
    outputs = super().call(images, training=training)
    return {'logits': outputs['logits'] * (0.5 + randomness.uniform(shape))}


@pytest.mark.parametrize('parts, jit_compile', [(2, False), (4, False), (4, True)])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, jit_compile):
  whole = make(network=FrozenNetwork, weight_decay=0.1)
  accumulated = make(network=FrozenNetwork, weight_decay=0.1, accumulation_steps=parts,
                     jit_compile=jit_compile)
  for trainer, _ in (whole, accumulated):
    trainer.train(3)
  assert_same_steps(whole[1], accumulated[1])
  for a, b in zip(whole[0].everything, accumulated[0].everything):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


def assert_same_steps(first, second, rtol=1e-5):
  assert len(first) == len(second)
  for (_, a), (_, b) in zip(first, second):
    assert a.losses == pytest.approx(b.losses, rel=rtol)
    assert a.unweighted_losses == pytest.approx(b.unweighted_losses, rel=rtol)
    assert a.statistics == pytest.approx(b.statistics, rel=rtol, abs=1e-6)
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=10 * rtol)
    assert a.weight_norm == pytest.approx(b.weight_norm, rel=rtol)


def test_batch_norms_see_each_accumulated_part_alone():
  whole, parts = make(), make(accumulation_steps=2)
  for trainer, _ in (whole, parts):
    trainer.train(1)
  assert whole[1][0][1].losses['near'] != pytest.approx(parts[1][0][1].losses['near'], rel=1e-4)
  # Moving statistics have moved twice.
  once, twice = (t._state.model.norm.moving_variance.numpy() for t, _ in (whole, parts))
  assert np.all(np.abs(twice - 1.0) > 1.5 * np.abs(once - 1.0))


def test_frozen_batch_norms_keep_their_statistics_and_learn_their_scales():
  trainer, _ = make(network=FrozenNetwork)
  trainer.train(2)
  norm = trainer._state.model.norm
  np.testing.assert_array_equal(norm.moving_variance, np.ones(4))
  assert np.any(norm.gamma.numpy() != 1.0)


def test_unweighted_losses_are_the_terms_without_their_weights():
  trainer, seen = make()
  trainer.train(1)
  output = seen[0][1]
  assert set(output.unweighted_losses) == {'near', 'small'}
  assert output.losses['small'] == pytest.approx(0.1 * output.unweighted_losses['small'])
  assert output.losses['near'] == pytest.approx(output.unweighted_losses['near'])


class SteepCriterion(SmallCriterion):

  def image_losses(self, outputs, targets):
    result = super().image_losses(outputs, targets)
    return result._replace(total=1e4 * result.total)


def test_a_loss_scale_changes_no_step_and_halves_when_gradients_overflow():
  plain, scaled = make(), make(loss_scale=True)
  for trainer, _ in (plain, scaled):
    trainer.train(3)
  assert_same_steps(plain[1], scaled[1])
  trainer, seen = make(loss_scale=True, loss=SteepCriterion())
  trainer._state.loss_scale.factor.assign(3e38)
  before = [v.numpy() for v in trainer._trained]
  trainer.train(1)
  assert not seen[-1][1].applied
  assert not seen[-1][1].not_finite  # To be expected, and no fault.
  np.testing.assert_allclose(trainer._state.loss_scale.factor.numpy(), 1.5e38)
  for a, b in zip(before, trainer._trained):
    np.testing.assert_array_equal(a, b)
  trainer._state.loss_scale.factor.assign(1024.0)
  trainer._state.loss_scale.steps.assign(1999)
  trainer.train(2)
  assert seen[-1][1].applied
  assert trainer._state.loss_scale.factor.numpy() == 2048.0


def test_what_breaks_whatever_the_scale_stops_a_scaled_training_too():
  trainer, _ = make(batches=batches_of(4, poisoned_step=1), loss_scale=True)
  with pytest.raises(NonFiniteError, match='step 2: not finite: logits'):
    trainer.train(2)
  assert trainer._state.loss_scale.factor.numpy() == 1024.0


def test_weights_are_averaged_and_exchanged_for_evaluation():
  trainer, _ = make(decay=0.5)
  model, average = trainer._state.model, trainer._state.average
  paths = variables_by_path(model)
  expected = {path: v.numpy() for path, v in paths.items()}
  for step in (1, 2, 3):
    trainer.train(1)
    keep = min(0.5, (1 + step) / (10 + step))
    expected = {path: keep * expected[path] + (1 - keep) * v.numpy() for path, v in paths.items()}
  for path, variable in average.variables.items():
    np.testing.assert_allclose(variable.numpy(), expected[path], rtol=1e-5, err_msg=path)
  kernel = model.kernel.numpy()
  with average.applied():
    np.testing.assert_allclose(model.kernel, expected['kernel'], rtol=1e-5)
  np.testing.assert_array_equal(model.kernel, kernel)
  np.testing.assert_allclose(average.variables['kernel'], expected['kernel'], rtol=1e-5)


def test_the_iterator_starts_at_the_global_step():
  trainer, seen = make()
  trainer._state.global_step.assign(7)
  images, targets = next(batches_of(4)(7))
  expected = criterion(trainer._state.model(images, training=True), targets)
  trainer.train(1)
  assert seen[0][0] == 8
  assert seen[0][1].losses['near'] == pytest.approx(np.mean(expected.losses['near']), rel=1e-5)


MIRRORED = textwrap.dedent("""
    import json
    import sys
    sys.path[:0] = [{folder!r}]
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_trainer
    strategy = tf.distribute.MirroredStrategy(['/cpu:0', '/cpu:1'])

    def values(trainer, seen):
      trainer.train(4)
      kernel = trainer._state.model.kernel
      if trainer._state.average is not None:
        kernel = trainer._state.average.variables['kernel']
      figures = [x for _, o in seen for x in (o.losses['total'], o.gradient_norm)]
      return [float(x) for x in figures + [kernel.numpy().sum()]]

    both, averaged = [], []
    for options in (dict(network=test_trainer.NoisyNetwork),
                    dict(network=test_trainer.FrozenNetwork, accumulation_steps=2),
                    dict(network=test_trainer.FrozenNetwork, jit_compile=True)):
      for own in ((), (strategy, test_trainer.per_replica(strategy))):
        both.append(values(*test_trainer.make(*own, loss_scale=True, **options)))
        averaged.append(values(*test_trainer.make(*own, decay=0.5)))
    # Collectives instead of the cross-replica context, as between machines and GPUs.
    workers = tf.distribute.MultiWorkerMirroredStrategy._from_local_devices(('/cpu:0', '/cpu:1'))
    both.append(values(*test_trainer.make(workers, test_trainer.per_replica(workers),
                                          network=test_trainer.NoisyNetwork)))
    print(json.dumps([*both, *averaged[:2]]))
""")


def per_replica(strategy):
  """Returns step -> an iterator over batches of which each of two replicas has one half."""

  def batches(start):
    for images, targets in batches_of(4)(start):
      halves = [(images[:2], targets[:2]), (images[2:], targets[2:])]
      parts = [strategy.experimental_distribute_values_from_function(
          lambda context, j=j, halves=halves: halves[context.replica_id_in_sync_group][j])
               for j in (0, 1)]
      yield tuple(parts)

  return batches


def test_two_mirrored_replicas_give_the_losses_of_one_device():
  # A process of its own: logical devices are set before TensorFlow starts.
  program = MIRRORED.format(folder=str(pathlib.Path(__file__).parent))
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                        check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  (one, mirrored, one_accumulated, mirrored_accumulated, one_compiled, mirrored_compiled, workers,
   one_average, mirrored_average) = json.loads(done.stdout.splitlines()[-1])
  for expected, found in ((one, mirrored), (one, workers),
                          (one_accumulated, mirrored_accumulated),
                          (one_compiled, mirrored_compiled), (one_average, mirrored_average)):
    np.testing.assert_allclose(found, expected, rtol=2e-5)
