"""Scores instance segmentation on the evaluation data, for Orbit's Controller."""

import numpy as np
import tensorflow as tf

from deeplab_tf.data import label_maps
from deeplab_tf.metrics.accumulator import Group
from deeplab_tf.metrics.instance_average_precision import NAMES, InstanceAveragePrecision
from deeplab_tf.metrics.percent import percent
from deeplab_tf.structures import InstancePrediction
from deeplab_tf.training.evaluator import EvaluatedImage, ImageEvaluator
from deeplab_tf.visualization.instances import Instances

# Prefix of the scores with the smaller of mask IoU and boundary IoU.
_BOUNDARY = 'boundary'


class InstanceEvaluator(ImageEvaluator):
  """Computes COCO's average precision and recall of masks, and their boundary AP.

  Attributes:
    result: The last result: that of InstanceAveragePrecision.result, and 'boundary' -> that with
      boundary IoU.
  """
  title = 'average precision'
  scores = (*NAMES, *(f'{_BOUNDARY}/{name}' for name in NAMES))

  def format_result(self) -> str:
    """Returns the scores, and a line per class."""
    lines = [f'{"":<28}{"mask":>8}{"boundary":>10}']
    for name in NAMES:
      lines.append(f'{name:<28}{percent(self.result[name], 8)}'
                   f'{percent(self.result[_BOUNDARY][name], 10)}')
    for category in self._dataset_info.categories:
      own, boundary = (result['per_class'].get(category.category_id)
                       for result in (self.result, self.result[_BOUNDARY]))
      lines.append(f'  {category.name[:25]:<26}{percent(own, 8)}{percent(boundary, 10)}')
    return '\n'.join(lines)

  def _new_metric(self) -> Group:
    category_ids = [c.category_id for c in self._dataset_info.categories if c.isthing]
    return Group({iou_type: InstanceAveragePrecision(category_ids, iou_type)
                  for iou_type in ('segm', 'boundary')})

  def _result(self, metric: Group) -> dict:
    result = metric.result()
    return {**result['segm'], _BOUNDARY: result['boundary']}

  def _score_image(self, metric: Group, image: EvaluatedImage):
    annotations = label_maps.annotations(image.label, self._dataset_info)
    found = predicted(tf.nest.map_structure(
        lambda x: x[0].numpy(), self._restored(image, image.prediction)))
    categories = self._dataset_info.by_class_id
    detections = [{'category_id': categories[class_id].category_id, 'segmentation': runs,
                   'score': score}
                  for class_id, runs, score in zip(found.class_ids, found.masks, found.scores)]
    for part in metric.parts.values():
      part.update(image.name, image.raw_size, annotations, detections)
    return Instances.of_annotations(image.raw_size, annotations), found

  def _scalars(self, result: dict) -> dict:
    values = {**{name: result[name] for name in NAMES},
              **{f'{_BOUNDARY}/{name}': result[_BOUNDARY][name] for name in NAMES}}
    return {name: value for name, value in values.items() if value is not None}


def predicted(prediction: InstancePrediction) -> Instances:
  """Returns the predicted instances of one image, from numpy arrays without a batch dimension."""
  from pycocotools import mask
  class_ids = prediction.instance_classes
  count = int(np.count_nonzero(class_ids >= 0))  # Unused rows are at the end.
  masks = prediction.instance_masks
  return Instances(masks.shape[1:],
                   [mask.encode(np.asfortranarray(each)) for each in masks[:count]],
                   class_ids[:count].tolist(), prediction.instance_scores[:count].tolist())
