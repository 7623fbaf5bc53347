"""Learning rate schedules: poly, cosine or steps, with linear warm-up."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.user_errors import ConfigError

POLICIES = ('poly', 'cosine', 'step')


class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
  """Increases linearly from 0 to a peak, then follows another schedule.

  The other schedule is evaluated at the unshifted step, so the learning rate drops slightly at the
  end of the warm-up, as in DeepLab2. LinearWarmup of tf-models-official instead increases to the
  value of the other schedule at the end of the warm-up.
  """

  def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule,
               peak: float, warmup_steps: int):
    """Initializes the schedule.

    Args:
      schedule: Schedule after the warm-up.
      peak: Learning rate at the end of the warm-up.
      warmup_steps: Number of steps of the warm-up, at least 1.
    """
    super().__init__()
    self.schedule = schedule
    self.peak = peak
    self.warmup_steps = warmup_steps

  def __call__(self, step):
    """Returns the learning rate, float32 [], at a step (an integer or an integer tensor)."""
    position = tf.cast(step, tf.float32)
    rising = self.peak * position / float(self.warmup_steps)
    return tf.where(position < float(self.warmup_steps), rising, self.schedule(step))

  def get_config(self):
    serialize = keras.optimizers.schedules.serialize
    return {'schedule': serialize(self.schedule), 'peak': self.peak,
            'warmup_steps': self.warmup_steps}

  @classmethod
  def from_config(cls, config):
    schedule = keras.optimizers.schedules.deserialize(config['schedule'])
    return cls(schedule, config['peak'], config['warmup_steps'])


def build(solver, multiplier: float = 1.0) -> keras.optimizers.schedules.LearningRateSchedule:
  """Builds the schedule that the solver options describe.

  Args:
    solver: SolverOptions.
    multiplier: Factor on base_learning_rate. As in DeepLab2, the final learning rate of the poly
      schedule is not multiplied.

  Raises:
    ValueError: learning_policy is unknown.
  """
  peak = solver.base_learning_rate * multiplier
  steps = solver.training_number_of_steps
  if solver.learning_policy == 'poly':
    schedule = keras.optimizers.schedules.PolynomialDecay(
        peak, steps, end_learning_rate=solver.poly_end_learning_rate,
        power=solver.poly_learning_power)
  elif solver.learning_policy == 'cosine':
    schedule = keras.optimizers.schedules.CosineDecay(peak, steps)
  elif solver.learning_policy == 'step':
    schedule = _steps(peak, solver)
  else:
    raise ConfigError(f'solver_options.learning_policy is "{solver.learning_policy}"; it can be '
                      + ', '.join(f'"{name}"' for name in POLICIES))
  if solver.warmup_steps > 0:
    return LinearWarmup(schedule, peak, solver.warmup_steps)
  return schedule


def _steps(peak: float, solver) -> keras.optimizers.schedules.LearningRateSchedule:
  """Returns a schedule that multiplies the rate at each decay step, as PyTorch's MultiStepLR."""
  starts = list(solver.decay_steps)
  if not starts or sorted(set(starts)) != starts:
    raise ConfigError('solver_options.learning_policy is "step", and decay_steps is '
                      f'{starts}: give the steps at which the rate falls, ascending')
  rates = [peak * solver.step_decay_rate**number for number in range(len(starts) + 1)]
  # Keras uses a rate up to and including its boundary.
  return keras.optimizers.schedules.PiecewiseConstantDecay([step - 1 for step in starts], rates)
