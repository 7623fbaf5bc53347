"""Exponential moving average of a model's weights, for evaluation and export."""

import contextlib
from typing import Iterator

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import variables_by_path


class WeightAverage:
  """Averages all floating-point variables of a model, including batch norm statistics.

  After step n, average = d * average + (1 - d) * weight with d = min(decay, (1 + n) / (10 + n)), so
  that the first weights are soon forgotten, as in tf.train.ExponentialMovingAverage.

  Attributes:
    variables: Path in the model -> average, as saved in a checkpoint.
  """

  def __init__(self, model: keras.Model, decay: float):
    """Starts from the current weights; call this under the strategy's scope.

    Args:
      model: A model whose variables exist.
      decay: Decay of the average, in [0, 1).
    """
    self._decay = decay
    self._weights = {path: variable for path, variable in variables_by_path(model).items()
                     if variable.dtype.is_floating}
    self.variables = {path: _like(variable) for path, variable in self._weights.items()}

  def update(self, strategy: tf.distribute.Strategy, step: tf.Tensor) -> None:
    """Updates the averages after a step; call this in cross-replica context.

    Args:
      strategy: The devices.
      step: int64 [], number of the step, from 1 on.
    """
    number = tf.cast(step, tf.float32)
    keep = tf.minimum(self._decay, (1.0 + number) / (10.0 + number))

    def move(average, weight, keep):
      average.assign(average * keep + tf.cast(weight, tf.float32) * (1.0 - keep))

    local = []
    for path, weight in self._weights.items():
      average = self.variables[path]
      if _is_per_replica(weight):
        local.append((average, weight))
      else:
        strategy.extended.update(average, move, args=(weight, keep), group=True)

    def move_local(keep):
      for average, weight in local:
        move(average, weight, keep)

    # Each replica has its own statistics; they are aggregated when a checkpoint is written.
    strategy.run(move_local, args=(keep,))

  @contextlib.contextmanager
  def applied(self) -> Iterator[None]:
    """Replaces the weights by the averages while the context is open.

    Both are swapped variable by variable, so that no third copy is in memory.
    """
    self._exchange()
    try:
      yield
    finally:
      self._exchange()

  def _exchange(self):
    for path, weight in self._weights.items():
      average = self.variables[path]
      value = weight.read_value()
      weight.assign(average.read_value())
      average.assign(value)


def _is_per_replica(variable) -> bool:
  return variable.synchronization == tf.VariableSynchronization.ON_READ


def _like(variable):
  """Returns a variable with the value and the distribution of another."""
  aggregation = variable.aggregation
  if not _is_per_replica(variable):
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
  return tf.Variable(tf.cast(variable.read_value(), tf.float32), trainable=False,
                     synchronization=variable.synchronization, aggregation=aggregation)
