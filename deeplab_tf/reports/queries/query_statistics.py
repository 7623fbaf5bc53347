"""Classes, locations and frequency of the queries of a mask model (section A.3).

A query fires in an image if at least one pixel of the panoptic prediction belongs to it.
"""

import functools
import math
from typing import NamedTuple, Optional, Sequence

import numpy as np


class FiringGroup(NamedTuple):
  """Queries that fire about equally often.

  Attributes:
    name: 'most firings', 'some firings' or 'few firings'.
    queries: Query indices, sorted by descending number of firings.
  """
  name: str
  queries: list[int]


class QueryStatistics:
  """Running sums over images.

  Attributes:
    histogram: int64 [queries, classes], number of images in which a query was a mask of a class.
    mask_sums: float64 [queries, side, side], sums of masks resized to a square.
    images: Number of images.
  """

  def __init__(self, num_queries: int, num_classes: int, side: int = 96):
    """Starts at zero.

    Args:
      num_queries: Number of queries of the model.
      num_classes: Number of classes, without "no object".
      side: Side of the square in pixels.
    """
    self.histogram = np.zeros((num_queries, num_classes), np.int64)
    self.mask_sums = np.zeros((num_queries, side, side))
    self.images = 0

  def update(self, query_map: np.ndarray, query_class: np.ndarray) -> None:
    """Adds an image.

    Args:
      query_map: int [height, width], query of each pixel, or -1.
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
    """Number of images in which each query fired, int64 [queries]."""
    return self.histogram.sum(axis=1)

  def average_masks(self) -> np.ndarray:
    """Returns the mean masks over the images where queries fire, float32 [queries, side, side]."""
    counts = np.maximum(self.firings, 1)[:, None, None]
    return (self.mask_sums / counts).astype(np.float32)

  def order(self) -> np.ndarray:
    """Returns all query indices by descending number of firings, int [queries]."""
    return np.argsort(-self.firings, kind='stable')

  def groups(self) -> list[FiringGroup]:
    """Divides the firing queries by rank into three groups of about equal size.

    The paper does not state the limits of its groups. Empty groups are left out.
    """
    firing = [query for query in self.order().tolist() if self.firings[query]]
    bounds = [round(len(firing) * third / 3) for third in range(4)]
    groups = [FiringGroup(f'{name} firings', firing[start:end])
              for name, start, end in zip(('most', 'some', 'few'), bounds, bounds[1:])]
    return [group for group in groups if group.queries]


def fired(query_map: np.ndarray) -> list[int]:
  """Returns the queries that occur in a map, in ascending order; -1 is no query."""
  return [query for query in np.unique(query_map).tolist() if query >= 0]


def choose_masks(query_map: np.ndarray, isthing: np.ndarray, count: int,
                 wanted: Optional[Sequence[int]] = None) -> list[int]:
  """Chooses queries whose masks are shown: the largest things first, then the largest stuff.

  Args:
    query_map: int [height, width], query of each pixel, or -1.
    isthing: bool [queries], whether the query predicts a thing class.
    count: Maximum number of queries.
    wanted: Queries to choose instead.
  """
  if wanted:
    return list(wanted)[:count]
  areas = {query: int((query_map == query).sum()) for query in fired(query_map)}
  return sorted(areas, key=lambda query: (not isthing[query], -areas[query]))[:count]


def iou_with_the_last(masks: np.ndarray) -> np.ndarray:
  """Returns how much the masks of each prediction agree with those of the last one.

  Args:
    masks: bool [predictions, height, width, queries].

  Returns:
    float64 [predictions, queries], intersection over union in [0, 1]; 1 for two empty masks.
  """
  both = (masks & masks[-1]).sum(axis=(1, 2))
  either = (masks | masks[-1]).sum(axis=(1, 2))
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)


@functools.lru_cache(maxsize=64)
def _to_square(length: int, side: int) -> np.ndarray:
  """Returns the weights of an area resize from `length` to `side` pixels, [side, length]."""
  scale = length / side
  weights = np.zeros((side, length))
  for row in range(side):
    start, end = row * scale, (row + 1) * scale
    for column in range(int(start), min(math.ceil(end), length)):
      weights[row, column] = max(min(end, column + 1) - max(start, column), 0)
  return weights / weights.sum(axis=1, keepdims=True)
