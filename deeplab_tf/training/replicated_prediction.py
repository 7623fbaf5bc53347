"""Predicts a batch on all replicas of this process, which share the images."""

from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.metrics.accumulator import Accumulator
from deeplab_tf.structures import PanopticPrediction
from deeplab_tf.training import distribution

# Largest number of bytes in one exchange between workers.
_BYTES_AT_ONCE = 2**20


class ReplicatedPrediction:
  """Network and post-processing distributed by a strategy; see `__call__`."""

  def __init__(self, strategy: tf.distribute.Strategy, network: Callable,
               postprocess: Callable, batch_size: int, *, static: bool = False,
               use_tf_function: bool = True, jit_compile: bool = False, any_size: bool = False):
    """Initializes the function.

    Args:
      strategy: Strategy under whose scope the model was created.
      network: Function of images that returns raw outputs; see models.inference_network.
      postprocess: Function of (outputs, output_size) that returns a prediction of batched tensors.
      batch_size: Size of the largest batch.
      static: Whether batches are padded to batch_size, so that all shapes are static.
      use_tf_function: Whether to run as a graph; eager execution is slow and for debugging.
      jit_compile: Whether to compile with XLA, which needs `static` and post-processing with static
        shapes.
      any_size: Whether batches have images of different sizes, for which one graph is traced;
        otherwise all batches must have the image size of the first.
    """
    self._strategy = strategy
    self._network = network
    self._postprocess = postprocess
    self._replicas = distribution.local_replicas(strategy)
    # Number of images of a replica; None for any number.
    self._share: Optional[int] = None
    if static or self._replicas > 1:
      self._share = -(-batch_size // self._replicas)
    self._use_tf_function = use_tf_function
    self._any_size = any_size
    self._jit_compile = jit_compile and not distribution.is_tpu(strategy)
    self._step = None

  def __call__(self, images: tf.Tensor) -> PanopticPrediction:
    """Returns the prediction for images, float32 [batch, height, width, 3], with the same batch."""
    if self._step is None:
      self._step = self._make_step(images.shape[1:])
    count = images.shape[0]
    if self._share is None:
      return self._first(self._step(images))
    missing = self._share * self._replicas - count
    images = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
    parts = self._step(self._strategy.experimental_distribute_values_from_function(
        lambda context: self._cut(images, context)))
    return tf.nest.map_structure(
        lambda x: tf.concat(self._strategy.experimental_local_results(x), 0)[:count], parts)

  def _cut(self, images, context):
    start = context.replica_id_in_sync_group % self._replicas * self._share
    return images[start:start + self._share]

  def _first(self, values):
    return tf.nest.map_structure(
        lambda x: self._strategy.experimental_local_results(x)[0], values)

  def _make_step(self, shape):
    def predict(images):
      return self._postprocess(self._network(images), tuple(dimensions(images)[1:3]))

    # The computation of one replica, so that it can be compiled even if there are several.
    own = tf.function(predict, autograph=False, jit_compile=True) if self._jit_compile else predict

    def run(images):
      return self._strategy.run(own, args=(images,))

    if not self._use_tf_function:
      return run
    if self._share is not None:
      return tf.function(run, autograph=False, reduce_retracing=self._any_size)
    # One trace for the last batch, which may be smaller, too.
    size = (None, None) if self._any_size else shape[:2]
    return tf.function(run, autograph=False,
                       input_signature=[tf.TensorSpec([None, *size, 3], tf.float32)])


def merge_over_workers(strategy: tf.distribute.Strategy, metric: Accumulator) -> None:
  """Sums the counts of all workers; all workers call this together and get the sum."""
  cluster = distribution.cluster_of(strategy)
  count = len(cluster.workers)
  if count == 1:
    return
  own = np.frombuffer(metric.to_bytes(), np.uint8)
  # Each worker fills in its own row. float32 represents bytes and lengths below 2^24 exactly, and
  # every device can add it.
  sizes = np.zeros((count, 2), np.float32)
  sizes[cluster.index] = divmod(len(own), 2**20)
  sizes = sum_over_workers(strategy, tf.constant(sizes)).numpy().astype(np.int64)
  sizes = sizes[:, 0] * 2**20 + sizes[:, 1]
  parts, at_once = [], min(sizes.max(), _BYTES_AT_ONCE)
  for start in range(0, sizes.max(), at_once):
    part = own[start:start + at_once]
    rows = np.zeros((count, at_once), np.float32)
    rows[cluster.index, :len(part)] = part
    parts.append(sum_over_workers(strategy, tf.constant(rows)).numpy().astype(np.uint8))
  metric.reset()
  for row, size in zip(np.concatenate(parts, axis=1), sizes):
    metric.merge_bytes(row[:size].tobytes())


def sum_over_workers(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
  """Returns the sum of a tensor over the workers; all workers call this together."""
  if len(distribution.cluster_of(strategy).workers) == 1:
    return values
  replicas = distribution.local_replicas(strategy)

  def own(values):
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.where(tf.equal(number % replicas, 0), values, tf.zeros_like(values))

  @tf.function(autograph=False)
  def add(values):
    return strategy.reduce('SUM', strategy.run(own, args=(values,)), axis=None)

  return add(values)
