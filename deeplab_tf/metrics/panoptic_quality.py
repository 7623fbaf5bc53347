"""Panoptic quality (Kirillov et al., Panoptic Segmentation, Sec. 4), equal to panopticapi's.

  metric = PanopticQuality(dataset_info.categories)
  for ground_truth, prediction in pairs:
    metric.update_from_label_maps(ground_truth, prediction, dataset_info)
  print(format_result(metric.result()))

The same class scores files (`scoring.panoptic_files`) and the evaluation during training. `match`
lists the true positives, false negatives and false positives of one image.
"""

import functools
import math
from typing import (
  Any,
  Callable,
  Dict,
  Iterable,
  Mapping,
  NamedTuple,
  Optional,
  Sequence,
  Tuple,
)

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import accumulator, overlap
from deeplab_tf.metrics.percent import percent
from deeplab_tf.user_errors import DataError

Segment = coco_panoptic.Segment
DILATION_RATIO = overlap.DILATION_RATIO
_VOID = 0
_COUNTS = ('iou_sum', 'true_positives', 'false_positives', 'false_negatives')


class Match(NamedTuple):
  """A ground truth segment and the predicted segment that matches it.

  Attributes:
    ground_truth: The ground truth segment.
    prediction: The predicted segment, which has the same category.
    iou: IoU in (0.5, 1]; with boundaries, the smaller of mask IoU and boundary IoU.
  """
  ground_truth: Segment
  prediction: Segment
  iou: float


class Matching(NamedTuple):
  """Result of matching one image; each segment is in exactly one of the five tuples.

  Attributes:
    matches: True positives.
    unmatched_ground_truth: False negatives.
    unmatched_predictions: False positives.
    ignored_ground_truth: Crowd segments, which need no match.
    ignored_predictions: Unmatched predictions that lie mostly in void or in a crowd of their
      category; they are not false positives.
    ground_truth_pixels: Segment id -> pixels in the map, unlisted ids included; 0 is void.
    prediction_pixels: Segment id -> pixels in the map; 0 is no segment.
    overlaps: (id in the ground truth, id in the prediction) -> pixels that have both.
  """
  matches: Tuple[Match, ...]
  unmatched_ground_truth: Tuple[Segment, ...]
  unmatched_predictions: Tuple[Segment, ...]
  ignored_ground_truth: Tuple[Segment, ...]
  ignored_predictions: Tuple[Segment, ...]
  ground_truth_pixels: Dict[int, int]
  prediction_pixels: Dict[int, int]
  overlaps: overlap.Pairs


def match(ground_truth_map: np.ndarray, ground_truth_segments: Sequence[Segment],
          prediction_map: np.ndarray, prediction_segments: Sequence[Segment],
          dilation_ratio: Optional[float] = None) -> Matching:
  """Matches the predicted segments of one image with the ground truth segments.

  A predicted and a ground truth segment match if they have the same category, the latter is no
  crowd, and their IoU is above 0.5, where void pixels are excluded from the prediction.

  Args:
    ground_truth_map: int [height, width], segment ids; 0 is void. Pixels of unlisted ids are
      in no segment.
    ground_truth_segments: Segments of the map. A stated area is used as it is, as in panopticapi.
      If a category has several crowd segments, the last one counts.
    prediction_map: int [height, width], segment ids; 0 is no segment.
    prediction_segments: Segments of the map, all of them; iscrowd and area are not read.
    dilation_ratio: Thickness of boundaries as a fraction of the image's diagonal, for boundary IoU
      (usually DILATION_RATIO). None uses mask IoU alone.

  Raises:
    ValueError: The maps differ in size, an id is 0, or the prediction's map and list of segments
      name different ids.
  """
  return match_overlaps(*_segments_by_id(ground_truth_map, ground_truth_segments, prediction_map,
                                         prediction_segments, dilation_ratio))


