"""What the memory reads in the dual-path layers of a network (MaX-DeepLab, section A.5)."""

from typing import Iterable, NamedTuple

import tensorflow as tf

from deeplab_tf.layers.attention_records import AttentionRecord
from deeplab_tf.layers.shapes import Dimension, dimensions


class MemoryReading(NamedTuple):
  """What the memory reads in one layer: M2P and, under the same softmax, M2M (equation 14).

  Attributes:
    weights: float32 [batch, heads, queries, keys], sums of 1 over the keys: the pixels row by
      row, then the memory's vectors where the layer has M2M attention.
    height: Height of the layer's pixel path.
    width: Width of the layer's pixel path.
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


def readings(records: Iterable[AttentionRecord]) -> list[MemoryReading]:
  """Returns the attention to pixels among the records of a network, in the order of execution.

  Args:
    records: Records from layers.attention_records.recording. A network without dual-path layers
      has no attention to pixels.
  """
  return [MemoryReading(record.weights, *record.key_size) for record in records
          if record.key_size is not None]
