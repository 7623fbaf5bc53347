"""The training loop inside a checkpoint interval, for Orbit's Controller."""

import contextlib
import re
import time
from typing import Callable, NamedTuple, Optional

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.training import optimizers as optimizers_lib

_NOT_FINITE = re.compile(r'\w[\w ]* contain NaN or infinity \([^()]*\)')


class NonFiniteError(FloatingPointError):
  """A loss, a gradient or a tensor that they come from is not a finite number."""


class StepOptions(NamedTuple):
  """How a training step is made.

  Attributes:
    global_batch: Images per step over all replicas.
    seed: Of the stochastic layers.
    jit_compile: Compiles the step with XLA.
    weight_decay: Factor of the L2 penalty on kernels that is added to the loss; 0: none.
  """
  global_batch: int
  seed: int = 0
  jit_compile: bool = False
  weight_decay: float = 0.0


class StepOutput(NamedTuple):
  """What one step returns, the same on all replicas.

  Attributes:
    losses: Name -> float32 [], each weighted loss term over the whole batch, and 'total'.
    statistics: Name -> float32 [].
    learning_rates: Group name -> float32 [], the rates of this step.
    gradient_norm: float32 [], before clipping.
    checks: Name -> bool [], whether it is finite.
  """
  losses: dict
  statistics: dict
  learning_rates: dict
  gradient_norm: tf.Tensor
  checks: dict


