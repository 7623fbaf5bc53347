"""Analysis of instance predictions: kinds of errors, misses by size, and scores of single images.

Every prediction that COCOeval counts is of one kind, at an IoU of 0.5: correct, or a false positive
whose kind is the first that applies. Predictions that match a crowd are of no kind.

  duplicate    IoU >= 0.5 with an annotation of its class, which a better prediction matches
  wrong_class  IoU >= 0.5 with an annotation of another class
  imprecise    IoU >= 0.1 with an annotation of its class
  invented     none of these

The kinds are those of TIDE (Bolya et al., A General Toolbox for Identifying Object Detection
Errors, Sec. 2.2), where wrong class and low IoU together are a kind of their own.
"""

import copy
import heapq
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from deeplab_tf.metrics import accumulator, instance_matching
from deeplab_tf.metrics.instance_average_precision import SIZES, InstanceAveragePrecision

KINDS = ('correct', 'duplicate', 'wrong_class', 'imprecise', 'invented')
SCORE_BINS = 10  # Bins of equal width from 0 to 1.
# Predictions with lower scores are left out where only confident ones are of interest.
CONFIDENT = 0.5
_MATCH, _TOUCH = 0.5, 0.1
# COCO's limits of small and medium objects, area in pixels.
_SIZE_LIMITS = (32**2, 96**2)
_KEPT = 12  # Number of findings of each sort.
_TABLES = ('detections', 'truths', 'missed', 'mistaken')
_PER_IMAGE = ('image_ap', 'image_truths', 'image_correct', 'image_wrong', 'image_missed')
_FINDINGS = ('false_positives', 'false_negatives')


class Finding(NamedTuple):
  """A false positive or a false negative.

  Attributes:
    weight: Score of a false positive; area of a false negative, in pixels.
    image: Position of the image among all images.
    position: Position in the list of the image's predictions, or of its annotations.
    kind: One of KINDS, or 'missed'.
    iou: Largest IoU with an annotation of any class for a false positive, else 0.
  """
  weight: float
  image: int
  position: int
  kind: str
  iou: float = 0.0


