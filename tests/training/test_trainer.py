"""The training step on a small network: losses, replicas, XLA and numbers that are not finite."""

import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.losses.criterion import CriterionResult, are_finite
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.training import optimizers
from deeplab_tf.training.trainer import NonFiniteError, StepOptions, Trainer

SOLVER = trainer_pb2.SolverOptions(base_learning_rate=0.01, training_number_of_steps=100,
                                   optimizer='adam', use_gradient_clipping=True,
                                   clip_gradient_norm=1.0)


class Network(tf.keras.Model):
  """A projection and a synchronised batch norm."""

  def __init__(self):
    super().__init__()
    self.kernel = self.add_weight('kernel', (3, 4), initializer=tf.keras.initializers.GlorotNormal(
        seed=1))
    self.norm = BatchNorm(4)

  def call(self, images, training=False):
    return {'logits': self.norm(images @ self.kernel, training=training)}


def criterion(outputs, targets):
  logits = outputs['logits']
  losses = {'near': tf.reduce_mean((logits - targets)**2, [1, 2, 3]),
            'small': 0.1 * tf.reduce_mean(tf.abs(logits), [1, 2, 3])}
  statistics = {'mean': tf.reduce_mean(logits)}
  return CriterionResult(losses, tf.add_n(list(losses.values())), statistics, are_finite(outputs))


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


def make(strategy=None, batches=None, **options):
  """Returns (trainer, the list that its steps are added to)."""
  strategy = strategy or tf.distribute.OneDeviceStrategy('/cpu:0')
  with strategy.scope():
    model = Network()
    step = tf.Variable(0, dtype=tf.int64, trainable=False,
                       aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    optimizer = optimizers.build(SOLVER, model.trainable_variables)
    optimizer.build()
  seen = []
  trainer = Trainer(strategy=strategy, model=model, criterion=criterion, optimizer=optimizer,
                    global_step=step, batches=batches or batches_of(4),
                    on_step=lambda number, output, seconds: seen.append((number, output)),
                    options=StepOptions(4, **options))
  trainer.everything = (model.variables + [step]
                        + [v for g in optimizer.groups for v in g.optimizer.variables()])
  return trainer, seen


def test_steps_are_numbered_and_the_loss_is_the_mean_over_the_batch():
  trainer, seen = make()
  model = trainer._model
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
  kernel = trainer._model.kernel.numpy()
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
  assert changed == [len(trainer._model.variables)]
  assert len(seen) == 2


def test_costs_that_the_host_solver_refuses_stop_with_their_name():
  def refusing(outputs, targets):
    del targets

    def refuse(_):
      raise ValueError('matching costs contain NaN or infinity (costs[image 0, query 1, target 2])')
    loss = tf.py_function(refuse, [outputs['logits']], tf.float32)
    loss = tf.reduce_mean(outputs['logits'], [1, 2, 3]) + tf.reshape(loss, [1])
    return CriterionResult({'a': loss}, loss, {}, {})
  trainer, _ = make()
  trainer._criterion = refusing
  with pytest.raises(NonFiniteError, match=r'step 1: matching costs contain NaN.*query 1'):
    trainer.train(1)


def test_the_iterator_starts_at_the_global_step():
  trainer, seen = make()
  trainer._global_step.assign(7)
  images, targets = next(batches_of(4)(7))
  expected = criterion(trainer._model(images, training=True), targets)
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
      return [float(o.losses['total']) for _, o in seen] + [float(o.gradient_norm)
                                                            for _, o in seen]

    one = values(*test_trainer.make())
    two = values(*test_trainer.make(strategy, test_trainer.per_replica(strategy)))
    print(json.dumps([one, two]))
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
  one, two = json.loads(done.stdout.splitlines()[-1])
  np.testing.assert_allclose(two, one, rtol=1e-5)
