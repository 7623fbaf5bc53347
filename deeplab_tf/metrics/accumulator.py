"""The contract of every score that is counted over images.

  metric.update(...)     takes in an image or a batch; its arguments are the score's own
  metric.merge(other)    adds what another has counted, of other images: in a thread or process
  metric.result()        the scores of all images so far

Between processes a metric travels as bytes: `metric.merge_bytes(elsewhere.to_bytes())`.
"""

import abc
import copy
import io
from typing import Any, Dict, Mapping

import numpy as np


class Accumulator(abc.ABC):
  """Counts over images; see the module for the contract."""

  @abc.abstractmethod
  def reset(self) -> None:
    """Forgets all images."""

  @abc.abstractmethod
  def merge(self, other: Any) -> None:
    """Adds the counts of another accumulator with the same settings, of other images.

    Raises:
      ValueError: Its settings differ.
    """

  @abc.abstractmethod
  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far, as Python numbers; None where there are none."""

  @abc.abstractmethod
  def state(self) -> Dict[str, np.ndarray]:
    """Returns all that is counted so far, as numeric arrays by name; no settings."""

  @abc.abstractmethod
  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Replaces all that is counted by what `state` returned."""

  def to_bytes(self) -> bytes:
    """Returns the state for another process."""
    stream = io.BytesIO()
    np.savez(stream, **self.state())
    return stream.getvalue()

  def merge_bytes(self, data: bytes) -> None:
    """Merges what `to_bytes` returned elsewhere, of an accumulator with the same settings."""
    other = copy.copy(self)
    with np.load(io.BytesIO(data), allow_pickle=False) as state:
      other.set_state(state)
    self.merge(other)
