"""Validates the masks of COCO's JSON files before pycocotools reads them.

pycocotools does not check its input: RLE counts that do not fill the image make it access memory
out of bounds, and the time for a polygon grows with its length without limit.
"""

from typing import Any, Optional, Tuple

import numpy as np

from deeplab_tf.formats import coco_fields, image_limits

# In pixels: largest coordinate of a polygon, which may leave its image, and largest total length.
_FARTHEST = 2 * image_limits.MAX_SIDE
_LONGEST = 2**22
# Maximum number of characters of one run length: 35 bits.
_MOST_CHARACTERS = 7


def problem(segmentation: Any, size: Tuple[int, int]) -> Optional[str]:
  """Describes what is wrong with a mask.

  Args:
    segmentation: Value from a file: RLE, {'size': [height, width], 'counts': string or list},
      or polygons, lists of x, y, x, y, ... in pixels.
    size: Height and width of the image.

  Returns:
    A predicate that follows 'the mask ' in a message, or None if the mask is valid.
  """
  if isinstance(segmentation, list):
    return _polygons_problem(segmentation)
  if not isinstance(segmentation, dict) or not {'size', 'counts'} <= set(segmentation):
    return 'is neither run lengths (size and counts) nor a list of polygons'
  stated = segmentation['size']
  if stated != list(size) or not all(type(side) is int for side in stated):
    return (f'is of size {coco_fields.shown(stated)}, and its image of [{size[0]}, {size[1]}] '
            '(height, width)')
  counts = segmentation['counts']
  runs = _unpacked(counts) if isinstance(counts, str) else _as_integers(counts)
  if runs is None:
    return 'has counts that are not run lengths'
  if runs.min(initial=0) < 0 or runs.max(initial=0) > image_limits.MAX_PIXELS:
    return 'has a run length below 0 or beyond the image'
  if runs.sum() != size[0] * size[1]:
    return f'has run lengths that add up to {runs.sum()}, not to {size[0]} x {size[1]}'
  return None


def _polygons_problem(polygons):
  if not polygons:
    return 'has no polygon'
  length = 0.0
  for polygon in polygons:
    if not isinstance(polygon, list) or len(polygon) % 2:
      return 'has a polygon that is not a list of three or more x, y'
    if len(polygon) < 6:
      return f'has a polygon of {len(polygon) // 2} corners; three or more are needed'
    if not all(type(value) in (int, float) and abs(value) <= _FARTHEST for value in polygon):
      return f'has a polygon with a corner that is not a number from {-_FARTHEST} to {_FARTHEST}'
    corners = np.array(polygon, np.float64).reshape(-1, 2)
    length += np.abs(corners - np.roll(corners, 1, 0)).max(1).sum()
  if length > _LONGEST:
    return f'has polygons that are {length:.0f} pixels long; {_LONGEST} are allowed'
  return None


def _as_integers(counts) -> Optional[np.ndarray]:
  if not isinstance(counts, list) or not all(type(count) is int for count in counts):
    return None
  # Larger values would overflow; clipped, they are still invalid.
  return np.array([max(min(count, 2**40), -1) for count in counts], np.int64)


def _unpacked(text: str) -> Optional[np.ndarray]:
  """Returns the run lengths of compressed RLE counts, or None if the text is invalid.

  A character holds five bits of a number, lowest bits first, and a bit that tells whether more
  characters follow. From the fourth number on, the difference from the last number but one is
  stored.
  """
  try:
    codes = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
  except UnicodeEncodeError:
    return None
  if not codes.size:
    return codes
  last = np.flatnonzero(codes & 32 == 0)
  if codes.min() < 0 or codes.max() > 63 or not last.size or last[-1] != codes.size - 1:
    return None
  first = np.concatenate([[0], last[:-1] + 1])
  characters = last - first + 1
  if characters.max() > _MOST_CHARACTERS:
    return None
  place = np.arange(codes.size) - np.repeat(first, characters)
  runs = np.add.reduceat((codes & 31) << 5 * place, first)
  runs -= np.where(codes[last] & 16, 1 << 5 * characters, 0)
  for start in (1, 2):
    runs[start::2] = np.cumsum(runs[start::2])
  return runs