def match_overlaps(overlaps: overlap.Overlaps, truths: Mapping[int, Segment],
                   predictions: Mapping[int, Segment]) -> Matching:
  """Matches segments like `match`, given their overlaps.

  Args:
    overlaps: Overlaps of the ground truth map (first) and the prediction map (second); see `match`.
    truths: Ground truth segments by id.
    predictions: Predicted segments by id; each has pixels.
  """
  truth_pixels, prediction_pixels = (overlap.sums(overlaps.pixels, side) for side in (0, 1))
  boundary_iou = _boundary_iou(overlaps) if overlaps.first_boundary else lambda *ids: math.inf
  matches = []
  for (truth_id, prediction_id), intersection in overlaps.pixels.items():
    truth, prediction = truths.get(truth_id), predictions.get(prediction_id)
    if (truth is None or prediction is None or truth.iscrowd
        or truth.category_id != prediction.category_id):
      continue
    area = truth_pixels[truth_id] if truth.area is None else truth.area
    union = (area + prediction_pixels[prediction_id] - intersection
             - overlaps.pixels.get((_VOID, prediction_id), 0))
    # The union is zero or less only where a stated area is far too small.
    if union > 0 and intersection / union > 0.5:
      iou = min(intersection / union, boundary_iou(truth_id, prediction_id))
      if iou > 0.5:
        matches.append(Match(truth, prediction, iou))
  crowds = {truth.category_id: truth.id for truth in truths.values() if truth.iscrowd}

  def is_excused(prediction: Segment) -> bool:
    pixels = overlaps.pixels.get((_VOID, prediction.id), 0)
    if prediction.category_id in crowds:
      pixels += overlaps.pixels.get((crowds[prediction.category_id], prediction.id), 0)
    return pixels > 0.5 * prediction_pixels[prediction.id]

  found = {each.ground_truth.id for each in matches}
  used = {each.prediction.id for each in matches}
  spare = [prediction for prediction in predictions.values() if prediction.id not in used]
  return Matching(
      matches=tuple(matches),
      unmatched_ground_truth=tuple(truth for truth in truths.values()
                                   if not truth.iscrowd and truth.id not in found),
      unmatched_predictions=tuple(prediction for prediction in spare if not is_excused(prediction)),
      ignored_ground_truth=tuple(truth for truth in truths.values() if truth.iscrowd),
      ignored_predictions=tuple(prediction for prediction in spare if is_excused(prediction)),
      ground_truth_pixels=truth_pixels, prediction_pixels=prediction_pixels,
      overlaps=overlaps.pixels)


def wrong_areas(segments: Iterable[Segment], pixels: Mapping[int, int]) -> Tuple[int, ...]:
  """Returns the ids of segments whose stated area differs from their number of pixels.

  Args:
    segments: Segments; those whose area is None are skipped.
    pixels: Segment id -> pixels in the map.
  """
  return tuple(segment.id for segment in segments
               if segment.area is not None and segment.area != pixels.get(segment.id, 0))