class Trainer(orbit.AbstractTrainer):
  """Runs training steps and tells listeners about each.

  A step with a non-finite loss or gradient changes no variable: the weights, the slots and the
  statistics of the batch norms stay those of the step before.

  Attributes:
    last_batch: (images, targets) of the latest step, per replica; None before the first.
  """

  def __init__(self, *, strategy: tf.distribute.Strategy, model: tf.keras.Model,
               criterion: Callable, optimizer: optimizers_lib.GroupedOptimizer,
               global_step: tf.Variable, batches: Callable, options: StepOptions,
               on_step: Optional[Callable] = None):
    """Initialises the trainer.

    Args:
      strategy: Under whose scope model, optimizer and global_step were made.
      model: The network.
      criterion: (outputs, targets) -> losses.CriterionResult.
      optimizer: Its slots are built.
      global_step: int64 [], the steps that are done.
      batches: step -> an iterator over the batches (images, targets) from that step on. Called
        once, at the first step after a checkpoint has been restored.
      options: How a step is made.
      on_step: Called after each step with (step number, dictionary of numpy values like
        StepOutput's fields, seconds of the step).
    """
    super().__init__()
    self._strategy = strategy
    self._model = model
    self._criterion = criterion
    self._optimizer = optimizer
    self._global_step = global_step
    self._batches = batches
    self._iterator = None
    self._options = options
    self._on_step = on_step
    self.last_batch = None
    self._trained = optimizer.variables
    self._state = model.non_trainable_variables
    self._compiled_step = tf.function(self._step, autograph=False,
                                      jit_compile=options.jit_compile)

  def train(self, num_steps) -> dict:
    """Runs steps; a loop of the host, so that each step can be watched.

    Raises:
      NonFiniteError: A loss term, a gradient or a checked tensor is not finite.
    """
    if self._iterator is None:
      self._iterator = self._batches(int(self._global_step.numpy()))
    for _ in range(int(num_steps)):
      start = time.monotonic()
      batch = next(self._iterator)
      output = self._checked_step(batch)
      self.last_batch = batch
      step = int(self._global_step.numpy())
      if self._on_step is not None:
        self._on_step(step, output, time.monotonic() - start)
    return {}

  def _checked_step(self, batch) -> StepOutput:
    """Runs a step; its output as numpy values."""
    step = int(self._global_step.numpy()) + 1
    try:
      with _fewer_graph_passes():
        output = tf.nest.map_structure(_to_numpy, self._compiled_step(batch))
    except tf.errors.InvalidArgumentError as error:
      # The matching solver on the host raises before the flags can be returned.
      found = _NOT_FINITE.search(str(error))
      if found is None:
        raise
      raise NonFiniteError(_describe(found.group(0), step)) from error
    check_finite(output.checks, step)
    return output

  def _step(self, batch) -> StepOutput:
    """One step over all replicas, as a graph."""
    rates = self._optimizer.learning_rates()
    gradients, state, output = self._strategy.run(
        self._forward_backward, args=(batch, self._global_step.read_value()))
    # The replicas have agreed on everything in `output`.
    output = tf.nest.map_structure(
        lambda x: self._strategy.experimental_local_results(x)[0], output)
    finite = tf.reduce_all(tf.stack(list(output.checks.values())))

    def update():
      self._strategy.run(self._update, args=(gradients,))
      return tf.constant(True)

    def keep():
      self._strategy.run(self._restore_state, args=(state,))
      return tf.constant(False)

    tf.cond(finite, update, keep)
    self._global_step.assign_add(1)
    return output._replace(learning_rates=rates)

  def _forward_backward(self, batch, step):
    """The losses and the gradients, summed over the replicas.

    Returns:
      ({index among the trained variables: clipped gradient}, the model's other variables before
      the step, StepOutput without learning rates).
    """
    images, targets = batch
    state = [tf.identity(variable) for variable in self._state]
    with tf.GradientTape() as tape, randomness.seeded(self._random_seed(step)):
      result = self._criterion(self._model(images, training=True), targets)
      losses = {name: tf.reduce_sum(value) / self._options.global_batch
                for name, value in result.losses.items()}
      total = tf.reduce_sum(result.total) / self._options.global_batch
      weight_decay = self._options.weight_decay
      if weight_decay:
        replicas = self._strategy.num_replicas_in_sync
        penalty = optimizers_lib.kernel_penalty(self._trained, weight_decay) / replicas
        losses['weight_decay'] = penalty
        total += penalty
    losses['total'] = total
    gradients = {str(i): tf.convert_to_tensor(gradient) for i, gradient
                 in enumerate(tape.gradient(total, self._trained)) if gradient is not None}
    if not gradients:
      raise ValueError('no variable has a gradient: every loss term is switched off')
    broken = {name: 1.0 - tf.cast(flag, tf.float32) for name, flag in result.checks.items()}
    gradients, losses, broken = _sum_over_replicas((gradients, losses, broken))
    statistics = _mean_over_replicas(dict(result.statistics))
    clipped, norm = self._optimizer.clip(list(gradients.values()))
    checks = {name: tf.equal(value, 0.0) for name, value in broken.items()}
    checks.update({f'loss "{name}"': tf.math.is_finite(value)
                   for name, value in losses.items()})
    checks['the norm of the gradients'] = tf.math.is_finite(norm)
    output = StepOutput(losses, statistics, {}, norm, checks)
    return dict(zip(gradients, clipped)), state, output

  def _random_seed(self, step):
    """The seed of the stochastic layers, a function of the step and the replica."""
    context = tf.distribute.get_replica_context()
    replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
    return tf.stack([tf.constant(self._options.seed, tf.int64),
                     step * context.num_replicas_in_sync + replica])

  def _update(self, gradients: dict) -> None:
    self._optimizer.apply([gradients.get(str(i)) for i in range(len(self._trained))])

  def _restore_state(self, state: list) -> None:
    for variable, value in zip(self._state, state):
      variable.assign(value)


@contextlib.contextmanager
def _fewer_graph_passes():
  """Leaves out two passes over the graph that cost a training step's start and give it nothing.

  MaX-DeepLab-S at 321x321 takes its first step after 19 s instead of 24 s on two CPU cores, and
  every later one in the same time. Inference needs them: they fuse convolutions and batch norms.
  """
  before = tf.config.optimizer.get_experimental_options()
  tf.config.optimizer.set_experimental_options({'remapping': False, 'constant_folding': False})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options(
        {'remapping': before.get('remapping', True),
         'constant_folding': before.get('constant_folding', True)})


def check_finite(checks: dict, step: int) -> None:
  """Raises NonFiniteError naming what is not finite.

  Args:
    checks: Name -> whether it is finite; the first that is not is closest to the cause.
    step: The number of the step, from 1.
  """
  broken = [name for name, finite in checks.items() if not finite]
  if broken:
    raise NonFiniteError(_describe(f'not finite: {", ".join(broken)}', step))


def _describe(cause: str, step: int) -> str:
  return (f'step {step}: {cause}. The last checkpoint is from before; lower '
          'base_learning_rate, use gradient clipping or look at the data')


def _sum_over_replicas(values):
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return values
  return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def _mean_over_replicas(values):
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1 or not values:
    return values
  return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)


def _to_numpy(value) -> np.ndarray:
  return value.numpy()
