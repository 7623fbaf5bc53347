"""IoU and matching of the instances of one image and category, with pycocotools.

The rules are those of COCOeval. With boundaries, the IoU is the smaller of mask IoU and boundary
IoU (Cheng et al., Boundary IoU, Sec. 5), or the mask IoU if the annotation is a crowd.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import coco_panoptic, instance_masks
from deeplab_tf.metrics import overlap

# COCO's lowest threshold: boundaries matter only where the mask IoU reaches it.
_LOWEST_THRESHOLD = 0.5
# Number of detections per image and category that count, those with the highest scores.
MAX_DETECTIONS = 100


class Truth(NamedTuple):
  """An annotation.

  Attributes:
    area: Area in pixels, as stated.
    iscrowd: Whether it stands for several instances.
  """
  area: float
  iscrowd: bool


class Detection(NamedTuple):
  """A detection.

  Attributes:
    score: Confidence.
    area: Area in pixels.
  """
  score: float
  area: float


class Matching(NamedTuple):
  """Matches of the detections of an image and category.

  Attributes:
    positives: int [areas], number of annotations to detect, by COCO's area ranges.
    scores: float64 [detections], confidences.
    matched: bool [areas, thresholds, detections], whether the detection matches an annotation.
    ignored: bool [areas, thresholds, detections], whether it is neither a true nor a false
      positive.
    partners: int64 [detections], index of the annotation of any area that the detection matches at
      an IoU of 0.5, or -1.
  """
  positives: Sequence[int]
  scores: np.ndarray
  matched: np.ndarray
  ignored: np.ndarray
  partners: np.ndarray


class Record(NamedTuple):
  """The instances of an image and category, with their matches.

  Attributes:
    category: Index of the category.
    truths: Annotations.
    detections: Detections that count, the best first.
    matching: Their matches.
  """
  category: int
  truths: Sequence[Mapping[str, Any]]
  detections: Sequence[Mapping[str, Any]]
  matching: Matching


def coco_evaluation() -> Any:
  """Returns a COCOeval without annotations, with COCO's parameters."""
  from pycocotools import cocoeval
  return cocoeval.COCOeval(iouType='segm')


def best(detections: Sequence[Dict[str, Any]], limit: int = MAX_DETECTIONS) -> List[Dict[str, Any]]:
  """Returns the detections with the highest scores; ties keep the given order."""
  return sorted(detections, key=lambda detection: -detection['score'])[:limit]


def match(truths: Sequence[Truth], detections: Sequence[Detection], ious: np.ndarray) -> Matching:
  """Matches the detections of an image and category.

  Args:
    truths: Annotations.
    detections: At most 100 detections, by descending score.
    ious: float [detections, truths], IoUs.
  """
  evaluation = coco_evaluation()
  # Ids start at 1, since COCOeval uses 0 for no match.
  evaluation._gts[0, 0] = [
      {'id': index + 1, 'area': truth.area, 'iscrowd': int(truth.iscrowd),
       'ignore': int(truth.iscrowd)} for index, truth in enumerate(truths)]
  evaluation._dts[0, 0] = [{'id': index + 1, **detection._asdict()}
                           for index, detection in enumerate(detections)]
  evaluation.ious[0, 0] = ious
  params = evaluation.params
  scores = np.array([detection.score for detection in detections], np.float64)
  results = [evaluation.evaluateImg(0, 0, limits, params.maxDets[-1])
             for limits in params.areaRng]
  shape = (len(params.areaRng), len(params.iouThrs), len(detections))
  if not truths and not detections:
    return Matching([0] * len(params.areaRng), scores, np.zeros(shape, bool),
                    np.zeros(shape, bool), np.zeros(0, np.int64))
  return Matching([int(np.count_nonzero(result['gtIgnore'] == 0)) for result in results], scores,
                  np.array([result['dtMatches'] > 0 for result in results]).reshape(shape),
                  np.array([result['dtIgnore'] for result in results], bool).reshape(shape),
                  np.asarray(results[0]['dtMatches'][0], np.int64) - 1)


# === Masks ===


def areas(masks: Sequence[Dict[str, Any]]) -> List[int]:
  """Returns the areas of RLE masks in pixels."""
  from pycocotools import mask
  return mask.area(list(masks)).tolist() if masks else []


def boxes(detections: Sequence[Mapping[str, Any]],
          size: Tuple[int, int]) -> Tuple[List[Sequence[float]], List[float]]:
  """Returns the boxes (x, y, width, height) and areas of detections, in pixels.

  If a detection has no bbox, its box and area are those of its mask.

  Args:
    detections: Detections with bbox or segmentation.
    size: Height and width of the image.
  """
  from pycocotools import mask
  found, pixels = [], []
  for detection in detections:
    if detection.get('bbox'):
      found.append(detection['bbox'])
      pixels.append(detection['bbox'][2] * detection['bbox'][3])
    else:
      runs = instance_masks.run_lengths(detection['segmentation'], size)
      found.append(mask.toBbox(runs).tolist())
      pixels.append(int(mask.area(runs)))
  return found, pixels