class PanopticQuality(accumulator.Accumulator):
  """Accumulates true positives, false negatives and false positives per category.

  `match` decides which segments match.

  Attributes:
    category_ids: Ids of the scored categories, in the order given.
    iou_sum: float64 [categories], sum of the IoU of the matches.
    true_positives, false_positives, false_negatives: int64 [categories], numbers of segments.
  """

  def __init__(self, categories: Iterable[Any], dilation_ratio: Optional[float] = None):
    """Starts at zero.

    Args:
      categories: Objects with `category_id` and `isthing`, from DatasetInfo or from a JSON file.
      dilation_ratio: Thickness of boundaries, see `match`. If given, the score is the boundary
        panoptic quality.
    """
    self._dilation_ratio = dilation_ratio
    categories = tuple(categories)
    self.category_ids = tuple(int(category.category_id) for category in categories)
    self._isthing = np.array([bool(category.isthing) for category in categories], bool)
    self._index = {category: index for index, category in enumerate(self.category_ids)}
    if len(self._index) != len(categories):
      raise ValueError('a category id is listed twice; category ids must be distinct')
    self.reset()

  def reset(self) -> None:
    """Resets all counts."""
    count = len(self.category_ids)
    self.iou_sum = np.zeros(count, np.float64)
    self.true_positives = np.zeros(count, np.int64)
    self.false_positives = np.zeros(count, np.int64)
    self.false_negatives = np.zeros(count, np.int64)

  def update(self, ground_truth_map: np.ndarray, ground_truth_segments: Sequence[Segment],
             prediction_map: np.ndarray,
             prediction_segments: Sequence[Segment]) -> Tuple[int, ...]:
    """Adds one image; see `match` for the arguments.

    Returns:
      Ids of the ground truth segments whose stated area differs from their number of pixels.

    Raises:
      ValueError: An argument is invalid, see `match`, or a category is unknown; nothing is counted.
    """
    self._check_categories(ground_truth_segments, 'ground truth')
    self._check_categories(prediction_segments, 'prediction')
    matching = self._match(*_segments_by_id(ground_truth_map, ground_truth_segments,
                                            prediction_map, prediction_segments,
                                            self._dilation_ratio))
    self._count(matching)
    return wrong_areas(ground_truth_segments, matching.ground_truth_pixels)

  def update_from_label_maps(self, ground_truth: np.ndarray, prediction: np.ndarray,
                             dataset_info: DatasetInfo) -> None:
    """Adds one image given as panoptic maps.

    Args:
      ground_truth: int [height, width], class id * label divisor + instance number. The ignored
        class is void; instance number 0 of a thing class is a crowd segment.
      prediction: int [height, width], likewise; pixels of the ignored class are in no segment.
      dataset_info: Description of the classes; its categories are those of the constructor.

    Raises:
      ValueError: The maps differ in size or a label belongs to no class of the dataset.
    """
    labels = _overlaps(ground_truth, prediction, self._dilation_ratio)
    truths = _label_segments(labels, 0, dataset_info, 'ground truth')
    predictions = _label_segments(labels, 1, dataset_info, 'prediction')
    self._check_categories(truths.values(), 'ground truth')
    self._check_categories(predictions.values(), 'prediction')
    ids = labels.renamed(*(functools.partial(self._id, known=known, dataset_info=dataset_info)
                           for known in (truths, predictions)))
    self._count(self._match(ids, truths, predictions))

  def merge(self, other: 'PanopticQuality') -> None:
    """Adds the counts of another accumulator of the same kind over the same categories."""
    if (type(other), other._dilation_ratio) != (type(self), self._dilation_ratio):
      raise ValueError('cannot merge panoptic qualities of different definitions')
    if other.category_ids != self.category_ids:
      raise ValueError('cannot merge panoptic qualities over different categories')
    self.iou_sum += other.iou_sum
    self.true_positives += other.true_positives
    self.false_positives += other.false_positives
    self.false_negatives += other.false_negatives

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the four counts, keyed by attribute name."""
    return {name: getattr(self, name) for name in _COUNTS}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    for name in _COUNTS:
      setattr(self, name, np.array(state[name]))

  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far, as Python numbers in [0, 1].

    Returns:
      'All', 'Things', 'Stuff': dictionaries of pq, sq, rq, averaged over the n classes that
      occur in ground truth or prediction; pq, sq and rq are None where n is 0.
      'per_class': for each of those classes, by category id, pq, sq, rq, tp, fp, fn.
    """
    denominator = (self.true_positives + 0.5 * self.false_positives + 0.5 * self.false_negatives)
    occurs = denominator > 0
    scores = {
        'pq': self.iou_sum / np.where(occurs, denominator, 1),
        'sq': self.iou_sum / np.maximum(self.true_positives, 1),
        'rq': self.true_positives / np.where(occurs, denominator, 1),
    }
    result: Dict[str, Any] = {}
    groups = {'All': occurs, 'Things': occurs & self._isthing, 'Stuff': occurs & ~self._isthing}
    for group, chosen in groups.items():
      result[group] = {
          name: float(values[chosen].mean()) if chosen.any() else None
          for name, values in scores.items()
      }
      result[group]['n'] = int(chosen.sum())
    counts = {'tp': self.true_positives, 'fp': self.false_positives, 'fn': self.false_negatives}
    result['per_class'] = {
        self.category_ids[index]: {
            **{name: float(values[index]) for name, values in scores.items()},
            **{name: int(values[index]) for name, values in counts.items()},
        } for index in np.flatnonzero(occurs)
    }
    return result

  def _id(self, label: int, known: Mapping[int, Segment], dataset_info: DatasetInfo) -> int:
    """Returns the id of a label's segment: label + 1, since 0 may be the label of a class."""
    del dataset_info
    return label + 1 if label + 1 in known else _VOID

  def _match(self, overlaps: overlap.Overlaps, truths: Mapping[int, Segment],
             predictions: Mapping[int, Segment]) -> Matching:
    return match_overlaps(overlaps, truths, predictions)

  def _check_categories(self, segments: Iterable[Segment], what: str) -> None:
    for segment in segments:
      if segment.category_id not in self._index:
        raise DataError(f'{what}: segment {segment.id} is of category {segment.category_id}, '
                        f'which is none of the {len(self._index)} categories that are scored')

  def _count(self, matching: Matching) -> None:
    """Adds the matching of one image."""
    for found in matching.matches:
      index = self._index[found.ground_truth.category_id]
      self.true_positives[index] += 1
      self.iou_sum[index] += found.iou
    for segment in matching.unmatched_ground_truth:
      self.false_negatives[self._index[segment.category_id]] += 1
    for segment in matching.unmatched_predictions:
      self.false_positives[self._index[segment.category_id]] += 1


