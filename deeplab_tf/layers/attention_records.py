"""Records of the calls of attention layers: each layer reports its calls to an open recorder.

  with attention_records.recording() as records:
    outputs = model(images)

Without a recorder nothing is kept, and a report only reads one variable.
"""

import contextlib
import threading
from typing import Iterator, NamedTuple, Optional, Union

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.shapes import Dimension


class AttentionRecord(NamedTuple):
  """One call of an attention layer.

  Attributes:
    layer: The layer.
    inputs: Tensors that the layer was called with.
    weights: float32 [batch, heads, queries, keys], which sum to 1 over the keys; None if the layer
      computes them in pieces, as axial attention does.
    key_size: Height and width of the map whose pixels, row by row, are the first keys; None if
      keys are not pixels.
  """
  layer: keras.layers.Layer
  inputs: tuple[tf.Tensor, ...]
  weights: Optional[tf.Tensor] = None
  key_size: Optional[tuple[Dimension, Dimension]] = None


class AssignmentRecord(NamedTuple):
  """One assignment of pixels to clusters.

  Attributes:
    layer: The layer.
    weights: float32 [batch, height * width, clusters], which sum to 1 over the clusters.
    size: Height and width of the map of pixels.
  """
  layer: keras.layers.Layer
  weights: tf.Tensor
  size: tuple[Dimension, Dimension]


Record = Union[AttentionRecord, AssignmentRecord]


class _Open(threading.local):
  """The open recorder; each replica of a MirroredStrategy is traced in a thread of its own."""
  records: Optional[list[Record]] = None


_open = _Open()


@contextlib.contextmanager
def recording() -> Iterator[list[Record]]:
  """Yields a list that attention layers fill while the context is open.

  Works eagerly and while a tf.function is traced; the records of a trace hold its symbolic
  tensors. Calls in other threads are not recorded. Of nested recordings only the innermost is
  filled.

  Yields:
    The calls in the order of execution.
  """
  previous, _open.records = _open.records, []
  try:
    yield _open.records
  finally:
    _open.records = previous


def report(record: Record) -> None:
  """Adds a record to the open recorder, if there is one; attention layers do so in `call`."""
  if _open.records is not None:
    _open.records.append(record)
