"""What the queries of a mask model are for: classes, places and how often (section A.3).

A query fires in an image where it is left in the panoptic prediction, be it with one pixel.
"""

import functools
import math
from typing import NamedTuple, Optional, Sequence

import numpy as np


class FiringGroup(NamedTuple):
  """Queries that fire about equally often.

  Attributes:
    name: 'most firings', 'some firings' or 'few firings'.
    queries: Their numbers, those that fire most often first.
  """
  name: str
  queries: list[int]


class QueryStatistics:
  """Running sums over images.

  Attributes:
    histogram: int64 [queries, classes], in how many images a query was a mask of a class.
    mask_sums: float64 [queries, side, side], sums of masks that were resized to a square.
    images: Images seen.
  """

  def __init__(self, num_queries: int, num_classes: int, side: int = 96):
    """Starts at zero.

    Args:
      num_queries: Queries of the model.
      num_classes: Classes without "no object".
      side: Pixels of a side of the square.
    """
    self.histogram = np.zeros((num_queries, num_classes), np.int64)
    self.mask_sums = np.zeros((num_queries, side, side))
    self.images = 0

  def update(self, query_map: np.ndarray, query_class: np.ndarray) -> None:
    """Takes in an image.

    Args:
      query_map: int [height, width], the query of each pixel, -1 where there is none.
      query_class: int [queries], class index of each query.
    """
    self.images += 1
    side = self.mask_sums.shape[1]
    rows, columns = (_to_square(length, side) for length in query_map.shape)
    for query in fired(query_map):
      self.histogram[query, query_class[query]] += 1
      self.mask_sums[query] += rows @ (query_map == query) @ columns.T

  @property
  def firings(self) -> np.ndarray:
    """int64 [queries], in how many images each query fired."""
    return self.histogram.sum(axis=1)

  def average_masks(self) -> np.ndarray:
    """Returns float32 [queries, side, side] in [0, 1], means over the images where they fire."""
    counts = np.maximum(self.firings, 1)[:, None, None]
    return (self.mask_sums / counts).astype(np.float32)

  def order(self) -> np.ndarray:
    """Returns the numbers of all queries, those that fire most often first, int [queries]."""
    return np.argsort(-self.firings, kind='stable')

  def groups(self) -> list[FiringGroup]:
    """Sorts the queries that fire into three categories of about equal size, by rank.

    The paper names no bounds. Empty categories are left out.
    """
    firing = [query for query in self.order().tolist() if self.firings[query]]
    bounds = [round(len(firing) * third / 3) for third in range(4)]
    groups = [FiringGroup(f'{name} firings', firing[start:end])
              for name, start, end in zip(('most', 'some', 'few'), bounds, bounds[1:])]
    return [group for group in groups if group.queries]


def fired(query_map: np.ndarray) -> list[int]:
  """Returns the queries of a map (-1 for none), ascending."""
  return [query for query in np.unique(query_map).tolist() if query >= 0]


def choose_masks(query_map: np.ndarray, isthing: np.ndarray, count: int,
                 wanted: Optional[Sequence[int]] = None) -> list[int]:
  """Chooses queries whose masks are shown: the largest things first, then the largest stuff.

  Args:
    query_map: int [height, width], the query of each pixel, -1 where there is none.
    isthing: bool [queries], whether the query predicts a thing class.
    count: At most so many.
    wanted: Takes these instead.
  """
  if wanted:
    return list(wanted)[:count]
  areas = {query: int((query_map == query).sum()) for query in fired(query_map)}
  return sorted(areas, key=lambda query: (not isthing[query], -areas[query]))[:count]


@functools.lru_cache(maxsize=64)
def _to_square(length: int, side: int) -> np.ndarray:
  """Weights of a resize by area from `length` to `side` pixels, [side, length], rows of sum 1."""
  scale = length / side
  weights = np.zeros((side, length))
  for row in range(side):
    start, end = row * scale, (row + 1) * scale
    for column in range(int(start), min(math.ceil(end), length)):
      weights[row, column] = max(min(end, column + 1) - max(start, column), 0)
  return weights / weights.sum(axis=1, keepdims=True)
