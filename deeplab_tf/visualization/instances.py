"""Drawings of instances whose masks may overlap: overlays, and error maps."""

import dataclasses
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.visualization import draw

# Predictions below this score are not drawn.
MIN_SCORE = 0.5
# IoU from which on a prediction and an annotation of one class belong together.
_MATCHED_IOU = 0.5
# Colors of error_map, in the order of the legend.
ERROR_COLORS = {
    'correct': draw.ERROR_COLORS['correct'],
    'false positive': draw.ERROR_COLORS['wrong class'],
    'false negative': draw.ERROR_COLORS['missed'],
    'crowd': draw.ERROR_COLORS['unlabeled'],
}


class Instances(NamedTuple):
  """Instances of one image.

  Attributes:
    size: Height and width of the image.
    masks: Run lengths {'size': [height, width], 'counts': bytes} of each instance, as pycocotools
      has them.
    class_ids: Class id of each instance.
    scores: Score of each instance in [0, 1]; empty for annotations.
    is_crowd: Whether each mask stands for several instances; empty for predictions.
  """
  size: Tuple[int, int]
  masks: Sequence[Mapping[str, Any]]
  class_ids: Sequence[int]
  scores: Sequence[float] = ()
  is_crowd: Sequence[bool] = ()

  @classmethod
  def of_annotations(cls, size: Tuple[int, int],
                     annotations: Sequence[Mapping[str, Any]]) -> 'Instances':
    """Returns the instances of data.label_maps.annotations."""
    masks, class_ids, crowds = ([each[key] for each in annotations]
                                for key in ('segmentation', 'class_id', 'iscrowd'))
    return cls(tuple(size), masks, class_ids, (), [bool(crowd) for crowd in crowds])

  def shown(self, min_score: float = MIN_SCORE) -> 'Instances':
    """Returns the instances with at least a score; annotations stay as they are."""
    if not self.scores:
      return self
    kept = [i for i, score in enumerate(self.scores) if score >= min_score]
    return Instances(self.size, *([values[i] for i in kept] if values else ()
                                  for values in self[1:]))


def overlay(image: np.ndarray, instances: Instances, dataset_info: DatasetInfo,
            min_score: float = MIN_SCORE) -> np.ndarray:
  """Draws instances over an image with outlines, class names and scores; small ones are on top.

  Args:
    image: uint8 [height, width, 3], RGB, of the size of the masks or of another one, to which the
      masks are resized.
    instances: Annotations or predictions.
    dataset_info: Names and colors of the classes.
    min_score: Predictions below this score are not drawn.

  Returns:
    uint8 [height, width, 3].
  """
  painted, info, captions = _painted(instances.shown(min_score), dataset_info)
  return draw.overlay(image, _resized(painted, image.shape[:2]), info, captions=captions,
                      darken_void=False)


def error_map(image: np.ndarray, ground_truth: Instances, prediction: Instances,
              min_score: float = MIN_SCORE) -> np.ndarray:
  """Draws which instances were found, in ERROR_COLORS, over the gray image.

  Predictions take annotations of their class in the order of their scores, those with an IoU of at
  least 0.5. Predictions that mostly lie in a crowd of their class are not drawn.

  Args:
    image: uint8 [height, width, 3]; see `overlay`.
    ground_truth: Annotations.
    prediction: Predictions.
    min_score: Predictions below this score do not count.
  """
  prediction = prediction.shown(min_score)
  matches = _matches(ground_truth, prediction)
  crowds = ground_truth.is_crowd or [False] * len(ground_truth.masks)
  found = set(matches.values())
  layers = [('crowd', [i for i, is_crowd in enumerate(crowds) if is_crowd], ground_truth),
            ('false negative', [i for i, is_crowd in enumerate(crowds)
                                if not is_crowd and i not in found], ground_truth),
            ('false positive', [i for i in range(len(prediction.masks)) if i not in matches],
             prediction),
            ('correct', [i for i, truth in matches.items() if not crowds[truth]], prediction)]
  gray = np.repeat(image.mean(-1, keepdims=True), 3, -1)
  picture = 0.5 * gray + 0.2 * 255  # Faint, so that the colors stand out.
  for name, rows, instances in layers:
    mask = np.zeros(ground_truth.size, bool)
    for row in rows:
      mask |= _decoded(instances.masks[row])
    mask = _resized(mask, image.shape[:2])
    picture[mask] = 0.3 * gray[mask] + 0.7 * np.array(ERROR_COLORS[name])
  return np.rint(picture).astype(np.uint8)


def _matches(ground_truth: Instances, prediction: Instances) -> Dict[int, int]:
  """Returns prediction -> annotation, or -> crowd, by index."""
  from pycocotools import mask
  if not ground_truth.masks or not prediction.masks:
    return {}
  crowds = np.array(ground_truth.is_crowd or [False] * len(ground_truth.masks))
  ious = mask.iou(list(prediction.masks), list(ground_truth.masks), crowds.astype(int).tolist())
  ious *= np.asarray(prediction.class_ids)[:, None] == np.asarray(ground_truth.class_ids)[None]
  found, taken = {}, np.zeros(len(crowds), bool)
  for row in np.argsort(-np.asarray(prediction.scores), kind='stable').tolist():
    free = np.where(taken & ~crowds, 0.0, ious[row])
    # An annotation comes before a crowd.
    best = int(np.argmax(free + (~crowds & (free >= _MATCHED_IOU))))
    if free[best] >= _MATCHED_IOU:
      found[row], taken[best] = best, True
  return found


def _painted(instances: Instances, dataset_info: DatasetInfo
             ) -> Tuple[np.ndarray, DatasetInfo, Dict[int, str]]:
  """Paints instances into a panoptic map, the largest first.

  Returns:
    int32 [height, width]; the classes, with a label divisor that suffices for all instances; and
    label -> caption.
  """
  from pycocotools import mask
  divisor = max(dataset_info.label_divisor, len(instances.masks) + 2)
  info = dataclasses.replace(dataset_info, label_divisor=divisor)
  painted = np.full(instances.size, info.void_label, np.int32)
  areas = mask.area(list(instances.masks)) if instances.masks else []
  captions: Dict[int, str] = {}
  numbers: Dict[int, int] = {}
  for row in np.argsort(-np.asarray(areas, np.int64), kind='stable').tolist():
    class_id, number = int(instances.class_ids[row]), 0
    if not _at(instances.is_crowd, row):
      number = numbers[class_id] = numbers.get(class_id, 0) + 1
    label = class_id * divisor + number
    painted[_decoded(instances.masks[row])] = label
    score = _at(instances.scores, row)
    if score is not None:
      captions[label] = f'{draw.short_name(info.by_class_id[class_id].name)} {score:.2f}'
  return painted, info, captions


def _at(values: Sequence[Any], row: int) -> Optional[Any]:
  return values[row] if values else None


def _decoded(runs: Mapping[str, Any]) -> np.ndarray:
  from pycocotools import mask
  return mask.decode(dict(runs)).astype(bool)


def _resized(array: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
  if array.shape == tuple(size):
    return array
  rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int)
                   for new, old in zip(size, array.shape))
  return array[rows[:, None], columns]
