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


class Group(Accumulator):
  """Several scores of the same images; each takes them in by itself.

  Attributes:
    parts: Name -> Accumulator.
  """

  def __init__(self, parts: Mapping[str, Accumulator]):
    """Takes accumulators that have counted nothing, by name."""
    self.parts = dict(parts)

  def reset(self) -> None:
    """Forgets all images."""
    for part in self.parts.values():
      part.reset()

  def merge(self, other: 'Group') -> None:
    """Merges each part."""
    for name, part in self.parts.items():
      part.merge(other.parts[name])

  def result(self) -> Dict[str, Any]:
    """Returns the results by name."""
    return {name: part.result() for name, part in self.parts.items()}

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the states of all parts, under "name/"."""
    return {f'{name}/{key}': value for name, part in self.parts.items()
            for key, value in part.state().items()}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Replaces what the parts have counted."""
    # Copies, since `merge_bytes` shares the parts with the group that it merges into.
    self.parts = {name: copy.copy(part) for name, part in self.parts.items()}
    for name, part in self.parts.items():
      own = {key[len(name) + 1:]: state[key] for key in state if key.startswith(f'{name}/')}
      part.set_state(own)
