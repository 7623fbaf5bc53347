"""Origins of variables: tensors of another program, or parts of them, and a transformation.

One tensor becomes one variable, several are joined into one (separate projections of queries, keys
and values into one kernel), or one is cut into several (a joint projection into three kernels).
"""

from typing import Callable, Mapping, NamedTuple

import numpy as np


class Piece(NamedTuple):
  """A tensor, or one of the equal parts that it is cut into.

  Attributes:
    name: Name of the tensor.
    index: Index of the part, from 0.
    count: Number of parts; 1: the whole tensor.
  """
  name: str
  index: int = 0
  count: int = 1

  def __str__(self) -> str:
    return self.name if self.count == 1 else f'{self.name} (part {self.index + 1} of {self.count})'


def as_it_is(value: np.ndarray) -> np.ndarray:
  """Returns the value: the transformation that does nothing."""
  return value


class Origin(NamedTuple):
  """How to make a variable's value.

  Attributes:
    pieces: Pieces that are joined, in this order.
    transform: Function that converts the joined array to the form of the variable: a
      transposition, a permutation of classes, ... It may raise ValueError, IndexError or KeyError
      for an array of the wrong shape.
    axis: Axis of the tensors that parts are cut along and joined along, before `transform`.
  """
  pieces: tuple[Piece, ...]
  transform: Callable[[np.ndarray], np.ndarray] = as_it_is
  axis: int = 0

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the tensors, without repetition."""
    return tuple(dict.fromkeys(piece.name for piece in self.pieces))

  def __str__(self) -> str:
    return ' + '.join(map(str, self.pieces))

  def value(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the value of the variable.

    Args:
      tensors: Name -> tensor.

    Raises:
      ValueError: The shapes do not allow it; the message lists them.
    """
    try:
      parts = [_part(np.asarray(tensors[piece.name]), piece, self.axis) for piece in self.pieces]
      joined = parts[0] if len(parts) == 1 else np.concatenate(parts, self.axis)
      return self.transform(joined)
    except (ValueError, IndexError, KeyError):
      shapes = [list(np.shape(tensors[name])) for name in self.names]
      raise ValueError(' + '.join(map(str, shapes))) from None


def whole(name: str, transform: Callable[[np.ndarray], np.ndarray] = as_it_is) -> Origin:
  """Returns the origin of a variable that is made of one whole tensor."""
  return Origin((Piece(name),), transform)


def joined(names: tuple[str, ...], transform: Callable[[np.ndarray], np.ndarray] = as_it_is,
           axis: int = 0) -> Origin:
  """Returns the origin of a variable that is made of several whole tensors."""
  return Origin(tuple(Piece(name) for name in names), transform, axis)


def part(name: str, index: int, count: int,
         transform: Callable[[np.ndarray], np.ndarray] = as_it_is, axis: int = 0) -> Origin:
  """Returns the origin of a variable that is made of one of the equal parts of a tensor."""
  return Origin((Piece(name, index, count),), transform, axis)


def _part(tensor: np.ndarray, piece: Piece, axis: int) -> np.ndarray:
  if piece.count == 1:
    return tensor
  return np.split(tensor, piece.count, axis)[piece.index]
