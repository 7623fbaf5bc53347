"""Instance masks as run lengths, and as bits of a map.

Run lengths are those of pycocotools, compressed (see pycocotools.mask): they go through an image
column by column.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from deeplab_tf.formats import image_limits
from deeplab_tf.user_errors import DataError

Segmentation = Union[Dict[str, Any], List[List[float]]]
# Largest map of the masks of one image, in bytes.
MAX_BYTES = 2**31


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


def size_problem(size: Tuple[int, int], count: int) -> Optional[str]:
  """Describes why the masks of an image must not be decoded.

  Args:
    size: Height and width of the image.
    count: Number of masks.

  Returns:
    A predicate that follows 'the image ' in a message, or None if they may be decoded.
  """
  height, width = size
  if max(size) > image_limits.MAX_SIDE or height * width > image_limits.MAX_PIXELS:
    return f'is {height}x{width}: {image_limits.RULE}'
  if height * width * -(-count // 8) > MAX_BYTES:
    return (f'is {height}x{width} and has {count} instances, whose masks take more than '
            f'{MAX_BYTES // 2**30} GiB; make it smaller, or cut it into parts')
  return None


def run_lengths(segmentation: Segmentation, size: Tuple[int, int]) -> Dict[str, Any]:
  """Returns a mask as compressed run lengths, as pycocotools makes them.

  Args:
    segmentation: Run lengths, compressed or not, or polygons, lists of x, y, x, y, ... in pixels.
      A mask from a file must have no coco_masks.problem.
    size: Height and width of the image.

  Raises:
    ValueError: The run lengths have another size.
  """
  from pycocotools import mask
  if isinstance(segmentation, list):
    return mask.merge(mask.frPyObjects(segmentation, *size))
  if tuple(segmentation['size']) != tuple(size):
    raise DataError('a mask is {} x {} pixels (height x width) and its image {} x {}; both must '
                    'have one size'.format(*segmentation['size'], *size))
  if isinstance(segmentation['counts'], list):
    return mask.frPyObjects(segmentation, *size)
  return segmentation


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
  # Column by column, as pycocotools reads masks; one copy of all bits is faster than one per mask.
  planes = np.ascontiguousarray(np.transpose(bits, (2, 1, 0)), np.uint8)
  return [mask.encode((planes[row // 8] >> row % 8 & 1).T) for row in range(count)]
