"""The training loop between checkpoints, for Orbit's Controller."""

import contextlib
import itertools
import time
from typing import Callable, NamedTuple, Optional

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.losses import Criterion
from deeplab_tf.training import distribution
from deeplab_tf.training.gradients import GradientFunction
from deeplab_tf.training.signals import Stopped
from deeplab_tf.training.state import TrainingState
from deeplab_tf.user_errors import UserError

# Name of the check of the gradients; losses and outputs are named by the criterion.
_GRADIENTS = 'the norm of the gradients'


class NonFiniteError(UserError, FloatingPointError):
  """A loss, a gradient, or a tensor that they are computed from is not finite."""
  exit_code = 1


class StepOptions(NamedTuple):
  """Options of a training step.

  Attributes:
    global_batch: Images per step over all replicas.
    seed: Seed of the stochastic layers.
    jit_compile: Whether XLA compiles the step, or, with several replicas, the part of each replica.
    weight_decay: Factor of the L2 penalty on decayed variables that is added to the loss; 0 for
      none.
    accumulation_steps: Number of parts that a replica's images are split into; see
      GradientFunction.
    max_skipped_steps: Maximum number of consecutive steps that are skipped because a loss, a
      gradient or another tensor is not finite.
  """
  global_batch: int
  seed: int = 0
  jit_compile: bool = False
  weight_decay: float = 0.0
  accumulation_steps: int = 1
  max_skipped_steps: int = 0


class StepOutput(NamedTuple):
  """Result of a step, equal on all replicas.

  Attributes:
    losses: Name -> float32 [], each weighted loss term over the whole batch, and 'total'.
    unweighted_losses: Name -> float32 [], the terms of the criterion without their weights.
    statistics: Name -> float32 [], means over the replicas and the parts of gradient accumulation.
    learning_rates: Group name -> float32 [], learning rates of this step.
    gradient_norm: float32 [], global norm before clipping.
    weight_norm: float32 [], global norm of all trained variables before the step.
    loss_scale: float32 [], the loss scale; 1 without one.
    checks: Name -> bool [], whether the tensor is finite; gradients that overflow because of the
      loss scale count as finite.
    applied: bool [], whether the weights were updated.
    stop: bool [], whether a worker was asked to stop.
  """
  losses: dict
  unweighted_losses: dict
  statistics: dict
  learning_rates: dict
  gradient_norm: tf.Tensor
  weight_norm: tf.Tensor
  loss_scale: tf.Tensor
  checks: dict
  applied: tf.Tensor
  stop: tf.Tensor

  @property
  def not_finite(self) -> list[str]:
    """The names of tensors that are not finite, if values are numpy; the cause comes first."""
    return [name for name, finite in self.checks.items() if not finite]


