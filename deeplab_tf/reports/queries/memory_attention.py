"""Records what the memory reads in the dual-path layers of a network (MaX-DeepLab, section A.5).

The layers themselves keep nothing: while a network is called inside of `recorded`, each of its
dual-path layers reports the weights that it computes anyway.
"""

import contextlib
from typing import Callable, Iterator, NamedTuple

import tensorflow as tf

from deeplab_tf.layers.dual_path_attention import DualPathLayer
from deeplab_tf.layers.shapes import Dimension, dimensions


class MemoryReading(NamedTuple):
  """What the memory reads in one layer: M2P and, under the same softmax, M2M (equation 14).

  Attributes:
    weights: float32 [batch, heads, queries, keys], sums of 1 over the keys: the pixels row by
      row, then the memory's vectors where the layer has M2M attention.
    height: Of the layer's pixel path.
    width: Of the layer's pixel path.
  """
  weights: tf.Tensor
  height: Dimension
  width: Dimension

  def pixel_weights(self) -> tf.Tensor:
    """Returns the M2P attention, float32 [batch, heads, queries, height, width]."""
    weights = self.weights[..., :self.height * self.width]
    return tf.reshape(weights, [*dimensions(weights)[:3], self.height, self.width])

  def memory_share(self) -> tf.Tensor:
    """Returns the share of attention that goes to the memory, float32 [batch, heads, queries]."""
    return tf.reduce_sum(self.weights[..., self.height * self.width:], axis=-1)


@contextlib.contextmanager
def recorded(model: tf.Module) -> Iterator[list[MemoryReading]]:
  """Yields a list that is filled while the model is called, in the order of execution.

  Works eagerly and while a tf.function is traced. The list stays empty for a model without
  dual-path layers.

  Args:
    model: A network or a part of one.
  """
  layers = [layer for layer in model.submodules if isinstance(layer, DualPathLayer)]
  readings = []
  for layer in layers:
    layer.call = _recording_call(layer, readings)
  try:
    yield readings
  finally:
    for layer in layers:
      del layer.call


def _recording_call(layer: DualPathLayer, readings: list[MemoryReading]) -> Callable:
  """Returns the layer's `call`, which reports to the list."""
  call, attention = layer.call, layer.memory_attention
  compute = attention.attention_weights

  def recording_call(pixels, memory, training=False):
    height, width = dimensions(pixels)[1:3]

    def attention_weights(query, key, training):
      weights = compute(query, key, training)
      readings.append(MemoryReading(weights, height, width))
      return weights

    attention.attention_weights = attention_weights
    try:
      return call(pixels, memory, training=training)
    finally:
      del attention.attention_weights

  return recording_call
