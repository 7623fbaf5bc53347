"""Synthetic panoptic maps with segments of irregular shape, to measure the speed of scoring."""

import os
import pathlib
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from deeplab_tf.formats import coco_panoptic

_CATEGORIES = 40
_THINGS = 20


class Files(NamedTuple):
  """Paths of two panoptic JSONs, whose PNGs are in folders with the same names."""
  ground_truth: pathlib.Path
  predictions: pathlib.Path


def write(folder: coco_panoptic.PathLike, images: int, size: Tuple[int, int],
          segments: int = 60, seed: int = 0) -> Files:
  """Writes a ground truth and similar predictions in the COCO panoptic format.

  Args:
    folder: An existing folder.
    images: Number of pairs of maps.
    size: Height and width in pixels.
    segments: Approximate number of segments per map; a few percent of the pixels belong to none.
    seed: Seed of the random generator.
  """
  rng = np.random.default_rng(seed)
  categories = [{'id': index + 1, 'name': f'class {index + 1}', 'isthing': int(index < _THINGS)}
                for index in range(_CATEGORIES)]
  paths = Files(*(pathlib.Path(os.fspath(folder)) / f'{name}.json'
                  for name in ('ground_truth', 'predictions')))
  annotations: Tuple[List, List] = ([], [])
  for path in paths:
    path.with_suffix('').mkdir()
  for image_id in range(images):
    classes = rng.integers(1, _CATEGORIES + 1, segments)
    for path, entries, ids in zip(paths, annotations, draw_pair(rng, size, segments)):
      name = f'{image_id:06d}.png'
      coco_panoptic.write_panoptic_png(path.with_suffix('') / name, ids)
      areas = np.bincount(ids.ravel(), minlength=segments + 1)[1:]
      entries.append({'image_id': image_id, 'file_name': name, 'segments_info': [
          {'id': index + 1, 'category_id': int(classes[index]), 'area': int(area), 'iscrowd': 0}
          for index, area in enumerate(areas) if area]})
      # The prediction has a wrong class for about every tenth segment.
      classes = np.where(rng.random(segments) < 0.1, rng.permutation(classes), classes)
  for path, entries in zip(paths, annotations):
    coco_panoptic.write_json(path, {'images': [], 'categories': categories,
                                    'annotations': entries})
  return paths


def draw_pair(rng: np.random.Generator, size: Tuple[int, int],
              segments: int) -> Tuple[np.ndarray, np.ndarray]:
  """Generates two similar maps, two distortions of one division of the plane.

  Args:
    rng: Random generator.
    size: Height and width in pixels.
    segments: Number of segments, which have ids from 1 on; 0 is no segment.

  Returns:
    Two maps, int32 [height, width].
  """
  # A coarse distortion at an eighth of the size is shared; each map gets its own fine edges.
  small = [-(-extent // 8) for extent in size]
  coarse = _bent(rng, _nearest(rng, small, segments), small, min(small) / 8)
  first, second = (_bent(rng, coarse, size, min(size) / 60) for _ in range(2))
  return first, second


def _bent(rng: np.random.Generator, ids: np.ndarray, size: Sequence[int],
          strength: float) -> np.ndarray:
  """Distorts a map by looking up each pixel at a random position nearby.

  Args:
    rng: Random generator.
    ids: int [rows, columns], a map that is resized to the result.
    size: Height and width of the result.
    strength: Approximate distance in pixels of the result.
  """
  places = []
  for axis, (extent, rows) in enumerate(zip(size, ids.shape)):
    place = np.arange(extent, dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
    place = (place + _noise(rng, size, strength)) * (rows / extent)
    places.append(np.clip(place, 0, rows - 1).astype(np.int32))
  return ids[places[0], places[1]]


def _nearest(rng: np.random.Generator, size: Sequence[int], segments: int) -> np.ndarray:
  """Assigns each pixel to the nearest of random points; a few points belong to no segment."""
  points = rng.random((segments + 3, 2)) * size
  rows, columns = np.mgrid[:size[0], :size[1]]
  best = np.full(size, np.inf)
  owner = np.zeros(size, np.int32)
  for number, (row, column) in enumerate(points):
    # Random weights give the segments different sizes.
    away = ((rows - row)**2 + (columns - column)**2) * rng.uniform(0.4, 2.5)
    owner[away < best] = number + 1 if number < segments else 0
    best = np.minimum(best, away)
  return owner


def _noise(rng: np.random.Generator, size: Sequence[int], strength: float) -> np.ndarray:
  """Returns a sum of smooth random fields, each half as wide and half as strong as the last.

  Returns:
    float32 [height, width] with values of about `strength`.
  """
  step = 2**max(2, int(np.log2(4 * strength)))
  total = np.zeros([-(-extent // step) + 1 for extent in size], np.float32)
  while step > 2:
    total += strength * rng.normal(size=total.shape).astype(np.float32)
    step, strength = step // 2, strength / 2
    total = _enlarged(total, [-(-extent // step) + 1 for extent in size], 2)
  return _enlarged(total, size, step)


def _enlarged(grid: np.ndarray, size: Sequence[int], step: int) -> np.ndarray:
  """Interpolates between the values of a grid that are `step` apart."""
  for extent in size:
    place = np.arange(extent, dtype=np.float32) / step
    low = np.minimum(place.astype(np.int32), len(grid) - 2)
    share = (place - low)[:, None]
    # The transpose brings the other axis to the front; two of them restore the order.
    grid = np.ascontiguousarray((grid[low] * (1 - share) + grid[low + 1] * share).T)
  return grid
