"""Analysis of panoptic quality by class, segment size, image, and confusion of classes.

  survey = SegmentSurvey(categories)
  for ground_truth, prediction in pairs:
    survey.update(compare(*ground_truth, *prediction))
  survey.result()

The PQ of a class is iou_sum / (TP + FP / 2 + FN / 2) (Kirillov et al., Panoptic Segmentation,
Eq. 1), so 1 - PQ is the sum of three parts with the same denominator: TP - iou_sum for localization
errors, FN / 2 for false negatives, and FP / 2 for false positives. A false negative and a false
positive in the same place are a classification error.
"""

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.metrics import accumulator, confusion, panoptic_quality
from deeplab_tf.user_errors import DataError

Segment = panoptic_quality.Segment
# Boundaries between size bins, area in pixels: each is three times the previous one, and COCO's
# limits of small and medium objects, 32^2 and 96^2, are among them.
SIZE_LIMITS = tuple(32**2 * 3.0**step for step in range(-2, 5))
IOU_BINS = 20  # Bins of equal width from 0.5 to 1.
# Localization errors, classification errors, false negatives and false positives.
LOSSES = ('imprecise', 'wrong_class', 'missed', 'invented')
_COUNTS = ('iou_sum', 'true_positives', 'false_positives', 'false_negatives')
_TABLES = (*_COUNTS, 'iou_histogram', 'pixels', 'mistaken')
_PER_IMAGE = ('image_pq', 'image_true_positives', 'image_false_positives',
              'image_false_negatives')


class Comparison(NamedTuple):
  """Matching and classification errors of one image.

  Attributes:
    matching: Matched and unmatched segments.
    mistaken: Pairs of an unmatched ground truth segment and an unmatched prediction of another
      category with a mask IoU above 0.5; each segment is in one pair at most.
    category_of: Segment id -> category id, for the ground truth and for the prediction.
  """
  matching: panoptic_quality.Matching
  mistaken: Tuple[Tuple[Segment, Segment], ...]
  category_of: Tuple[Mapping[int, int], Mapping[int, int]]


def compare(ground_truth_map: np.ndarray, ground_truth_segments: Sequence[Segment],
            prediction_map: np.ndarray, prediction_segments: Sequence[Segment],
            dilation_ratio: Optional[float] = None) -> Comparison:
  """Compares the prediction of one image with its ground truth; see `panoptic_quality.match`."""
  matching = panoptic_quality.match(ground_truth_map, ground_truth_segments, prediction_map,
                                    prediction_segments, dilation_ratio)
  pixels = matching.overlaps
  unmatched = {segment.id: segment for segment in matching.unmatched_ground_truth}
  in_vain = {segment.id: segment for segment in matching.unmatched_predictions}
  mistaken = []
  for (truth, prediction), intersection in pixels.items():
    if truth not in unmatched or prediction not in in_vain:
      continue
    union = (matching.ground_truth_pixels[truth] + matching.prediction_pixels[prediction]
             - intersection - pixels.get((0, prediction), 0))
    one, other = unmatched[truth], in_vain[prediction]
    if one.category_id != other.category_id and 2 * intersection > union:
      mistaken.append((one, other))
  category_of = tuple({segment.id: segment.category_id for segment in segments}
                      for segments in (ground_truth_segments, prediction_segments))
  return Comparison(matching, tuple(mistaken), category_of)