def format_result(result: Mapping[str, Any],
                  class_names: Optional[Mapping[int, str]] = None) -> str:
  """Formats a result as a table, with scores in percent.

  Args:
    result: Return value of PanopticQuality.result().
    class_names: Category id -> name. If given, the table has a line per class.
  """
  title = ' ' * 24 + '    PQ     SQ     RQ'
  lines = [f'{title}     n']
  for group in ('All', 'Things', 'Stuff'):
    scores = result[group]
    lines.append(f'{group:<24}{_qualities(scores)}{scores["n"]:6d}'
                 + ('   not available: no class to average over' if not scores['n'] else ''))
  if class_names is not None:
    lines += ['', f'{title}     TP     FP     FN']
    for category, scores in result['per_class'].items():
      name = class_names.get(category, str(category))
      counts = ''.join(f'{scores[key]:7d}' for key in ('tp', 'fp', 'fn'))
      lines.append(f'{name[:23]:<24}{_qualities(scores)}{counts}')
  return '\n'.join(lines)


def _qualities(scores: Mapping[str, Any]) -> str:
  return ' '.join(percent(scores[name], 6) for name in ('pq', 'sq', 'rq'))


def _segments_by_id(
    ground_truth_map: np.ndarray, ground_truth_segments: Sequence[Segment],
    prediction_map: np.ndarray, prediction_segments: Sequence[Segment],
    dilation_ratio: Optional[float],
) -> Tuple[overlap.Overlaps, Dict[int, Segment], Dict[int, Segment]]:
  """Returns the arguments of match_overlaps; raises if map and list of the prediction disagree."""
  truths = _by_id(ground_truth_segments, 'ground truth')
  predictions = _by_id(prediction_segments, 'prediction')
  overlaps = _overlaps(ground_truth_map, prediction_map, dilation_ratio)
  drawn = {prediction for _, prediction in overlaps.pixels}
  for segment_id in sorted(drawn):
    if segment_id != _VOID and segment_id not in predictions:
      raise DataError(f'prediction: segment {segment_id} of the map is not listed among the '
                      f'{len(predictions)} segments, so its category is unknown')
  for segment in prediction_segments:
    if segment.id not in drawn:
      raise DataError(f'prediction: segment {segment.id} of category {segment.category_id} '
                      'is listed but has no pixel in the map')
  return overlaps, truths, predictions


def _overlaps(ground_truth: np.ndarray, prediction: np.ndarray,
              dilation_ratio: Optional[float]) -> overlap.Overlaps:
  distance = None
  if dilation_ratio is not None:
    distance = overlap.boundary_distance(np.shape(ground_truth), dilation_ratio)
  return overlap.overlaps(ground_truth, prediction, distance)


def _by_id(segments: Iterable[Segment], what: str) -> Dict[int, Segment]:
  by_id = {segment.id: segment for segment in segments}
  if _VOID in by_id:
    raise DataError(f'{what}: a segment of category {by_id[_VOID].category_id} has the id 0, '
                    'which is void')
  return by_id


def _boundary_iou(overlaps: overlap.Overlaps) -> Callable[[int, int], float]:
  """Returns the function that computes the boundary IoU of two segments that overlap."""
  truth_pixels = overlap.sums(overlaps.first_boundary, 0)
  prediction_pixels = overlap.sums(overlaps.second_boundary, 1)

  def iou(truth_id: int, prediction_id: int) -> float:
    intersection = overlaps.both_boundaries.get((truth_id, prediction_id), 0)
    # Never zero: each ground truth segment has a boundary, and void is not in the intersection.
    union = (truth_pixels[truth_id] + prediction_pixels[prediction_id] - intersection
             - overlaps.second_boundary.get((_VOID, prediction_id), 0))
    return intersection / union

  return iou


def _label_segments(labels: overlap.Overlaps, side: int, dataset_info: DatasetInfo,
                    what: str) -> Dict[int, Segment]:
  values = sorted({pair[side] for pair in labels.pixels})
  segments = (coco_panoptic.label_segment(label, dataset_info, what) for label in values)
  return {segment.id: segment for segment in segments if segment is not None}
