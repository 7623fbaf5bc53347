"""Scores an image classifier on the evaluation data, for Orbit's Controller."""

from typing import Any, Callable, Optional

import numpy as np

from deeplab_tf.classes import ImageClasses
from deeplab_tf.data.image_normalization import Normalization
from deeplab_tf.metrics import top_k
from deeplab_tf.structures import ClassEvaluationBatch, ClassPrediction
from deeplab_tf.training.evaluator import BatchEvaluator
from deeplab_tf.training.reporting import pictures


class ClassEvaluator(BatchEvaluator):
  """Computes top-1 and top-5 accuracy.

  Attributes:
    result: The last result; see TopKAccuracy.result.
  """
  title = 'accuracy'
  scores = top_k.SCORES

  def __init__(self, *, dataset_info: ImageClasses, normalization: Normalization,
               on_picture: Optional[Callable[[int, np.ndarray], None]] = None,
               num_pictures: int = 0, **loop: Any):
    """Initializes the evaluator.

    Args:
      dataset_info: The classes.
      normalization: Normalization of the images.
      on_picture: Function that is called with (position, uint8 [height, width, 3]) for the first
        images.
      num_pictures: Number of these images.
      **loop: Arguments of BatchEvaluator; batches are ClassEvaluationBatch, predictions
        ClassPrediction.
    """
    super().__init__(**loop)
    self._names = dataset_info.class_names
    self._normalization = normalization
    self._on_picture = on_picture
    self._num_pictures = num_pictures if on_picture is not None else 0

  def format_result(self) -> str:
    """Returns the result as one line."""
    return top_k.format_result(self.result)

  def _new_metric(self) -> top_k.TopKAccuracy:
    return top_k.TopKAccuracy()

  def _score_batch(self, metric, batch: ClassEvaluationBatch, prediction: ClassPrediction,
                   position: int) -> None:
    metric.update(batch.class_index.numpy(), prediction.class_index.numpy())
    for i in range(min(batch.images.shape[0], self._num_pictures - position)):
      self._on_picture(position + i, self._picture(batch, prediction, i))

  def _picture(self, batch, prediction, i: int) -> np.ndarray:
    """Returns the network's input below a caption with its class and the most probable class."""
    image = np.clip(np.round(self._normalization.invert(batch.images[i]).numpy()), 0, 255)
    own, guess = int(batch.class_index[i]), int(prediction.class_index[i, 0])
    caption = f'{self._names[guess]} {100 * float(prediction.score[i, 0]):.0f} %'
    if own != guess:
      caption += f', is {self._names[own]}'
    return pictures.captioned(image.astype(np.uint8), caption, own == guess)

  def _scalars(self, result: dict) -> dict:
    return {name: value for name, value in result.items() if value is not None}
