"""Scores semantic segmentation on the evaluation data, for Orbit's Controller."""

from deeplab_tf.metrics import mean_iou
from deeplab_tf.training.evaluator import EvaluatedImage, ImageEvaluator


class SemanticEvaluator(ImageEvaluator):
  """Computes mean IoU and accuracy at the size of the files.

  Attributes:
    result: The last result; see MeanIoU.result.
  """
  title = 'mean IoU'
  scores = tuple(mean_iou.SCORES)

  def format_result(self) -> str:
    """Returns the scores, and a line per class."""
    return mean_iou.format_result(
        self.result, {c.class_id: c.name for c in self._dataset_info.categories})

  def _new_metric(self) -> mean_iou.MeanIoU:
    return mean_iou.MeanIoU(self._dataset_info.class_ids, self._dataset_info.ignore_label)

  def _score_image(self, metric: mean_iou.MeanIoU, image: EvaluatedImage):
    divisor = self._dataset_info.label_divisor
    classes = image.label // divisor
    semantic_map = self._restored(image, image.prediction).semantic_map[0].numpy()
    metric.update(classes, semantic_map)
    # Pictures are those of panoptic maps without instances.
    return classes * divisor, semantic_map * divisor

  def _scalars(self, result: dict) -> dict:
    return {name: result[name] for name in self.scores if result[name] is not None}
