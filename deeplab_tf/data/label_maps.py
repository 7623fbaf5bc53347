"""Labels of images as maps that are resized, cropped, mirrored and padded.

A label is a panoptic map, int32 [height, width], or an InstanceLabel, whose map has a bit per
instance. Augmentations move the map and leave the rest of the label unchanged. A task may use a
part of what a label of the data set tells.
"""

from typing import Any, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.classes import AnyInfo, DatasetInfo, ImageClasses
from deeplab_tf.data import segments
from deeplab_tf.formats import instance_masks
from deeplab_tf.structures import InstanceLabel
from deeplab_tf.tasks import Task

Label = Union[tf.Tensor, InstanceLabel]


def pixels(label: Label) -> tf.Tensor:
  """Returns the map of a label: int32 [height, width] or uint8 [height, width, channels]."""
  return label.mask_bits if isinstance(label, InstanceLabel) else label


def with_pixels(label: Label, moved: tf.Tensor) -> Label:
  """Returns the label with another map."""
  return label._replace(mask_bits=moved) if isinstance(label, InstanceLabel) else moved


def padding(label: Label, void_label: int) -> int:
  """Returns the value of the map where there is no image: in no mask, or unlabeled."""
  return 0 if isinstance(label, InstanceLabel) else void_label


def blank(info: Union[DatasetInfo, ImageClasses], size: Sequence[Any]) -> Label:
  """Returns the label of an image of which nothing is known.

  Args:
    info: The classes.
    size: Height and width, numbers or int32 [].
  """
  if isinstance(info, ImageClasses):
    return tf.constant(0)
  if info.masks_overlap:
    return InstanceLabel(tf.zeros([*size, 0], tf.uint8), tf.zeros([0], tf.int32),
                         tf.zeros([0], tf.bool), tf.zeros([0]))
  return tf.fill(size, info.void_label)


def batched(info: DatasetInfo) -> tuple[Any, Any]:
  """Returns the shapes and the padding values of labels for tf.data's padded_batch."""
  if info.masks_overlap:
    return (InstanceLabel([None, None, None], [None], [None], [None]),
            InstanceLabel(tf.constant(0, tf.uint8), -1, False, 0.0))
  return [None, None], info.void_label


def of_image(label: Label, i: int, height: int, width: int) -> Any:
  """Returns the label of image i of an EvaluationBatch, as numpy arrays without the padding.

  Args:
    label: Labels of the batch.
    i: Index of the image.
    height: Height of its file.
    width: Width of its file.
  """
  if not isinstance(label, InstanceLabel):
    return label[i].numpy()[:height, :width]
  own = InstanceLabel(*(np.asarray(x[i]) for x in label))
  count = int(np.count_nonzero(own.class_ids >= 0))
  bits = own.mask_bits[:height, :width, :-(-count // 8)]
  return InstanceLabel(bits, *(x[:count] for x in own[1:]))


def annotations(label: Label, info: DatasetInfo) -> list[dict[str, Any]]:
  """Returns the instances of a label in the form of COCO's annotations.

  Args:
    label: InstanceLabel without a batch dimension, whose unused rows are left out; or a panoptic
      map, int32 [height, width], whose things are the instances.
    info: The classes.

  Returns:
    Dictionaries of class_id, category_id, segmentation (run lengths of pycocotools), area (pixels)
    and iscrowd (0 or 1). Those of a panoptic map also have `label`, the value in the map.
  """
  categories = info.by_class_id
  if isinstance(label, InstanceLabel):
    masks = instance_masks.from_bits(np.asarray(label.mask_bits), len(label.class_ids))
    rows = zip(masks, *(np.asarray(values).tolist() for values in label[1:]))
    return [{'class_id': class_id, 'category_id': categories[class_id].category_id,
             'segmentation': mask, 'area': area, 'iscrowd': int(is_crowd)}
            for mask, class_id, is_crowd, area in rows if class_id >= 0]
  found = []
  for value, area in zip(*(x.tolist() for x in np.unique(label, return_counts=True))):
    class_id, number = divmod(value, info.label_divisor)
    if class_id in categories and categories[class_id].isthing:
      (mask,) = instance_masks.from_bits((label == value)[..., None], 1)
      found.append({'class_id': class_id, 'category_id': categories[class_id].category_id,
                    'segmentation': mask, 'area': area, 'iscrowd': int(number == 0),
                    'label': value})
  return found


# --- Labels of a task -------------------------------------------------------------------------


def of_task(task: Task, label: Any, info: AnyInfo) -> Any:
  """Turns the label of a data set into that of a task.

  Args:
    task: The task.
    label: Label of a structures.LabeledImage.
    info: Classes of the data set.

  Returns:
    The label; only panoptic maps are changed, see `map_of_task`.
  """
  is_map = isinstance(info, DatasetInfo) and not info.masks_overlap
  return map_of_task(task, label, info) if is_map else label


def map_of_task(task: Task, panoptic_map: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
  """Turns the panoptic map of a data set into that of a task.

  Args:
    task: PANOPTIC, INSTANCE or SEMANTIC.
    panoptic_map: int32 [...], class id * label divisor + instance number.
    info: Classes of the data set.

  Returns:
    int32 [...], of the same form: for SEMANTIC all instance numbers are 0, and for INSTANCE the
    pixels of stuff are unlabeled.
  """
  if task is Task.SEMANTIC:
    return segments.class_map(panoptic_map, info) * info.label_divisor
  if task is Task.INSTANCE:
    is_thing = tf.gather(segments.class_table(info, info.thing_class_ids),
                         segments.class_map(panoptic_map, info))
    return tf.where(is_thing, panoptic_map, info.void_label)
  return panoptic_map