class Trainer(orbit.AbstractTrainer):
  """Runs training steps and reports each to a listener.

  A step with a loss or gradient that is not finite changes no variable: weights, optimizer slots
  and batch norm statistics keep their values.

  Attributes:
    last_batch: (images, targets) of the last step, per replica; None before the first.
  """

  def __init__(self, *, strategy: tf.distribute.Strategy, state: TrainingState,
               criterion: Criterion, batches: Callable, options: StepOptions,
               on_step: Optional[Callable] = None,
               stop_requested: Callable[[], bool] = lambda: False):
    """Initializes the trainer.

    Args:
      strategy: Strategy under whose scope the state was created.
      state: Everything that training changes: model, step counter, optimizer and others.
      criterion: Criterion that computes the losses of the network's outputs.
      batches: Function of a step number that returns an iterator over the batches (images,
        targets) from that step on. It is called once, at the first step after a checkpoint has been
        restored.
      options: Options of a step.
      on_step: Function that is called after each step with (step number, StepOutput of numpy
        values, seconds of the step).
      stop_requested: Returns whether to stop; called before each step. The step is still
        completed; then `train` raises Stopped, on all workers after the same step.
    """
    super().__init__()
    self._strategy = strategy
    self._state = state
    self._batches = batches
    self._iterator = None
    self._options = options
    self._on_step = on_step
    self._stop_requested = stop_requested
    self._output_dtypes = None
    self._skipped_in_a_row = 0
    self.last_batch = None
    self._trained = state.optimizer.variables
    self._other = state.model.non_trainable_variables
    replicas = strategy.num_replicas_in_sync
    on_tpu = distribution.is_tpu(strategy)  # On TPU everything is compiled in any case.
    self._compiles_replicas = options.jit_compile and replicas > 1 and not on_tpu
    self._criterion = criterion
    self._gradients = GradientFunction(
        state.model, criterion, self._trained, global_batch=options.global_batch,
        replicas=replicas, parts=options.accumulation_steps,
        decayed=state.optimizer.decayed_variables, weight_decay=options.weight_decay,
        unrolled=replicas > 1 and not on_tpu and not options.jit_compile)
    self._compiled_step = tf.function(
        self._step, autograph=False,
        jit_compile=options.jit_compile and replicas == 1 and not on_tpu)

  # === The host's loop ===

  def prepare(self) -> None:
    """Reads the first batch, so that invalid data is reported before anything is written.

    Raises:
      UsageError: The content of a data file is invalid.
    """
    if self._iterator is None:
      iterator = self._batches(int(self._state.global_step.numpy()))
      self._iterator = itertools.chain([next(iterator)], iterator)

  def train(self, num_steps) -> dict:
    """Runs steps in a loop on the host, which can monitor each step.

    Args:
      num_steps: Number of steps.

    Returns:
      An empty dictionary: steps are reported to the listener.

    Raises:
      NonFiniteError: A loss term, a gradient or a checked tensor is not finite in more consecutive
        steps than max_skipped_steps.
      Stopped: A stop was requested; the last step is complete.
    """
    self.prepare()
    for _ in range(int(num_steps)):
      start = time.monotonic()
      batch = next(self._iterator)
      with _fewer_graph_passes():
        packed = self._compiled_step(batch, tf.constant(self._stop_requested()))
      output = self._unpack(packed.numpy())
      self.last_batch = batch
      step = int(self._state.global_step.numpy())
      self._count_skipped(output, step)
      if self._on_step is not None:
        self._on_step(step, output, time.monotonic() - start)
      if output.stop:
        raise Stopped
    return {}

  def _unpack(self, packed: np.ndarray) -> StepOutput:
    flat = [value.astype(dtype.as_numpy_dtype)
            for value, dtype in zip(packed, tf.nest.flatten(self._output_dtypes))]
    return tf.nest.pack_sequence_as(self._output_dtypes, flat)

  def _count_skipped(self, output: StepOutput, step: int) -> None:
    if not output.not_finite:
      self._skipped_in_a_row = 0
      return
    allowed = self._options.max_skipped_steps
    if self._skipped_in_a_row >= allowed:
      before = f' ({allowed} steps before it were skipped)' if allowed else ''
      raise NonFiniteError(
          f'step {step}: not finite: {", ".join(output.not_finite)}{before}. The last checkpoint '
          'is from before; lower base_learning_rate, use gradient clipping or look at the data')
    self._skipped_in_a_row += 1

  # === One step ===

  def _step(self, batch, stop) -> tf.Tensor:
    """Runs one step on all replicas, in a graph.

    Returns:
      All values of StepOutput as one float32 vector. This needs a single transfer from the device,
      and TensorFlow 2.15 leaks a few bytes for each tensor that it returns to Python.
    """
    state = self._state
    rates = state.optimizer.learning_rates()
    scale = tf.ones([]) if state.loss_scale is None else state.loss_scale.factor.read_value()
    gradients, before, output = self._strategy.run(
        self._forward_backward, args=(batch, state.global_step.read_value(), scale, stop))
    # The replicas have agreed on everything in `output`.
    output = tf.nest.map_structure(
        lambda x: self._strategy.experimental_local_results(x)[0], output)

    def update():
      self._strategy.run(self._update, args=(gradients,))
      if state.average is not None:
        state.average.update(self._strategy, state.global_step.read_value() + 1)
      return tf.constant(True)

    def keep():
      self._strategy.run(self._restore, args=(before,))
      return tf.constant(False)

    tf.cond(output.applied, update, keep)
    if state.loss_scale is not None:
      finite = tf.math.is_finite(output.gradient_norm)
      # A tensor that is not finite at any scale does not mean that the scale is too large.
      state.loss_scale.update(finite | ~tf.reduce_all(tf.stack(list(output.checks.values()))))
    state.global_step.assign_add(1)
    output = output._replace(learning_rates=rates)
    self._output_dtypes = tf.nest.map_structure(lambda x: x.dtype, output)
    return tf.stack([tf.cast(value, tf.float32) for value in tf.nest.flatten(output)])

  def _forward_backward(self, batch, step, scale, stop):
    """Returns losses and gradients, summed over the replicas.

    Returns:
      ({index of a trained variable: clipped gradient}, values of the model's other variables before
      the step, StepOutput without learning rates).
    """
    images, targets = batch
    before = [tf.identity(variable) for variable in self._other]
    context = tf.distribute.get_replica_context()
    seed = tf.stack([tf.constant(self._options.seed, tf.int64), step])
    compute = self._gradients
    if self._compiles_replicas:
      compute = tf.function(compute, autograph=False, jit_compile=True)
    normalizers = _reduce_scalars(self._criterion.normalizers(targets), 'SUM')
    own = compute(images, targets, normalizers, seed,
                  tf.cast(context.replica_id_in_sync_group, tf.int32), scale)
    flags = {**own.broken, 'stop': tf.cast(stop, tf.float32)}
    losses, unweighted, flags = _reduce_scalars((own.losses, own.unweighted, flags), 'SUM')
    statistics = _reduce_scalars(own.statistics, 'MEAN')
    gradients = _sum_over_replicas(own.gradients)
    if self._state.loss_scale is not None:
      gradients = {name: gradient / scale for name, gradient in gradients.items()}
    clipped, norm = self._state.optimizer.clip(list(gradients.values()))
    stop = flags.pop('stop') > 0.0
    checks = {name: tf.equal(value, 0.0) for name, value in flags.items()}
    checks.update({f'loss "{name}"': tf.math.is_finite(value)
                   for name, value in losses.items()})
    finite = tf.math.is_finite(norm)
    # With a loss scale above 1, occasional overflows are expected.
    checks[_GRADIENTS] = finite | (scale > 1.0)
    applied = finite & tf.reduce_all(tf.stack(list(checks.values())))
    output = StepOutput(losses=losses, unweighted_losses=unweighted, statistics=statistics,
                        learning_rates={}, gradient_norm=norm,
                        weight_norm=tf.linalg.global_norm(self._trained), loss_scale=scale,
                        checks=checks, applied=applied, stop=stop)
    return dict(zip(gradients, clipped)), before, output

  def _update(self, gradients: dict) -> None:
    self._state.optimizer.apply([gradients.get(str(i)) for i in range(len(self._trained))])

  def _restore(self, before: list) -> None:
    for variable, value in zip(self._other, before):
      variable.assign(value)


