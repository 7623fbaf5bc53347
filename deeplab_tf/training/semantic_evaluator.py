"""Scores semantic segmentation on the evaluation data, for Orbit's Controller."""

from typing import Any, Callable, Optional

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data.image_normalization import Normalization
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.metrics import mean_iou
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.structures import EvaluationBatch, QueryOutputs
from deeplab_tf.training.evaluator import BatchEvaluator, Sample, resized_back


class SemanticEvaluator(BatchEvaluator):
  """Computes mean IoU and accuracy at the size of the files.

  Attributes:
    result: The last result; see MeanIoU.result.
  """
  title = 'mean IoU'
  scores = tuple(mean_iou.SCORES)

  def __init__(self, *, dataset_info: DatasetInfo, normalization: Normalization,
               at_full_size: Callable, resize_rule: ResizeRule = 'aligned',
               on_sample: Optional[Callable[[int, Sample], None]] = None,
               num_images: Optional[int] = None, **loop: Any):
    """Initializes the evaluator.

    Args:
      dataset_info: The classes, all of them stuff.
      normalization: Normalization of the images.
      at_full_size: Function of (outputs, FullSize) that returns a SemanticPrediction.
      resize_rule: Rule by which the images were resized.
      on_sample: Function that is called with (position, Sample) for each image of this worker.
      num_images: Number of first samples that have an `image`; None for all.
      **loop: Arguments of BatchEvaluator; batches are EvaluationBatch, predictions QueryOutputs.
    """
    super().__init__(**loop)
    self._info = dataset_info
    self._normalization = normalization
    self._at_full_size = tf.function(at_full_size, autograph=False, reduce_retracing=True)
    self._resize_rule = resize_rule
    self._on_sample = on_sample
    self._num_images = num_images if on_sample is not None else 0

  def format_result(self) -> str:
    """Returns the scores, and a line per class."""
    return mean_iou.format_result(
        self.result, {c.class_id: c.name for c in self._info.categories})

  def _new_metric(self) -> mean_iou.MeanIoU:
    return mean_iou.MeanIoU(self._info.class_ids, self._info.ignore_label)

  def _score_batch(self, metric, batch: EvaluationBatch, prediction: QueryOutputs,
                   position: int) -> None:
    divisor = self._info.label_divisor
    for i in range(batch.images.shape[0]):
      height, width = batch.raw_size[i].numpy()
      label = batch.label[i].numpy()[:height, :width]
      size = FullSize(tf.constant(batch.images.shape[1:3]), batch.resized_size[i],
                      batch.raw_size[i], self._resize_rule)
      own = {name: value[i:i + 1] for name, value in prediction._asdict().items()}
      semantic_map = self._at_full_size(own, size).semantic_map[0].numpy()
      metric.update(label // divisor, semantic_map)
      if self._on_sample is not None:
        pixels = None
        if self._num_images is None or position + i < self._num_images:
          pixels = resized_back(batch, i, self._normalization)
        # Pictures are those of a panoptic map without instances.
        self._on_sample(position + i, Sample(
            batch.name[i].numpy().decode(), pixels, label // divisor * divisor,
            semantic_map * divisor))

  def _scalars(self, result: dict) -> dict:
    return {name: result[name] for name in self.scores if result[name] is not None}
