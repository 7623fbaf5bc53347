"""Panoptic quality (Kirillov et al., Panoptic Segmentation, Sec. 4), counted as panopticapi does.

  metric = PanopticQuality(dataset_info.categories)
  for ground_truth, prediction in pairs:
    metric.update_from_label_maps(ground_truth, prediction, dataset_info)
  print(format_result(metric.result()))

The same class scores files (`coco_panoptic.score_files`) and the evaluation inside training.
"""

from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.metrics import accumulator, coco_panoptic_io

if TYPE_CHECKING:
  from deeplab_tf.data.catalog import DatasetInfo

Segment = coco_panoptic_io.Segment
Pairs = Dict[Tuple[int, int], int]
_VOID = 0
_COUNTS = ('iou_sum', 'true_positives', 'false_positives', 'false_negatives')


class PanopticQuality(accumulator.Accumulator):
  """Accumulates matches, misses and false positives per category.

  A prediction and a ground truth segment match when they have one category, the latter is no
  crowd, and their IoU, with the void pixels taken out of the prediction, is above 0.5.

  Attributes:
    category_ids: The categories that are scored, in the order given.
    iou_sum: float64 [categories], sum of the IoU of the matches.
    true_positives, false_positives, false_negatives: int64 [categories].
  """

  def __init__(self, categories: Iterable[Any]):
    """Starts at zero.

    Args:
      categories: Objects with `category_id` and `isthing`: those of DatasetInfo or of a JSON.
    """
    categories = tuple(categories)
    self.category_ids = tuple(int(category.category_id) for category in categories)
    self._isthing = np.array([bool(category.isthing) for category in categories], bool)
    self._index = {category: index for index, category in enumerate(self.category_ids)}
    if len(self._index) != len(categories):
      raise ValueError('a category id is listed twice; category ids must be distinct')
    self.reset()

  def reset(self) -> None:
    """Forgets all images."""
    count = len(self.category_ids)
    self.iou_sum = np.zeros(count, np.float64)
    self.true_positives = np.zeros(count, np.int64)
    self.false_positives = np.zeros(count, np.int64)
    self.false_negatives = np.zeros(count, np.int64)

  def update(self, ground_truth_map: np.ndarray, ground_truth_segments: Sequence[Segment],
             prediction_map: np.ndarray,
             prediction_segments: Sequence[Segment]) -> Tuple[int, ...]:
    """Counts one image.

    Args:
      ground_truth_map: int [height, width], segment ids; 0 is void. Pixels of ids that are not
        listed belong to nothing.
      ground_truth_segments: Their categories. A stated area is used as it is, for panopticapi
        does so. Of several crowd segments of one category the last counts.
      prediction_map: int [height, width], segment ids; 0 is no segment.
      prediction_segments: Exactly the segments of the map; iscrowd and area are not read.

    Returns:
      The ids of the ground truth segments whose stated area is not their number of pixels.

    Raises:
      ValueError: The maps differ in size, a category is unknown, or the prediction's map and
        list of segments name different ids. Nothing is counted then.
    """
    truths = self._by_id(ground_truth_segments, 'ground truth')
    predictions = self._by_id(prediction_segments, 'prediction')
    pairs = overlaps(ground_truth_map, prediction_map)
    pixels = _areas(pairs, 0)
    prediction_areas = _areas(pairs, 1)
    prediction_areas.pop(_VOID, None)
    for segment_id in prediction_areas:
      if segment_id not in predictions:
        raise ValueError(f'prediction: segment {segment_id} of the map is not listed among the '
                         f'{len(predictions)} segments, so its category is unknown')
    for segment in prediction_segments:
      if segment.id not in prediction_areas:
        raise ValueError(f'prediction: segment {segment.id} of category {segment.category_id} '
                         'is listed but has no pixel in the map')
    self._count(pairs, truths, pixels, predictions, prediction_areas)
    return tuple(
        segment.id for segment in ground_truth_segments
        if segment.area is not None and segment.area != pixels.get(segment.id, 0))

  def update_from_label_maps(self, ground_truth: np.ndarray, prediction: np.ndarray,
                             dataset_info: 'DatasetInfo') -> None:
    """Counts one image given as panoptic maps.

    Args:
      ground_truth: int [height, width], class id * label divisor + instance number. The ignored
        class is void; instance number 0 of a thing class is a crowd segment.
      prediction: int [height, width], likewise; the ignored class is no segment.
      dataset_info: Names the classes; its categories are those of the constructor.

    Raises:
      ValueError: The maps differ in size or a label is of no class of the data set.
    """
    label_pairs = overlaps(ground_truth, prediction)
    truths = _label_segments(label_pairs, 0, dataset_info, 'ground truth')
    predictions = _label_segments(label_pairs, 1, dataset_info, 'prediction')
    pairs: Pairs = {}
    for (truth, guess), pixels in label_pairs.items():
      # Ids are labels + 1, since 0 may be the label of a class.
      key = (truth + 1 if truth + 1 in truths else _VOID,
             guess + 1 if guess + 1 in predictions else _VOID)
      pairs[key] = pairs.get(key, 0) + pixels
    self._by_id(truths.values(), 'ground truth')
    self._by_id(predictions.values(), 'prediction')
    self._count(pairs, truths, _areas(pairs, 0), predictions, _areas(pairs, 1))

  def merge(self, other: 'PanopticQuality') -> None:
    """Adds the counts of another accumulator over the same categories."""
    if other.category_ids != self.category_ids:
      raise ValueError('cannot merge panoptic qualities over different categories')
    self.iou_sum += other.iou_sum
    self.true_positives += other.true_positives
    self.false_positives += other.false_positives
    self.false_negatives += other.false_negatives

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the four counts, by the names of the attributes."""
    return {name: getattr(self, name) for name in _COUNTS}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Replaces what is counted by what `state` returned."""
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

  def _by_id(self, segments: Iterable[Segment], what: str) -> Dict[int, Segment]:
    """Returns the segments by id, after checking their categories."""
    by_id = {}
    for segment in segments:
      if segment.category_id not in self._index:
        raise ValueError(f'{what}: segment {segment.id} is of category {segment.category_id}, '
                         f'which is none of the {len(self._index)} categories that are scored')
      if segment.id == _VOID:
        raise ValueError(f'{what}: a segment of category {segment.category_id} has the id 0, '
                         'which is void')
      by_id[segment.id] = segment
    return by_id

  def _count(self, pairs: Pairs, truths: Mapping[int, Segment], truth_pixels: Mapping[int, int],
             predictions: Mapping[int, Segment], prediction_areas: Mapping[int, int]) -> None:
    """Matches the segments of one image and adds them up."""
    matched_truths, matched_predictions = set(), set()
    for (truth_id, prediction_id), intersection in pairs.items():
      truth, guess = truths.get(truth_id), predictions.get(prediction_id)
      if (truth is None or guess is None or truth.iscrowd
          or truth.category_id != guess.category_id):
        continue
      area = truth_pixels[truth_id] if truth.area is None else truth.area
      union = (area + prediction_areas[prediction_id] - intersection
               - pairs.get((_VOID, prediction_id), 0))
      # Only a stated area that is far too small makes a union of zero or less.
      if union > 0 and intersection / union > 0.5:
        index = self._index[truth.category_id]
        self.true_positives[index] += 1
        self.iou_sum[index] += intersection / union
        matched_truths.add(truth_id)
        matched_predictions.add(prediction_id)
    crowds = {}
    for truth in truths.values():
      if truth.iscrowd:
        crowds[truth.category_id] = truth.id
      elif truth.id not in matched_truths:
        self.false_negatives[self._index[truth.category_id]] += 1
    for guess in predictions.values():
      excused = pairs.get((_VOID, guess.id), 0)
      if guess.category_id in crowds:
        excused += pairs.get((crowds[guess.category_id], guess.id), 0)
      if guess.id not in matched_predictions and excused <= 0.5 * prediction_areas[guess.id]:
        self.false_positives[self._index[guess.category_id]] += 1


