"""What queries read in the attention layers of a network (MaX-DeepLab, section A.5)."""

from typing import Iterable, NamedTuple

import tensorflow as tf

from deeplab_tf.layers.attention_records import AttentionRecord, Record
from deeplab_tf.layers.shapes import Dimension, dimensions


class MemoryReading(NamedTuple):
  """What the queries read in one layer.

  In MaX-DeepLab these are pixels (M2P) and, under the same softmax, the memory (M2M, equation 14);
  in Mask2Former pixels alone.

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


def readings(records: Iterable[Record]) -> list[MemoryReading]:
  """Returns the attention to pixels among the records of a network, in the order of execution.

  Args:
    records: Records from layers.attention_records.recording. A network has attention to pixels if
      it has dual-path layers or a transformer decoder.
  """
  return [MemoryReading(record.weights, *record.key_size) for record in records
          if isinstance(record, AttentionRecord) and record.key_size is not None]
