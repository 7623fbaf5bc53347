"""Mixed precision: the dtype of activations, and loss scaling for float16."""

import contextlib
from typing import Iterator

import tensorflow as tf

from deeplab_tf.layers.precision import policy

_POLICIES = {'FLOAT32': 'float32', 'BFLOAT16': 'mixed_bfloat16', 'FLOAT16': 'mixed_float16'}


@contextlib.contextmanager
def scope(precision: str) -> Iterator[None]:
  """Sets the precision of layers created inside the scope; their variables are float32.

  Args:
    precision: 'FLOAT32', 'BFLOAT16' or 'FLOAT16'.
  """
  with policy(_POLICIES[precision]):
    yield


class LossScale(tf.Module):
  """Dynamic loss scale for float16 training.

  As in Micikevicius et al., "Mixed precision training" (ICLR 2018), and Keras, the factor is halved
  when a gradient overflows, in which case the step is skipped, and doubled after a number of steps
  without overflow. Keras's LossScaleOptimizer wraps a single optimizer; this one is shared by
  several.

  Attributes:
    factor: float32 [], factor on the loss, at least 1.
    steps: int64 [], number of steps since the factor last changed.
  """

  def __init__(self, initial: float = 2.0**15, growth_steps: int = 2000):
    """Initializes the loss scale; call this under the strategy's scope.

    Args:
      initial: Initial factor.
      growth_steps: Number of steps without overflow after which the factor is doubled.
    """
    super().__init__()
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    self.factor = tf.Variable(initial, dtype=tf.float32, trainable=False, aggregation=aggregation)
    self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=aggregation)
    self._growth_steps = growth_steps

  def update(self, finite: tf.Tensor) -> None:
    """Updates the factor after a step; call this in cross-replica context.

    Args:
      finite: bool [], whether the gradients of the step were finite.
    """
    steps, factor = self.steps.read_value() + 1, self.factor.read_value()
    grows = finite & (steps >= self._growth_steps)
    # The factor must stay in the range of float32.
    grown = tf.minimum(factor * 2.0, 2.0**100)
    self.steps.assign(tf.where(finite & ~grows, steps, 0))
    self.factor.assign(tf.where(finite, tf.where(grows, grown, factor),
                                tf.maximum(factor / 2.0, 1.0)))
