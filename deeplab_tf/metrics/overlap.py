"""Counts the pixels shared by the segments of two maps, and those on segment boundaries.

All segments are counted at once, without a mask per segment.
"""

import math
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.user_errors import DataError

Pairs = Dict[Tuple[int, int], int]
# Boundary thickness as a fraction of the image's diagonal (Cheng et al., Boundary IoU, Sec. 5).
DILATION_RATIO = 0.02


class Overlaps(NamedTuple):
  """Pixels per pair of values of two maps: (value of first, value of second) -> pixels.

  Attributes:
    pixels: All pixels.
    first_boundary: Pixels on the boundary of the first map's segment; empty if not counted.
    second_boundary: Pixels on the boundary of the second map's segment; empty if not counted.
    both_boundaries: Pixels on both boundaries; empty if not counted.
  """
  pixels: Pairs
  first_boundary: Pairs
  second_boundary: Pairs
  both_boundaries: Pairs

  def renamed(self, first: Callable[[int], int], second: Callable[[int], int]) -> 'Overlaps':
    """Returns the overlaps of the maps with other values; segments with equal new values merge.

    Args:
      first: Function from old to new values of the first map.
      second: Function from old to new values of the second map.
    """
    parts = []
    for pairs in self:
      part: Pairs = {}
      for (one, other), pixels in pairs.items():
        key = first(one), second(other)
        part[key] = part.get(key, 0) + pixels
      parts.append(part)
    return Overlaps(*parts)


def overlaps(first: np.ndarray, second: np.ndarray, distance: Optional[int] = None) -> Overlaps:
  """Counts the pixels of every pair of values of two maps.

  Args:
    first: int [height, width], values in [0, 2**31).
    second: int [height, width], likewise.
    distance: Thickness of boundaries in pixels, see boundary_distance. If None, boundaries are not
      counted.

  Raises:
    ValueError: The maps differ in shape, or hold values outside of [0, 2**31).
  """
  first, second = np.asarray(first), np.asarray(second)
  if first.shape != second.shape:
    raise DataError(f'the ground truth is {_size(first)} and the prediction is {_size(second)}; '
                    'both must have one size')
  if distance is None or not first.size:
    return Overlaps(_dictionary(*pair_counts(first, second)), {}, {}, {})
  on_first, on_second = boundaries(first, distance), boundaries(second, distance)
  pairs, counts = pair_counts(first, second, on_first.view(np.uint8) | on_second << np.uint8(1))
  return Overlaps(*(_dictionary(pairs, counts @ np.array(chosen, np.int64)) for chosen in (
      (1, 1, 1, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 1))))


def pair_counts(first: np.ndarray, second: np.ndarray,
                marks: Optional[np.ndarray] = None) -> Tuple[np.ndarray, np.ndarray]:
  """Counts the pixels of every pair of values of two maps with the same shape.

  Args:
    first: int [...], values in [0, 2**31).
    second: int [...], likewise.
    marks: uint8 [...] in [0, 4). Pixels of a pair are counted separately for each mark.

  Returns:
    pairs: int64 [pairs, 2], in ascending order.
    counts: int64 [pairs], numbers of pixels; [pairs, 4] with marks.

  Raises:
    ValueError: A map holds values outside of [0, 2**31).
  """
  first, second = first.ravel(), second.ravel()
  if not first.size:
    return np.zeros((0, 2), np.int64), np.zeros(0 if marks is None else (0, 4), np.int64)
  # Maps consist of long runs of the same pair, so sorting runs is faster than sorting pixels.
  changes = first[1:] != first[:-1]
  changes |= second[1:] != second[:-1]
  if marks is not None:
    marks = marks.ravel()
    changes |= marks[1:] != marks[:-1]
  starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
  lengths = np.diff(starts, append=first.size)
  ends = first[starts].astype(np.int64), second[starts].astype(np.int64)
  lowest, highest = min(map(np.min, ends)), max(map(np.max, ends))
  if lowest < 0 or highest >= 2**31:
    raise DataError(f'a map holds the value {lowest if lowest < 0 else highest}; segment ids and '
                    'labels are 0 or more and below 2**31')
  keys = ends[0] << 32 | ends[1]
  # Rows resemble each other, so a stable sort is three times as fast as the sort in np.unique.
  order = np.argsort(keys, kind='stable')
  keys, lengths = keys[order], lengths[order]
  is_new = np.concatenate([[True], keys[1:] != keys[:-1]])
  groups = np.cumsum(is_new) - 1
  pairs = np.stack([keys[is_new] >> 32, keys[is_new] & 0xFFFFFFFF], axis=1)
  if marks is None:
    return pairs, np.bincount(groups, lengths).astype(np.int64)
  counts = np.bincount(groups * 4 + marks[starts][order], lengths, len(pairs) * 4)
  return pairs, counts.astype(np.int64).reshape(-1, 4)


