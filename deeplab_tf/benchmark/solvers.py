"""Measures the matching solvers on random costs."""

import time

import tensorflow as tf

from deeplab_tf import matching
from deeplab_tf.benchmark import measuring
from deeplab_tf.benchmark.measuring import MeasureOptions, Results

_QUERIES, _MASKS = 128, 100
_LEAST_REPEATS = 20


def measure(config, options: MeasureOptions) -> Results:
  """Measures each solver with 128 queries and 100 ground truth masks.

  Args:
    config: ExperimentOptions; plays no role.
    options: Batch and repeats, at least 20.
  """
  del config
  tf.random.set_seed(0)
  costs = -tf.random.uniform([options.batch_size, _QUERIES, _MASKS])
  valid = tf.ones([options.batch_size, _MASKS], tf.bool)
  results = {}
  for solver in matching.SOLVERS:
    start = time.perf_counter()
    function = tf.function(matching.match, autograph=False)
    step = lambda f=function, name=solver: f(costs, valid, name).numpy()  # noqa: E731
    results[solver] = measuring.calls(start, step, max(options.repeats, _LEAST_REPEATS),
                                      options.batch_size)
  return results