class SegmentSurvey(accumulator.Accumulator):
  """Accumulates the results of `compare`.

  True positives and false negatives are counted at the size of the ground truth segment, false
  positives at the size of the predicted one. Crowd segments count only in `pixels`.

  Attributes:
    category_ids: Category ids, in the order of the tables.
    isthing: bool [categories], whether each category is a thing class.
    iou_sum: float64 [categories, sizes], sum of the IoU of the matches.
true_positives, false_positives, false_negatives: int64 [categories, sizes], segment counts.
    iou_histogram: int64 [IOU_BINS], number of matches by IoU.
    pixels: int64 [categories, categories + 1], numbers of pixels by ground truth category and
      predicted category; the last column is no category.
    mistaken: int64 [categories, categories], numbers of ground truth segments that are predicted
      as a segment of another category.
    image_pq: PQ of each image, averaged over its classes, in [0, 1]; NaN if nothing is counted.
    image_true_positives, image_false_positives, image_false_negatives: Numbers of segments of each
      image.
  """

  def __init__(self, categories: Iterable[Any]):
    """Starts at zero.

    Args:
      categories: Objects with distinct `category_id`, and `isthing`.
    """
    self._categories = tuple(categories)
    self.category_ids = tuple(int(category.category_id) for category in self._categories)
    self.isthing = np.array([bool(category.isthing) for category in self._categories], bool)
    self._index = {category: index for index, category in enumerate(self.category_ids)}
    self.reset()

  def reset(self) -> None:
    """Resets all counts."""
    categories, sizes = len(self.category_ids), len(SIZE_LIMITS) + 1
    self.iou_sum = np.zeros((categories, sizes))
    self.true_positives = np.zeros((categories, sizes), np.int64)
    self.false_positives = np.zeros((categories, sizes), np.int64)
    self.false_negatives = np.zeros((categories, sizes), np.int64)
    self.iou_histogram = np.zeros(IOU_BINS, np.int64)
    self.pixels = np.zeros((categories, categories + 1), np.int64)
    self.mistaken = np.zeros((categories, categories), np.int64)
    self.image_pq: List[float] = []
    self.image_true_positives: List[int] = []
    self.image_false_positives: List[int] = []
    self.image_false_negatives: List[int] = []

  def update(self, comparison: Comparison) -> None:
    """Adds one image.

    Args:
      comparison: Return value of `compare`.

    Raises:
      ValueError: A category is unknown; nothing is counted.
    """
    for category in {*comparison.category_of[0].values(), *comparison.category_of[1].values()}:
      if category not in self._index:
        raise DataError(f'a segment is of category {category}, which is none of the '
                        f'{len(self._index)} categories')
    matching = comparison.matching
    counts = np.zeros((len(_COUNTS), *self.iou_sum.shape))
    for match in matching.matches:
      place = self._place(match.ground_truth, matching.ground_truth_pixels)
      counts[(0, *place)] += match.iou
      counts[(1, *place)] += 1
      position = int((match.iou - 0.5) * 2 * IOU_BINS)
      self.iou_histogram[min(max(position, 0), IOU_BINS - 1)] += 1
    for segment in matching.unmatched_predictions:
      counts[(2, *self._place(segment, matching.prediction_pixels))] += 1
    for segment in matching.unmatched_ground_truth:
      counts[(3, *self._place(segment, matching.ground_truth_pixels))] += 1
    for truth, prediction in comparison.mistaken:
      self.mistaken[self._index[truth.category_id], self._index[prediction.category_id]] += 1
    self._count_pixels(comparison)
    for name, count in zip(_COUNTS, counts):
      getattr(self, name)[...] += count.astype(getattr(self, name).dtype)
    scores, occurs = _quality(*counts.sum(axis=2))
    self.image_pq.append(float(scores['pq'][occurs].mean()) if occurs.any() else float('nan'))
    self.image_true_positives.append(len(matching.matches))
    self.image_false_positives.append(len(matching.unmatched_predictions))
    self.image_false_negatives.append(len(matching.unmatched_ground_truth))

  def merge(self, other: 'SegmentSurvey') -> None:
    """Adds the counts of another survey over the same categories and appends its images."""
    if other.category_ids != self.category_ids:
      raise ValueError('cannot merge segment surveys over different categories')
    for name in _TABLES:
      getattr(self, name)[...] += getattr(other, name)
    for name in _PER_IMAGE:
      getattr(self, name).extend(getattr(other, name))

  def state(self) -> Dict[str, np.ndarray]:
    """Returns all counts, keyed by attribute name."""
    return {name: np.array(getattr(self, name)) for name in (*_TABLES, *_PER_IMAGE)}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    for name in _TABLES:
      setattr(self, name, np.array(state[name]))
    for name in _PER_IMAGE:
      setattr(self, name, state[name].tolist())

  def panoptic_quality(self) -> panoptic_quality.PanopticQuality:
    """Returns the panoptic quality of the images so far."""
    metric = panoptic_quality.PanopticQuality(self._categories)
    metric.set_state({name: getattr(self, name).sum(axis=1) for name in _COUNTS})
    return metric

  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far, as Python numbers; fractions and scores in [0, 1].

    Returns:
      The result of PanopticQuality.result(), where each group and class also has 'losses', the PQ
      that is lost to each of LOSSES (None without classes), and two more entries:
      'sizes': 'All', 'Things', 'Stuff' -> pq, sq, rq, tp, fp, fn, lists with one value per size
      over all segments of the group, of any class; pq, sq and rq are None without segments.
      'mistaken': list of dictionaries with ground_truth and prediction (category ids), segments
      (their number), and share (their fraction of all ground truth segments of the category that
      are no crowd), sorted by descending number of segments.
    """
    result = self.panoptic_quality().result()
    losses = self._losses()
    for index, category in enumerate(self.category_ids):
      if category in result['per_class']:
        result['per_class'][category]['losses'] = {
            name: float(losses[name][index]) for name in LOSSES}
    occurs = np.array([category in result['per_class'] for category in self.category_ids], bool)
    groups = {'All': np.ones_like(self.isthing), 'Things': self.isthing, 'Stuff': ~self.isthing}
    result['sizes'] = {}
    for group, chosen in groups.items():
      averaged = chosen & occurs
      result[group]['losses'] = {
          name: float(losses[name][averaged].mean()) if averaged.any() else None
          for name in LOSSES}
      result['sizes'][group] = self._by_size(chosen)
    result['mistaken'] = self._mistaken()
    return result

  def confusion(self, most: int) -> confusion.Confusion:
    """Returns the confusion matrix of the classes that are confused most, by pixels."""
    return confusion.most_confused(self.category_ids, self.pixels, most)

  def _place(self, segment: Segment, areas: Mapping[int, int]) -> Tuple[int, int]:
    size = np.searchsorted(SIZE_LIMITS, areas.get(segment.id, 0), side='right')
    return self._index[segment.category_id], int(size)

  def _count_pixels(self, comparison: Comparison) -> None:
    truth_category, predicted_category = comparison.category_of
    for (truth, prediction), count in comparison.matching.overlaps.items():
      if truth in truth_category:
        column = (self._index[predicted_category[prediction]]
                  if prediction in predicted_category else -1)
        self.pixels[self._index[truth_category[truth]], column] += count

  def _losses(self) -> Dict[str, np.ndarray]:
    """Returns the PQ lost to each of LOSSES, float64 [categories]."""
    iou_sum, found, in_vain, missed = (getattr(self, name).sum(axis=1) for name in _COUNTS)
    as_others, as_this = self.mistaken.sum(axis=1), self.mistaken.sum(axis=0)
    full = np.maximum(found + 0.5 * in_vain + 0.5 * missed, 0.5)
    return {'imprecise': (found - iou_sum) / full,
            'wrong_class': 0.5 * (as_others + as_this) / full,
            'missed': 0.5 * (missed - as_others) / full,
            'invented': 0.5 * (in_vain - as_this) / full}

  def _by_size(self, chosen: np.ndarray) -> Dict[str, List[Any]]:
    counts = [getattr(self, name)[chosen].sum(axis=0) for name in _COUNTS]
    scores, occurs = _quality(*counts)
    values: Dict[str, List[Any]] = {
        name: [float(value) if there else None for value, there in zip(score, occurs)]
        for name, score in scores.items()}
    return {**values, **{name: count.tolist()
                         for name, count in zip(('tp', 'fp', 'fn'), counts[1:])}}

  def _mistaken(self) -> List[Dict[str, Any]]:
    segments = (self.true_positives + self.false_negatives).sum(axis=1)
    pairs = [{'ground_truth': self.category_ids[truth], 'prediction': self.category_ids[prediction],
              'segments': int(self.mistaken[truth, prediction]),
              'share': float(self.mistaken[truth, prediction] / segments[truth])}
             for truth, prediction in np.argwhere(self.mistaken)]
    return sorted(pairs, key=lambda pair: (-pair['segments'], -pair['share']))


def _quality(iou_sum: np.ndarray, found: np.ndarray, in_vain: np.ndarray,
             missed: np.ndarray) -> Tuple[Dict[str, np.ndarray], np.ndarray]:
  """Returns pq, sq and rq of counts of any shape, and where there are any segments."""
  full = found + 0.5 * in_vain + 0.5 * missed
  occurs = full > 0
  full = np.where(occurs, full, 1)
  return {'pq': iou_sum / full, 'sq': iou_sum / np.maximum(found, 1), 'rq': found / full}, occurs