def boundary_distance(shape: Sequence[int], dilation_ratio: float) -> int:
  """Returns the thickness of boundaries in pixels, at least 1, rounded as in boundary-iou-api.

  Args:
    shape: Height and width of the image in pixels.
    dilation_ratio: Thickness as a fraction of the image's diagonal.
  """
  return max(1, int(round(dilation_ratio * math.hypot(*shape))))


def boundaries(ids: np.ndarray, distance: int) -> np.ndarray:
  """Marks the pixels on the boundary of their own segment.

  These are the pixels that `distance` erosions of the segment by a 3 x 3 square remove, where the
  outside of the image counts as another segment. Equivalently, a pixel is inside if the square of
  side 2 * distance + 1 around it holds a single value.

  Args:
    ids: int [height, width], any values.
    distance: Thickness of the boundary in pixels, at least 1.

  Returns:
    bool [height, width].
  """
  height, width = ids.shape
  # Edge i lies before pixel i; the image border is an edge.
  beside = np.ones((height, width + 1), np.uint8)
  beside[:, 1:-1] = ids[:, 1:] != ids[:, :-1]
  above = np.ones((height + 1, width), np.uint8)
  above[1:-1] = ids[1:] != ids[:-1]
  # A square holds one value if neither its rows nor its middle column contain an edge.
  near = _unpack_rows(_any_near(_pack_rows(beside).T, distance).T, height)
  above[1:] |= near
  above[:-1] |= near
  near = _any_near(np.packbits(above, axis=1), distance)
  return np.unpackbits(near, axis=1, count=width).view(bool)


def _pack_rows(bits: np.ndarray) -> np.ndarray:
  """Equals np.packbits(bits, axis=0, bitorder='little'), but is ten times faster."""
  packed = np.zeros((-(-len(bits) // 8), bits.shape[1]), np.uint8)
  for bit in range(8):
    rows = bits[bit::8]
    packed[:len(rows)] |= rows << np.uint8(bit)
  return packed


def _unpack_rows(packed: np.ndarray, count: int) -> np.ndarray:
  """Inverts _pack_rows for `count` rows."""
  bits = np.empty((count, packed.shape[1]), np.uint8)
  for bit in range(8):
    rows = bits[bit::8]
    rows[:] = packed[:len(rows)] >> np.uint8(bit) & np.uint8(1)
  return bits


def _any_near(edges: np.ndarray, distance: int) -> np.ndarray:
  """Returns whether one of the `distance` edges before or after each position is set, on axis 0.

  Args:
    edges: uint8 [positions + 1, ...], packed bits; all bits of the first and the last are set.
    distance: Number of edges to consider on either side.

  Returns:
    uint8 [positions, ...], packed bits.
  """
  positions = len(edges) - 1
  length = min(2 * distance, 2 * positions)
  # Positions near the ends see the first or last edge, so padding with set edges changes nothing.
  before = length // 2 - 1
  padded = np.pad(edges, [(before, before)] + [(0, 0)] * (edges.ndim - 1), constant_values=255)
  # A window of 2, 4, ... edges is the union of two windows of half its length.
  reach = 1
  while reach < length:
    step = min(reach, length - reach)
    padded = padded[:-step] | padded[step:]
    reach += step
  return padded


def sums(pairs: Pairs, side: int) -> Dict[int, int]:
  """Returns value -> number of pixels for one of the two maps.

  Args:
    pairs: A field of Overlaps.
    side: 0 for the first map, 1 for the second.
  """
  result: Dict[int, int] = {}
  for values, pixels in pairs.items():
    result[values[side]] = result.get(values[side], 0) + pixels
  return result


def _dictionary(pairs: np.ndarray, counts: np.ndarray) -> Pairs:
  found = counts > 0
  return {(one, other): count
          for (one, other), count in zip(pairs[found].tolist(), counts[found].tolist())}


def _size(array: np.ndarray) -> str:
  return ' x '.join(str(extent) for extent in array.shape) + ' pixels'
