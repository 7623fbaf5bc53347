"""Base class of metrics that are accumulated over images.

  metric.update(...)     adds an image or a batch; each metric defines the arguments
  metric.merge(other)    adds the counts of another accumulator (another thread or process)
  metric.result()        returns the scores of all images so far

A metric is sent to another process as bytes: `metric.merge_bytes(elsewhere.to_bytes())`.
"""

import abc
import copy
import io
from typing import Any, Dict, Mapping

import numpy as np


class Accumulator(abc.ABC):
  """Base class of metrics; see the module."""

  @abc.abstractmethod
  def reset(self) -> None:
    """Resets all counts."""

  @abc.abstractmethod
  def merge(self, other: Any) -> None:
    """Adds the counts of another accumulator with the same settings over other images.

    Raises:
      ValueError: The settings differ.
    """

  @abc.abstractmethod
  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far as Python numbers; None if undefined."""

  @abc.abstractmethod
  def state(self) -> Dict[str, np.ndarray]:
    """Returns the accumulated counts, without settings, as arrays by name."""

  @abc.abstractmethod
  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""

  def to_bytes(self) -> bytes:
    """Returns the serialized state, for another process."""
    stream = io.BytesIO()
    np.savez(stream, **self.state())
    return stream.getvalue()

  def merge_bytes(self, data: bytes) -> None:
    """Merges the `to_bytes` of another accumulator with the same settings."""
    other = copy.copy(self)
    with np.load(io.BytesIO(data), allow_pickle=False) as state:
      other.set_state(state)
    self.merge(other)


class Group(Accumulator):
  """A group of metrics over the same images; each part is updated separately.

  Attributes:
    parts: Accumulators by name.
  """

  def __init__(self, parts: Mapping[str, Accumulator]):
    """Initializes the group.

    Args:
      parts: Empty accumulators by name.
    """
    self.parts = dict(parts)

  def reset(self) -> None:
    """Resets each part."""
    for part in self.parts.values():
      part.reset()

  def merge(self, other: 'Group') -> None:
    """Merges each part."""
    for name, part in self.parts.items():
      part.merge(other.parts[name])

  def result(self) -> Dict[str, Any]:
    """Returns the result of each part by name."""
    return {name: part.result() for name, part in self.parts.items()}

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the states of all parts, with keys "name/key"."""
    return {f'{name}/{key}': value for name, part in self.parts.items()
            for key, value in part.state().items()}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    # The parts are copied, since `merge_bytes` shares them with the group that it merges into.
    self.parts = {name: copy.copy(part) for name, part in self.parts.items()}
    for name, part in self.parts.items():
      own = {key[len(name) + 1:]: state[key] for key in state if key.startswith(f'{name}/')}
      part.set_state(own)
