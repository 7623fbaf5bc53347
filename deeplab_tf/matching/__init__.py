"""Minimum-cost assignment of queries to targets: one function with two solvers."""

import tensorflow as tf

from deeplab_tf.matching import hungarian, native
from deeplab_tf.user_errors import ConfigError

SOLVERS = {'scipy': hungarian.solve, 'native': native.solve}


def match(costs: tf.Tensor, valid: tf.Tensor, solver: str = 'scipy') -> tf.Tensor:
  """Assigns a distinct query to every valid target, with the lowest total cost.

  If there are more valid targets than queries, as many targets as queries are matched. The two
  solvers find assignments of equal cost up to float32 rounding. Gradients are stopped.

  Args:
    costs: float32 [batch, queries, targets]. If costs are NaN or infinite, 'scipy' raises an
      error; 'native' cannot, since XLA drops assertions, and returns some valid assignment.
    valid: bool [batch, targets], the targets to match.
    solver: 'scipy' (on the host; not under XLA) or 'native' (TensorFlow ops, compiled by XLA).

  Returns:
    int32 [batch, targets], the query of each target; -1 if it is not valid or not matched.

  Raises:
    ValueError: There is no such solver.
    tf.errors.InvalidArgumentError: Costs are NaN or infinite ('scipy', when it runs).
  """
  if solver not in SOLVERS:
    raise ConfigError(f'unknown matching solver "{solver}": use one of {", ".join(SOLVERS)}.')
  return SOLVERS[solver](tf.stop_gradient(costs), valid)
