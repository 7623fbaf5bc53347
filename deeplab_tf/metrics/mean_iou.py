"""Mean intersection over union and accuracy of semantic maps, by all common definitions."""

from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np

from deeplab_tf.metrics import accumulator
from deeplab_tf.metrics.percent import percent
from deeplab_tf.user_errors import DataError

# Scores that result() returns besides 'per_class', with their titles.
SCORES = {
    'miou': 'mIoU',
    'miou_union': 'mIoU, classes in either',
    'miou_detectron2': 'mIoU, detectron2',
    'fwiou': 'frequency-weighted IoU',
    'mean_accuracy': 'mean class accuracy',
    'pixel_accuracy': 'pixel accuracy',
}


class MeanIoU(accumulator.Accumulator):
  """Accumulates a confusion matrix.

  Attributes:
    class_ids: Class ids, in the order of the matrix.
    ignore_label: Ground truth label of pixels that are left out.
    confusion: int64 [classes, classes + 1]; rows are ground truth, columns are predictions. The
      last column counts predictions that are no class, which are false negatives of the ground
      truth class, as in the Cityscapes scripts (detectron2 leaves such pixels out).
    ignored: Number of pixels that are left out because the ground truth ignores them.
  """

  def __init__(self, class_ids: Iterable[int], ignore_label: int):
    """Starts at zero.

    Args:
      class_ids: Ids of the scored classes.
      ignore_label: Ground truth label of pixels that are left out, even if it is a class id.
    """
    self.class_ids = tuple(int(class_id) for class_id in class_ids)
    self.ignore_label = int(ignore_label)
    self._sorted = np.sort(np.array(self.class_ids, np.int64))
    self._position = np.argsort(np.array(self.class_ids, np.int64), kind='stable')
    self.reset()

  def reset(self) -> None:
    """Resets all counts."""
    count = len(self.class_ids)
    self.confusion = np.zeros((count, count + 1), np.int64)
    self.ignored = 0

  def update(self, ground_truth: np.ndarray, prediction: np.ndarray,
             pixels: Optional[np.ndarray] = None) -> None:
    """Adds one image or batch.

    Args:
      ground_truth: int [...], class ids or the ignore label.
      prediction: int [...], class ids; anything else is a prediction of no class.
      pixels: int [...], number of pixels that each entry represents; 1 if None.

    Raises:
      ValueError: The maps differ in shape or the ground truth holds an unknown class.
    """
    ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
    if ground_truth.shape != prediction.shape:
      raise DataError(f'the ground truth is {list(ground_truth.shape)} and the prediction is '
                      f'{list(prediction.shape)}; both must have one shape')
    counted = self.is_scored(ground_truth)
    rows = self._indices(ground_truth[counted])
    columns = self._indices(prediction[counted])
    count = len(self.class_ids)
    if rows.size and rows.max() == count:
      stray = ground_truth[counted][rows == count][0]
      raise DataError(f'the ground truth holds the class {stray}, which is none of the {count} '
                      f'classes and not the ignore label {self.ignore_label}')
    weights = None if pixels is None else np.asarray(pixels)[counted]
    self.ignored += (counted.size - np.count_nonzero(counted) if pixels is None
                     else int(np.asarray(pixels)[~counted].sum()))
    pairs = np.bincount(rows * (count + 1) + columns, weights, count * (count + 1))
    self.confusion += pairs.astype(np.int64).reshape(count, count + 1)

  def is_scored(self, ground_truth: np.ndarray) -> np.ndarray:
    """Returns whether each pixel counts, bool [...], given the ground truth labels, int [...]."""
    return ground_truth != self.ignore_label

  def merge(self, other: 'MeanIoU') -> None:
    """Adds the counts of another accumulator over the same classes."""
    if other.class_ids != self.class_ids:
      raise ValueError('cannot merge mean IoUs over different classes')
    self.confusion += other.confusion
    self.ignored += other.ignored

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the confusion matrix and the number of ignored pixels."""
    return {'confusion': self.confusion, 'ignored': np.array(self.ignored, np.int64)}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    self.confusion = np.array(state['confusion'])
    self.ignored = int(state['ignored'])

  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far.

    The IoU of a class is the number of its pixels in both ground truth and prediction, divided by
    the number of its pixels in either. A pixel that is predicted as no class is a false negative of
    its class, except in 'miou_detectron2'.

    Returns:
      Scores in [0, 1], or None if there is nothing to average over:
      'miou': mean IoU of the classes in the ground truth.
      'miou_union': mean IoU of the classes in the ground truth or a prediction, as in the
        Cityscapes scripts, Keras, and DeepLab2 (which fails on pixels predicted as no class, and
        returns 0 for None).
      'miou_detectron2': like 'miou', but pixels predicted as no class are left out.
      'fwiou': mean IoU weighted by the classes' pixels in the ground truth.
      'mean_accuracy': fraction of a class's pixels that are predicted correctly, averaged over the
        classes in the ground truth.
      'pixel_accuracy': fraction of all pixels that are predicted correctly.
      'per_class': class id -> IoU, or None for a class with an empty union.
    """
    found = np.diagonal(self.confusion)
    in_truth = self.confusion.sum(axis=1)
    iou, union = self._ious(in_truth)
    kept = self.confusion[:, :-1].sum(axis=1)
    return {
        'miou': _mean(iou, in_truth > 0),
        'miou_union': _mean(iou, union > 0),
        'miou_detectron2': _mean(self._ious(kept)[0], kept > 0),
        'fwiou': _mean(iou, in_truth),
        'mean_accuracy': _mean(found / np.maximum(in_truth, 1), in_truth > 0),
        'pixel_accuracy': _mean(found / np.maximum(in_truth, 1), in_truth),
        'per_class': {
            class_id: float(iou[index]) if union[index] else None
            for index, class_id in enumerate(self.class_ids)
        },
    }

  def _ious(self, in_truth: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Returns IoU and union of each class, given the number of its ground truth pixels."""
    found = np.diagonal(self.confusion)
    union = in_truth + self.confusion[:, :-1].sum(axis=0) - found
    return found / np.maximum(union, 1), union

  def _indices(self, classes: np.ndarray) -> np.ndarray:
    """Returns the row of each class id, or the number of classes for any other value."""
    if not self.class_ids:
      return np.zeros(classes.shape, np.int64)
    found = np.minimum(np.searchsorted(self._sorted, classes), len(self._sorted) - 1)
    return np.where(self._sorted[found] == classes, self._position[found], len(self._sorted))


def format_result(result: Mapping[str, Any],
                  class_names: Optional[Mapping[int, str]] = None) -> str:
  """Formats a result in percent.

  Args:
    result: Return value of MeanIoU.result().
    class_names: Class id -> name. If given, there is a line per class.
  """
  lines = [f'{title:<24}{percent(result[name], 6)}' for name, title in SCORES.items()]
  if class_names is not None:
    lines += ['', 'IoU per class']
    lines += [f'{class_names.get(class_id, str(class_id))[:23]:<24}{percent(value, 6)}'
              for class_id, value in result['per_class'].items()]
  return '\n'.join(lines)


def _mean(values: np.ndarray, weights: np.ndarray) -> Optional[float]:
  """Returns the weighted mean, or None if all weights are zero."""
  return float(np.average(values, weights=weights)) if np.any(weights) else None
