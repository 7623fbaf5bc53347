"""Statistics of instance masks that may overlap, for data.survey."""

import dataclasses
from typing import Callable, Iterator, NamedTuple

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats.instance_masks import InstanceMasks

# COCO's limits between small, medium and large instances, in pixels.
_MEDIUM, _LARGE = 32**2, 96**2
# Causes of notes.
DUPLICATES = ('pairs of instances whose masks are nearly the same (IoU of at least 0.95), probably '
              'one object that was annotated twice')
EMPTY = 'instances whose mask has no pixel'
AREAS = ('instances whose "area" is less than half or more than twice their number of pixels; it '
         'decides whether they are small, medium or large in average precision')
_SAME = 0.95
# Areas of smaller instances are not compared: a polygon and its pixels may differ.
_COMPARED = 100
# Number of masks that are compared with all others at once.
_ROWS = 500


class ImageInstances(NamedTuple):
  """Statistics of one image.

  Attributes:
    size: Height and width.
    class_ids: int [instances].
    is_crowd: bool [instances].
    areas: float [instances], as annotated.
    pixels: int [instances], pixels of each mask.
    labeled_pixels: Number of pixels in at least one mask.
    overlaps: Number of pairs of instances, without crowds, that share pixels.
  """
  size: tuple[int, int]
  class_ids: np.ndarray
  is_crowd: np.ndarray
  areas: np.ndarray
  pixels: np.ndarray
  labeled_pixels: int
  overlaps: int


@dataclasses.dataclass
class Statistics:
  """Statistics of a data set.

  Attributes:
    areas: Area as annotated of each instance that is not a crowd.
    counts: Number of instances of each image, without crowds.
    overlaps: Number of pairs of instances that share pixels.
    overlapping_images: Number of images with such a pair.
  """
  areas: list = dataclasses.field(default_factory=list)
  counts: list = dataclasses.field(default_factory=list)
  overlaps: int = 0
  overlapping_images: int = 0

  def add(self, image: ImageInstances) -> None:
    """Adds an image."""
    areas = image.areas[~image.is_crowd]
    self.areas += areas.tolist()
    self.counts.append(len(areas))
    self.overlaps += image.overlaps
    self.overlapping_images += bool(image.overlaps)


def measure(masks: InstanceMasks, info: DatasetInfo, place: str,
            note: Callable[[str, str], None]) -> ImageInstances:
  """Measures the instances of an image.

  Args:
    masks: The instances.
    info: The classes.
    place: Name of the image for notes.
    note: Called with a cause and an example for masks that are empty or nearly the same, and for
      areas that are far from the number of pixels.
  """
  from pycocotools import mask
  runs = [{'size': list(masks.size), 'counts': counts} for counts in masks.counts]
  pixels = np.array([mask.area(run) for run in runs], np.int64)
  is_crowd, areas = np.array(masks.is_crowd, bool), np.array(masks.areas, np.float64)
  names = {c.class_id: c.name for c in info.categories}

  def name(row):
    return f'instance {row + 1} "{names[masks.class_ids[row]]}"'

  for row in np.flatnonzero(pixels == 0):
    note(EMPTY, f'{place}: {name(row)}')
  low, high = np.minimum(areas, pixels), np.maximum(areas, pixels)
  for row in np.flatnonzero((2 * low < high) & (high >= _COMPARED) & (pixels > 0)):
    note(AREAS, f'{place}: {name(row)} has {pixels[row]} pixels, but area {areas[row]:g}')
  overlaps = 0
  for one, other, iou in _overlaps(runs, np.flatnonzero(~is_crowd)):
    overlaps += 1
    if iou >= _SAME:
      note(DUPLICATES, f'{place}: {name(one)} and {name(other)}')
  labeled = int(mask.area(mask.merge(runs))) if runs else 0
  return ImageInstances(masks.size, np.array(masks.class_ids, np.int64), is_crowd, areas, pixels,
                        labeled, overlaps)


def _overlaps(runs, rows):
  """Yields two indices and the IoU of each pair of the given masks that share pixels."""
  from pycocotools import mask
  for start in range(0, len(rows), _ROWS):
    part, others = rows[start:start + _ROWS], rows[start:]
    ious = mask.iou([runs[row] for row in part], [runs[row] for row in others], [0] * len(others))
    for one, other in np.argwhere(np.triu(ious, 1) > 0):
      yield part[one], others[other], ious[one, other]


def lines(statistics: Statistics) -> Iterator[str]:
  """Yields the statistics as text."""
  areas, images = np.array(statistics.areas), len(statistics.counts)
  if len(areas):
    small, medium = int((areas < _MEDIUM).sum()), int((areas < _LARGE).sum())
    yield (f'instance areas: min {areas.min():g}, median {np.median(areas):g}, max '
           f'{areas.max():g} pixels; {small} small (below 32 x 32), {medium - small} medium, '
           f'{len(areas) - medium} large (from 96 x 96)')
  yield f'images without instances: {statistics.counts.count(0)}'
  share = 100 * statistics.overlapping_images / max(images, 1)
  yield (f'pairs of instances that share pixels: {statistics.overlaps}, in '
         f'{statistics.overlapping_images} images ({share:.2f} %)')