def overlaps(first: np.ndarray, second: np.ndarray) -> Pairs:
  """Counts the pixels of every pair of values of two maps.

  Args:
    first: int [height, width], values in [0, 2**31).
    second: int [height, width], likewise.

  Returns:
    (value of first, value of second) -> pixels, for the pairs that occur.

  Raises:
    ValueError: The maps differ in shape or hold negative values.
  """
  first, second = np.asarray(first), np.asarray(second)
  if first.shape != second.shape:
    raise ValueError(f'the ground truth is {_size(first)} and the prediction is {_size(second)}; '
                     'both must have one size')
  first, second = first.ravel(), second.ravel()
  if not first.size:
    return {}
  # Maps consist of long runs of one pair, so that sorting runs beats sorting pixels.
  changes = first[1:] != first[:-1]
  changes |= second[1:] != second[:-1]
  starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
  lengths = np.diff(starts, append=first.size)
  first, second = first[starts].astype(np.int64), second[starts].astype(np.int64)
  if first.min() < 0 or second.min() < 0:
    raise ValueError(f'a map holds the negative value {min(first.min(), second.min())}; segment '
                     'ids and labels are 0 or more')
  keys, inverse = np.unique(first << 32 | second, return_inverse=True)
  pixels = np.bincount(inverse, weights=lengths).astype(np.int64)
  pairs = zip((keys >> 32).tolist(), (keys & 0xFFFFFFFF).tolist())
  return dict(zip(pairs, pixels.tolist()))


def format_result(result: Mapping[str, Any],
                  class_names: Optional[Mapping[int, str]] = None) -> str:
  """Lays out a result as a table, scores in per cent.

  Args:
    result: What PanopticQuality.result() returns.
    class_names: Category id -> name; given, the table has a line per class.
  """
  title = ' ' * 24 + '    PQ     SQ     RQ'
  lines = [f'{title}     n']
  for group in ('All', 'Things', 'Stuff'):
    scores = result[group]
    lines.append(f'{group:<24}{_per_cent(scores)}{scores["n"]:6d}'
                 + ('   not available: no class to average over' if not scores['n'] else ''))
  if class_names is not None:
    lines += ['', f'{title}     TP     FP     FN']
    for category, scores in result['per_class'].items():
      name = class_names.get(category, str(category))
      counts = ''.join(f'{scores[key]:7d}' for key in ('tp', 'fp', 'fn'))
      lines.append(f'{name[:23]:<24}{_per_cent(scores)}{counts}')
  return '\n'.join(lines)


def _per_cent(scores: Mapping[str, Any]) -> str:
  values = (scores[name] for name in ('pq', 'sq', 'rq'))
  return ' '.join('   n/a' if value is None else f'{100 * value:6.1f}' for value in values)


def _areas(pairs: Pairs, side: int) -> Dict[int, int]:
  areas: Dict[int, int] = {}
  for ids, pixels in pairs.items():
    areas[ids[side]] = areas.get(ids[side], 0) + pixels
  return areas


def _label_segments(pairs: Pairs, side: int, dataset_info: 'DatasetInfo',
                    what: str) -> Dict[int, Segment]:
  labels = sorted({ids[side] for ids in pairs})
  segments = (coco_panoptic_io.label_segment(label, dataset_info, what) for label in labels)
  return {segment.id: segment for segment in segments if segment is not None}


def _size(array: np.ndarray) -> str:
  return ' x '.join(str(extent) for extent in array.shape) + ' pixels'
