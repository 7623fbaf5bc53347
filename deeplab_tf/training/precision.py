"""Mixed precision: what activations are computed in, and the loss scaling of float16."""

import contextlib
from typing import Iterator

import tensorflow as tf

from deeplab_tf.compat import keras

_POLICIES = {'FLOAT32': 'float32', 'BFLOAT16': 'mixed_bfloat16', 'FLOAT16': 'mixed_float16'}


@contextlib.contextmanager
def scope(precision: str) -> Iterator[None]:
  """Lets the layers that are made inside compute in a precision; their variables are float32.

  Args:
    precision: 'FLOAT32', 'BFLOAT16' or 'FLOAT16'.
  """
  before = keras.mixed_precision.global_policy()
  keras.mixed_precision.set_global_policy(_POLICIES[precision])
  try:
    yield
  finally:
    keras.mixed_precision.set_global_policy(before)


class LossScale(tf.Module):
  """The factor on the loss that keeps float16 gradients from vanishing; it finds itself.

  As Micikevicius et al., "Mixed precision training" (ICLR 2018) and Keras: it is halved when a
  gradient overflows, whose step is left out, and doubled after enough steps without. Keras has
  the same inside its LossScaleOptimizer alone, around one optimizer; here several share it.

  Attributes:
    factor: float32 [], at least 1.
    steps: int64 [], the steps since it last changed.
  """

  def __init__(self, initial: float = 2.0**15, growth_steps: int = 2000):
    """Makes the variables; call under the strategy's scope.

    Args:
      initial: The factor to start with.
      growth_steps: Steps without an overflow after which it is doubled.
    """
    super().__init__()
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    self.factor = tf.Variable(initial, dtype=tf.float32, trainable=False, aggregation=aggregation)
    self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=aggregation)
    self._growth_steps = growth_steps

  def update(self, finite: tf.Tensor) -> None:
    """Takes in whether a step's gradients were finite, bool []; in cross-replica context."""
    steps, factor = self.steps.read_value() + 1, self.factor.read_value()
    grows = finite & (steps >= self._growth_steps)
    # Beyond float32's range it would be of no use.
    grown = tf.minimum(factor * 2.0, 2.0**100)
    self.steps.assign(tf.where(finite & ~grows, steps, 0))
    self.factor.assign(tf.where(finite, tf.where(grows, grown, factor),
                                tf.maximum(factor / 2.0, 1.0)))
