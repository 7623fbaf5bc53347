"""Mean intersection over union of semantic maps, with both averaging rules in use."""

from typing import Any, Dict, Iterable, Mapping

import numpy as np

from deeplab_tf.metrics import accumulator

# Averaged over the classes that the ground truth has (detectron2), or over the classes that the
# ground truth or a prediction has (Cityscapes scripts, Keras, DeepLab2).
AVERAGES = ('ground_truth', 'union')


class MeanIoU(accumulator.Accumulator):
  """Accumulates a confusion matrix.

  Attributes:
    class_ids: The classes, in the order of the matrix.
    confusion: int64 [classes, classes + 1]; rows ground truth, columns prediction, the last
      column for predictions that are no class: misses of the true class, as the Cityscapes
      scripts count them. (detectron2 leaves such pixels out.)
  """

  def __init__(self, class_ids: Iterable[int], ignore_label: int):
    """Starts at zero.

    Args:
      class_ids: The classes that are scored.
      ignore_label: Ground truth pixels of it are left out, even if it is one of the classes.
    """
    self.class_ids = tuple(int(class_id) for class_id in class_ids)
    self._ignore_label = int(ignore_label)
    self._sorted = np.sort(np.array(self.class_ids, np.int64))
    self._position = np.argsort(np.array(self.class_ids, np.int64), kind='stable')
    self.reset()

  def reset(self) -> None:
    """Forgets all images."""
    count = len(self.class_ids)
    self.confusion = np.zeros((count, count + 1), np.int64)

  def update(self, ground_truth: np.ndarray, prediction: np.ndarray) -> None:
    """Counts one image or batch.

    Args:
      ground_truth: int [...], class ids or the ignore label.
      prediction: int [...], class ids; anything else is a prediction of no class.

    Raises:
      ValueError: The maps differ in shape or the ground truth holds an unknown class.
    """
    ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
    if ground_truth.shape != prediction.shape:
      raise ValueError(f'the ground truth is {list(ground_truth.shape)} and the prediction is '
                       f'{list(prediction.shape)}; both must have one shape')
    counted = ground_truth != self._ignore_label
    rows = self._indices(ground_truth[counted])
    columns = self._indices(prediction[counted])
    count = len(self.class_ids)
    if rows.size and rows.max() == count:
      stray = ground_truth[counted][rows == count][0]
      raise ValueError(f'the ground truth holds the class {stray}, which is none of the {count} '
                       f'classes and not the ignore label {self._ignore_label}')
    pairs = np.bincount(rows * (count + 1) + columns, minlength=count * (count + 1))
    self.confusion += pairs.reshape(count, count + 1)

  def merge(self, other: 'MeanIoU') -> None:
    """Adds the counts of another accumulator over the same classes."""
    if other.class_ids != self.class_ids:
      raise ValueError('cannot merge mean IoUs over different classes')
    self.confusion += other.confusion

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the confusion matrix."""
    return {'confusion': self.confusion}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Replaces what is counted by what `state` returned."""
    self.confusion = np.array(state['confusion'])

  def result(self, average: str = 'ground_truth') -> Dict[str, Any]:
    """Returns the scores of all images so far.

    Args:
      average: 'ground_truth': over the classes that the ground truth has; 'union': over those
        that the ground truth or a prediction has.

    Returns:
      'miou': in [0, 1], or None where there is no class to average over.
      'per_class': class id -> IoU, or None for a class with an empty union.
    """
    if average not in AVERAGES:
      raise ValueError(f'unknown average "{average}"; allowed are {", ".join(AVERAGES)}')
    intersection = np.diagonal(self.confusion)
    in_truth = self.confusion.sum(axis=1)
    union = in_truth + self.confusion[:, :-1].sum(axis=0) - intersection
    iou = intersection / np.maximum(union, 1)
    chosen = in_truth > 0 if average == 'ground_truth' else union > 0
    return {
        'miou': float(iou[chosen].mean()) if chosen.any() else None,
        'per_class': {
            class_id: float(iou[index]) if union[index] else None
            for index, class_id in enumerate(self.class_ids)
        },
    }

  def _indices(self, classes: np.ndarray) -> np.ndarray:
    """Returns the rows of class ids; the number of classes for anything else."""
    if not self.class_ids:
      return np.zeros(classes.shape, np.int64)
    found = np.minimum(np.searchsorted(self._sorted, classes), len(self._sorted) - 1)
    return np.where(self._sorted[found] == classes, self._position[found], len(self._sorted))