@contextlib.contextmanager
def _fewer_graph_passes():
  """Disables two graph optimizations that delay the first training step without making it faster.

  On two CPU cores MaX-DeepLab-S at 321x321 completes its first step after 19 s instead of 24 s, and
  later steps take the same time. Inference needs them: they fuse convolutions and batch norms.
  """
  before = tf.config.optimizer.get_experimental_options()
  tf.config.optimizer.set_experimental_options({'remapping': False, 'constant_folding': False})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options(
        {'remapping': before.get('remapping', True),
         'constant_folding': before.get('constant_folding', True)})


def _sum_over_replicas(values):
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return values
  return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def _reduce_scalars(values, operation: str):
  """Sums or averages a structure of float32 [] over the replicas, as one tensor."""
  context = tf.distribute.get_replica_context()
  flat = tf.nest.flatten(values)
  if context.num_replicas_in_sync == 1 or not flat:
    return values
  reduced = context.all_reduce(tf.distribute.ReduceOp[operation], tf.stack(flat))
  return tf.nest.pack_sequence_as(values, tf.unstack(reduced, len(flat)))


def build(config, architecture, dataset_info, *, strategy: tf.distribute.Strategy,
          state: TrainingState, batches: Callable, **listeners: Callable) -> Trainer:
  """Builds the trainer that a config describes.

  Args:
    config: ExperimentOptions.
    architecture: The config's architecture; see deeplab_tf.models.
    dataset_info: The classes.
    strategy: The devices.
    state: Result of state.build.
    batches: Function of a step number that returns an iterator over batches; see Trainer.
    **listeners: on_step and stop_requested of Trainer.
  """
  options, solver = config.trainer_options, config.trainer_options.solver_options
  return Trainer(
      strategy=strategy, state=state, batches=batches,
      criterion=architecture.build_criterion(config, dataset_info),
      options=StepOptions(
          global_batch=config.train_dataset_options.batch_size, seed=options.seed,
          jit_compile=options.jit_compile,
          weight_decay=solver.weight_decay if solver.apply_weight_decay else 0.0,
          accumulation_steps=options.gradient_accumulation_steps,
          max_skipped_steps=options.max_skipped_steps), **listeners)