class InstanceSurvey(accumulator.Accumulator):
  """Accumulates average precision and errors; `update` adds one image.

  Attributes:
    precision: InstanceAveragePrecision of the images.
    category_ids: Category ids, in the order of the tables.
    detections: int64 [categories, kinds, SCORE_BINS], numbers of predictions by KINDS and score;
      scores outside of [0, 1] are in the first or the last bin.
    truths, missed: int64 [categories, 3], numbers of annotations that are no crowd by their area,
      small, medium and large; and of those without a match at an IoU of 0.5, whatever the score.
    mistaken: int64 [categories, categories], numbers of predictions of the kind 'wrong_class' with
      a score of at least CONFIDENT, by category of the annotation and predicted category.
    image_ap: AP of each image alone, averaged over the categories of its annotations, in [0, 1];
      NaN if it has no annotation except crowds.
    image_truths: Number of annotations of each image that are no crowd.
    image_correct, image_wrong, image_missed: Numbers of true positives, false positives and
      false negatives of each image at an IoU of 0.5; of the predictions, those with a score of at
      least CONFIDENT count.
    false_positives: Findings with the highest scores, of at most _KEPT.
    false_negatives: Findings with the largest areas, likewise.
  """

  def __init__(self, category_ids: Iterable[int], iou_type: str = 'segm'):
    """Starts without images; see InstanceAveragePrecision."""
    self.precision = InstanceAveragePrecision(category_ids, iou_type)
    self.category_ids = self.precision.category_ids
    self.reset()

  def reset(self) -> None:
    """Removes all images."""
    self.precision.reset()
    count = len(self.category_ids)
    self.detections = np.zeros((count, len(KINDS), SCORE_BINS), np.int64)
    self.truths, self.missed = (np.zeros((count, len(SIZES) - 1), np.int64) for _ in range(2))
    self.mistaken = np.zeros((count, count), np.int64)
    for name in (*_PER_IMAGE, *_FINDINGS):
      setattr(self, name, [])

  def update(self, image_id: Union[int, str], size: Tuple[int, int],
             annotations: Sequence[Mapping[str, Any]],
             detections: Sequence[Mapping[str, Any]]) -> None:
    """Adds one image; see InstanceAveragePrecision.update."""
    annotations, detections = ([{**entry, 'position': position}
                                for position, entry in enumerate(entries)]
                               for entries in (annotations, detections))
    records = self.precision.update(image_id, size, annotations, detections)
    image = len(self.image_ap)
    aps = [ap for record in records if (ap := average_precision(record.matching)) is not None]
    self.image_ap.append(float(np.mean(aps)) if aps else float('nan'))
    kinds = self._kinds(records, size)
    confident = [kind for kind, detection in kinds if detection['score'] >= CONFIDENT]
    self.image_correct.append(confident.count('correct'))
    self.image_wrong.append(len(confident) - self.image_correct[-1])
    self.image_truths.append(0)
    found = 0
    for record in records:
      found += self._count_truths(record, image)
    self.image_missed.append(self.image_truths[-1] - found)
    self._keep()

  def merge(self, other: 'InstanceSurvey') -> None:
    """Adds the counts of another survey over the same categories and appends its images."""
    images = len(self.image_ap)
    self.precision.merge(other.precision)
    for name in _TABLES:
      setattr(self, name, getattr(self, name) + getattr(other, name))
    for name in _PER_IMAGE:
      setattr(self, name, getattr(self, name) + getattr(other, name))
    for name in _FINDINGS:
      setattr(self, name, getattr(self, name) + [
          finding._replace(image=finding.image + images) for finding in getattr(other, name)])
    self._keep()

  def state(self) -> Dict[str, np.ndarray]:
    """Returns all counts by name."""
    state = {f'precision/{name}': value for name, value in self.precision.state().items()}
    state.update((name, np.array(getattr(self, name))) for name in (*_TABLES, *_PER_IMAGE))
    for name in _FINDINGS:
      for field, values in zip(Finding._fields, zip(*getattr(self, name))):
        state[f'{name}/{field}'] = np.array(values)
    return state

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    # The part is copied, since `merge_bytes` shares it with the survey that it merges into.
    self.precision, start = copy.copy(self.precision), 'precision/'
    self.precision.set_state({name[len(start):]: state[name] for name in state
                              if name.startswith(start)})
    for name in _TABLES:
      setattr(self, name, np.array(state[name]))
    for name in _PER_IMAGE:
      setattr(self, name, state[name].tolist())
    for name in _FINDINGS:
      columns = [state[f'{name}/{field}'].tolist() for field in Finding._fields
                 if f'{name}/{field}' in state]
      setattr(self, name, [Finding(*values) for values in zip(*columns)])

  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far; see InstanceAveragePrecision.result."""
    return self.precision.result()

  def mistaken_pairs(self) -> List[Dict[str, Any]]:
    """Lists the classes that are confused, those with the most predictions first.

    Returns:
      Dictionaries of ground_truth and prediction (category ids), and segments (number of confident
      predictions of the kind 'wrong_class').
    """
    found = [{'ground_truth': self.category_ids[truth], 'prediction': self.category_ids[other],
              'segments': int(self.mistaken[truth, other])}
             for truth, other in np.argwhere(self.mistaken).tolist()]
    return sorted(found, key=lambda pair: -pair['segments'])

  def _kinds(self, records: Sequence[instance_matching.Record],
             size: Tuple[int, int]) -> List[Tuple[str, Mapping[str, Any]]]:
    """Counts the predictions of an image by kind; returns the kind of each."""
    wrong, kinds = [], []
    for record in records:
      matched, ignored = record.matching.matched[0, 0], record.matching.ignored[0, 0]
      for index, detection in enumerate(record.detections):
        if matched[index] and not ignored[index]:
          kinds.append(('correct', detection))
          self._count_detection(record.category, 'correct', detection)
        elif not ignored[index]:
          wrong.append((record.category, detection))
    truths = [(record.category, truth) for record in records for truth in record.truths
              if not truth.get('iscrowd', 0)]
    ious, _ = self.precision.ious([truth for _, truth in truths],
                                  [detection for _, detection in wrong], size)
    categories = np.array([category for category, _ in truths], np.int64)
    for (category, detection), row in zip(wrong, ious):
      kind = _kind(row, categories == category)
      if kind == 'wrong_class' and detection['score'] >= CONFIDENT:
        self.mistaken[categories[np.argmax(np.where(categories == category, -1, row))],
                      category] += 1
      kinds.append((kind, detection))
      self._count_detection(category, kind, detection)
      self.false_positives.append(Finding(float(detection['score']), len(self.image_ap) - 1,
                                          detection['position'], kind,
                                          float(row.max(initial=0))))
    return kinds

  def _count_detection(self, category: int, kind: str, detection: Mapping[str, Any]) -> None:
    place = min(max(int(detection['score'] * SCORE_BINS), 0), SCORE_BINS - 1)
    self.detections[category, KINDS.index(kind), place] += 1

  def _count_truths(self, record: instance_matching.Record, image: int) -> int:
    """Counts the annotations of a category; returns how many confident predictions match."""
    partners = record.matching.partners.tolist()
    found = set(partners)
    for index, truth in enumerate(record.truths):
      if truth.get('iscrowd', 0):
        continue
      place = record.category, int(np.searchsorted(_SIZE_LIMITS, truth['area']))
      self.truths[place] += 1
      self.image_truths[-1] += 1
      if index not in found:
        self.missed[place] += 1
        self.false_negatives.append(Finding(float(truth['area']), image, truth['position'],
                                            'missed'))
    return sum(partner >= 0 and detection['score'] >= CONFIDENT
               and not record.truths[partner].get('iscrowd', 0)
               for partner, detection in zip(partners, record.detections))

  def _keep(self) -> None:
    """Keeps the findings with the largest weights; of equal ones, those found first."""
    for name in _FINDINGS:
      setattr(self, name, heapq.nsmallest(_KEPT, getattr(self, name),
                                          key=lambda finding: -finding.weight))


def _kind(ious: np.ndarray, is_own: np.ndarray) -> str:
  """Returns the kind of a false positive, given its IoUs with all annotations."""
  own = ious[is_own].max(initial=0)
  if own >= _MATCH:
    return 'duplicate'
  if ious[~is_own].max(initial=0) >= _MATCH:
    return 'wrong_class'
  return 'imprecise' if own >= _TOUCH else 'invented'


def average_precision(matching: instance_matching.Matching) -> Optional[float]:
  """Returns the AP of one category and image, as COCOeval; None without annotations.

  Args:
    matching: Matches, with the best detections first.
  """
  positives = matching.positives[0]
  if not positives:
    return None
  counted = ~matching.ignored[0]
  found = np.cumsum(matching.matched[0] & counted, axis=1)
  precision = found / np.maximum(found + np.cumsum(~matching.matched[0] & counted, axis=1), 1)
  # The precision at a recall is the best one at this or any higher recall.
  precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
  recalls = np.linspace(0, 1, 101)
  scores = []
  for recall, values in zip(found / positives, precision):
    places = np.searchsorted(recall, recalls, side='left')
    scores.append(np.append(values, 0)[places].mean())
  return float(np.mean(scores))
