"""Mean IoU with the scores of each image, for the report of an evaluation."""

from typing import Dict, Iterable, List, Mapping, Optional

import numpy as np

from deeplab_tf.metrics import mean_iou

_PER_IMAGE = ('image_miou', 'image_accuracy', 'image_classes')


class SemanticSurvey(mean_iou.MeanIoU):
  """A MeanIoU that also keeps the scores of each image; `update` adds one image.

  Attributes:
    image_miou: Mean IoU of each image over the classes in its ground truth, in [0, 1]; NaN if no
      pixel of the image is scored.
    image_accuracy: Fraction of the scored pixels of each image that are predicted correctly; NaN
      likewise.
    image_classes: Number of classes in the ground truth of each image.
  """

  def __init__(self, class_ids: Iterable[int], ignore_label: int):
    """Starts without images; see MeanIoU."""
    super().__init__(class_ids, ignore_label)
    self._single = mean_iou.MeanIoU(self.class_ids, ignore_label)

  def reset(self) -> None:
    """Removes all images."""
    super().reset()
    self.image_miou: List[float] = []
    self.image_accuracy: List[float] = []
    self.image_classes: List[int] = []

  def update(self, ground_truth: np.ndarray, prediction: np.ndarray,
             pixels: Optional[np.ndarray] = None) -> None:
    """Adds one image; see MeanIoU.update."""
    self._single.reset()
    self._single.update(ground_truth, prediction, pixels)
    super().merge(self._single)
    result = self._single.result()
    for scores, name in ((self.image_miou, 'miou'), (self.image_accuracy, 'pixel_accuracy')):
      scores.append(float('nan') if result[name] is None else result[name])
    self.image_classes.append(int(np.count_nonzero(self._single.confusion.sum(axis=1))))

  def merge(self, other: 'SemanticSurvey') -> None:
    """Adds the counts of another survey over the same classes and appends its images."""
    super().merge(other)
    for name in _PER_IMAGE:
      setattr(self, name, getattr(self, name) + getattr(other, name))

  def state(self) -> Dict[str, np.ndarray]:
    """Returns all counts, keyed by attribute name."""
    return {**super().state(), **{name: np.array(getattr(self, name)) for name in _PER_IMAGE}}

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    super().set_state(state)
    for name in _PER_IMAGE:
      setattr(self, name, state[name].tolist())
