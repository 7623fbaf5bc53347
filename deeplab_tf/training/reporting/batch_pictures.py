"""Pictures of training batches, for runs without evaluation."""

from typing import Any, Callable, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import label_maps
from deeplab_tf.data.image_normalization import Normalization
from deeplab_tf.structures import (
  CenterTargets,
  InstanceLabel,
  InstancePrediction,
  MaskTargets,
  OverlappingMaskTargets,
  SemanticPrediction,
)
from deeplab_tf.training.evaluator import Sample
from deeplab_tf.training.instance_evaluator import predicted
from deeplab_tf.training.reporting import summaries
from deeplab_tf.training.reporting.pictures import side_by_side
from deeplab_tf.visualization.instances import Instances


class BatchPictures:
  """Writes pictures of input, ground truth and prediction of a batch to TensorBoard."""

  def __init__(self, predict: Callable, dataset_info: DatasetInfo, writer: summaries.Writer,
               num_images: int, normalization: Normalization):
    """Initializes the writer of pictures.

    Args:
      predict: Function of the images of a batch that returns the task's prediction; see
        ReplicatedPrediction.
      dataset_info: The classes.
      writer: Writer of the training curves.
      num_images: Maximum number of pictures.
      normalization: Normalization of the images.
    """
    self._dataset_info = dataset_info
    self._writer = writer
    self._num_images = num_images
    self._normalization = normalization
    self._predict = predict

  def draw(self, images: tf.Tensor, targets: Any, step: int) -> None:
    """Draws the first images of the batch of one replica.

    Args:
      images: float32 [batch, height, width, 3], normalized.
      targets: Targets of the images.
      step: Number of completed steps.
    """
    count = min(self._num_images, int(images.shape[0]))
    if not count:
      return
    predictions = self._predict(images[:count])
    pixels = np.clip(np.round(self._normalization.invert(images[:count]).numpy()), 0, 255)
    for i in range(count):
      own = tf.nest.map_structure(lambda x, i=i: x[i].numpy(), targets)
      sample = Sample(f'{i}', pixels[i].astype(np.uint8),
                      *shown(own, predictions, i, self._dataset_info))
      self._writer.image(f'pictures/{i:02d}', side_by_side(sample, self._dataset_info), step)
    self._writer.flush()


def shown(targets: Any, prediction: Any, i: int, info: DatasetInfo) -> tuple[Any, Any]:
  """Returns ground truth and prediction of one image as a Sample has them.

  Args:
    targets: Targets of the image, numpy arrays without a batch dimension.
    prediction: Prediction for the batch.
    i: Index of the image in the batch.
    info: The classes.
  """
  if isinstance(prediction, InstancePrediction):
    is_map = not isinstance(targets, OverlappingMaskTargets)
    label = label_map(targets, info) if is_map else _instance_label(targets, info)
    found = predicted(InstancePrediction(*(x[i].numpy() for x in prediction)))
    return Instances.of_annotations(found.size, label_maps.annotations(label, info)), found
  if isinstance(prediction, SemanticPrediction):
    return label_map(targets, info), prediction.semantic_map[i].numpy() * info.label_divisor
  return label_map(targets, info), prediction.panoptic_map[i].numpy()


def _instance_label(targets: OverlappingMaskTargets, info: DatasetInfo) -> InstanceLabel:
  classes = targets.mask_classes
  class_ids = np.where(classes >= 0, np.array(info.class_ids)[classes], -1)
  return InstanceLabel(targets.mask_bits, class_ids, np.zeros(len(classes), bool),
                       np.zeros(len(classes)))


def label_map(targets: Union[MaskTargets, CenterTargets], info: DatasetInfo) -> np.ndarray:
  """Returns the panoptic map described by targets, int32 [height, width]; crowd is void.

  Args:
    targets: Targets of one image, numpy arrays without a batch dimension.
    info: The classes.
  """
  if isinstance(targets, CenterTargets):
    return _map_of_centers(targets, info)
  classes = np.asarray(info.class_ids)[np.maximum(targets.mask_classes, 0)]
  instances = np.where(targets.mask_isthing, np.arange(len(classes)) + 1, 0)
  values = np.append(classes * info.label_divisor + instances, info.void_label)
  # Pixels without a mask have row -1, which indexes the last value, void.
  return values[targets.mask_ids].astype(np.int32)


def _map_of_centers(targets: CenterTargets, info: DatasetInfo) -> np.ndarray:
  """Numbers instances by class and center, so two with equal class and center become one."""
  is_thing = targets.offset_weights > 0
  places = np.indices(is_thing.shape).transpose(1, 2, 0) + targets.center_offsets
  keys = np.concatenate([targets.semantic_map[..., None], np.round(places)], axis=-1)[is_thing]
  _, numbers = np.unique(keys, axis=0, return_inverse=True)
  label = targets.semantic_map * info.label_divisor
  label[is_thing] += 1 + numbers.reshape(-1).astype(np.int32)
  is_void = (targets.semantic_map == info.ignore_label) | (
      np.isin(targets.semantic_map, info.thing_class_ids) & ~is_thing)
  return np.where(is_void, info.void_label, label).astype(np.int32)
