"""SciPy's assignment solver on the host, behind tf.py_function."""

import numpy as np
import tensorflow as tf


def solve(costs: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
  """Assigns queries to targets with SciPy; see deeplab_tf.matching.match.

  Args:
    costs: float32 [batch, queries, targets].
    valid: bool [batch, targets].

  Returns:
    int32 [batch, targets].

  Raises:
    tf.errors.InvalidArgumentError: Costs of valid targets are NaN or infinite.
  """
  assigned = tf.py_function(
      lambda c, v: _solve_batch(c.numpy(), v.numpy()), [costs, valid], tf.int32)
  assigned.set_shape(valid.shape)
  return assigned


def _solve_batch(costs: np.ndarray, valid: np.ndarray) -> np.ndarray:
  # Importing SciPy takes a quarter of a second, and prediction does not need it.
  from scipy import optimize

  finite = np.isfinite(costs) | ~valid[:, np.newaxis]
  if not finite.all():
    image, query, target = np.argwhere(~finite)[0]
    # A ValueError here leaves tf.py_function as tf.errors.InvalidArgumentError.
    raise ValueError(f'matching costs contain NaN or infinity '
                     f'(costs[image {image}, query {query}, target {target}])')
  assigned = np.full(valid.shape, -1, np.int32)
  for image, columns in enumerate(map(np.flatnonzero, valid)):
    queries, chosen = optimize.linear_sum_assignment(costs[image][:, columns])
    assigned[image, columns[chosen]] = queries
  return assigned
