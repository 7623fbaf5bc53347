"""Instance masks as run lengths, and as bits of a map.

Run lengths are those of pycocotools, compressed (see pycocotools.mask): they go through an image
column by column.
"""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np


class InstanceMasks(NamedTuple):
  """The annotated instances of one image, whose masks may overlap.

  Attributes:
    size: Height and width of the image.
    counts: Compressed run lengths of each mask, as bytes.
    class_ids: Class id of each instance.
    is_crowd: Whether each mask stands for several instances.
    areas: Area of each instance in pixels, as annotated.
  """
  size: Tuple[int, int]
  counts: Tuple[bytes, ...]
  class_ids: Tuple[int, ...]
  is_crowd: Tuple[bool, ...]
  areas: Tuple[float, ...]


def to_bits(size: Tuple[int, int], counts: Sequence[bytes]) -> np.ndarray:
  """Decodes masks to the form of structures.InstanceLabel.mask_bits.

  Args:
    size: Height and width of the image.
    counts: Compressed run lengths of each mask, which must be valid for the size; see coco_masks.

  Returns:
    uint8 [height, width, ceil(masks / 8)].
  """
  from pycocotools import mask
  height, width = (int(side) for side in size)
  bits = np.zeros((height, width, -(-len(counts) // 8)), np.uint8)
  for row, runs in enumerate(counts):
    # One mask at a time: all together would be eight times as large as the result.
    decoded = mask.decode({'size': [height, width], 'counts': bytes(runs)})
    bits[..., row // 8] |= decoded << row % 8
  return bits


def from_bits(bits: np.ndarray, count: int) -> List[dict]:
  """Encodes masks as pycocotools does.

  Args:
    bits: uint8 [height, width, ceil(count / 8)]; see `to_bits`.
    count: Number of masks.

  Returns:
    Run lengths {'size': [height, width], 'counts': bytes} of each mask.
  """
  from pycocotools import mask
  return [mask.encode(np.asfortranarray(bits[..., row // 8] >> row % 8 & 1, np.uint8))
          for row in range(count)]