def ious(detections: Sequence[Any], truths: Sequence[Any], crowds: Sequence[bool]) -> np.ndarray:
  """Returns the IoU of masks or boxes; for a crowd, the fraction of the detection inside it.

  Args:
    detections: RLE masks, or boxes (x, y, width, height).
    truths: Annotations in the same form.
    crowds: Whether each annotation is a crowd.

  Returns:
    float64 [detections, truths].
  """
  from pycocotools import mask
  if not detections or not truths:
    return np.zeros((len(detections), len(truths)))
  return mask.iou(list(detections), list(truths), [int(crowd) for crowd in crowds])


def with_boundaries(mask_ious: np.ndarray, detections: Sequence[Dict[str, Any]],
                    truths: Sequence[Dict[str, Any]], crowds: Sequence[bool],
                    distance: int) -> np.ndarray:
  """Returns the smaller of mask IoU and boundary IoU where the mask IoU is high enough to matter.

  Args:
    mask_ious: float64 [detections, truths], mask IoUs.
    detections: RLE masks of the detections.
    truths: RLE masks of the annotations.
    crowds: Whether each annotation is a crowd.
    distance: Thickness of boundaries in pixels.
  """
  smaller = mask_ious.copy()
  known: Dict[Tuple[int, int], _Crop] = {}

  def boundary(side: int, index: int) -> '_Crop':
    if (side, index) not in known:
      known[side, index] = _boundary((detections, truths)[side][index], distance)
    return known[side, index]

  for row, column in np.argwhere(mask_ious >= _LOWEST_THRESHOLD).tolist():
    if not crowds[column]:
      smaller[row, column] = min(smaller[row, column],
                                 boundary(0, row).iou(boundary(1, column)))
  return smaller


class _Crop(NamedTuple):
  """A mask cropped to its bounding box.

  Attributes:
    top, left: Corner of the box, in image pixels.
    mask: bool [height, width], mask inside the box.
  """
  top: int
  left: int
  mask: np.ndarray

  def iou(self, other: '_Crop') -> float:
    """Returns the IoU of two nonempty masks of one image."""
    top, left = max(self.top, other.top), max(self.left, other.left)
    parts = [crop.mask[top - crop.top:, left - crop.left:] for crop in (self, other)]
    height, width = np.min([part.shape for part in parts], axis=0)
    intersection = np.count_nonzero(parts[0][:height, :width] & parts[1][:height, :width])
    union = np.count_nonzero(self.mask) + np.count_nonzero(other.mask) - intersection
    return intersection / union


def _boundary(runs: Dict[str, Any], distance: int) -> _Crop:
  from pycocotools import mask
  left, top, width, height = (int(value) for value in mask.toBbox(runs))
  inside = mask.decode(runs)[top:top + height, left:left + width].astype(bool)
  # Outside of the box is outside of the mask, like outside of the image.
  return _Crop(top, left, inside & overlap.boundaries(inside, distance))


# === Panoptic maps ===


def things(overlaps: overlap.Overlaps, side: int,
           dataset_info: DatasetInfo) -> List[Dict[str, Any]]:
  """Lists the things of a panoptic map in ascending order of their labels.

  Args:
    overlaps: Overlaps of two panoptic maps.
    side: 0 for the first map, 1 for the second.
    dataset_info: Description of the classes.

  Returns:
    Dictionaries of label, category_id, area (pixels) and iscrowd.

  Raises:
    ValueError: A label belongs to no class of the dataset.
  """
  pixels = overlap.sums(overlaps.pixels, side)
  found = []
  for label in sorted(pixels):
    what = ('ground truth', 'prediction')[side]
    segment = coco_panoptic.label_segment(label, dataset_info, what)
    class_id = label // dataset_info.label_divisor
    if segment is not None and dataset_info.by_class_id[class_id].isthing:
      found.append({'label': label, 'category_id': segment.category_id, 'area': pixels[label],
                    'iscrowd': segment.iscrowd})
  return found


def map_ious(overlaps: overlap.Overlaps, truths: Sequence[Dict[str, Any]],
             detections: Sequence[Dict[str, Any]]) -> np.ndarray:
  """Returns the IoU of the things of two panoptic maps, without creating masks.

  Args:
    overlaps: Overlaps of ground truth (first) and prediction (second). If they include boundaries,
      the result is the smaller of mask IoU and boundary IoU.
    truths: Return value of `things` for the ground truth.
    detections: Return value of `things` for the prediction.

  Returns:
    float64 [detections, truths].
  """
  boundaries = (overlap.sums(overlaps.first_boundary, 0), overlap.sums(overlaps.second_boundary, 1))
  result = np.zeros((len(detections), len(truths)))
  for row, detection in enumerate(detections):
    for column, truth in enumerate(truths):
      key = truth['label'], detection['label']
      intersection = overlaps.pixels.get(key, 0)
      if truth['iscrowd']:
        result[row, column] = intersection / detection['area']
        continue
      result[row, column] = intersection / (truth['area'] + detection['area'] - intersection)
      if boundaries[0]:
        intersection = overlaps.both_boundaries.get(key, 0)
        union = boundaries[0][key[0]] + boundaries[1][key[1]] - intersection
        result[row, column] = min(result[row, column], intersection / union)
  return result
