"""The minimum-cost assignment of predicted to annotated masks: one contract, two solvers."""

import tensorflow as tf

from deeplab_tf.matching import hungarian, native
from deeplab_tf.user_errors import ConfigError

SOLVERS = {'scipy': hungarian.solve, 'native': native.solve}


def match(costs: tf.Tensor, valid: tf.Tensor, solver: str = 'scipy') -> tf.Tensor:
  """Assigns to every valid target a query of its own, at the least total cost.

  With more valid targets than queries, as many targets as there are queries are matched. The
  two solvers find assignments of equal cost, to float32 rounding. No gradient passes.

  Args:
    costs: float32 [batch, queries, targets]. Where they are NaN or infinite 'scipy' raises;
      'native' cannot, since XLA drops assertions, and returns some valid assignment.
    valid: bool [batch, targets], the targets to match.
    solver: 'scipy' (on the host; not under XLA) or 'native' (TensorFlow ops, compiled by XLA).

  Returns:
    int32 [batch, targets], the query of each target; -1 where it is not valid or not matched.

  Raises:
    ValueError: There is no such solver.
    tf.errors.InvalidArgumentError: Costs are NaN or infinite ('scipy', when it runs).
  """
  if solver not in SOLVERS:
    raise ConfigError(f'unknown matching solver "{solver}": use one of {", ".join(SOLVERS)}.')
  return SOLVERS[solver](tf.stop_gradient(costs), valid)
