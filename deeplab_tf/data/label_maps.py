"""Labels of images as maps that are resized, cropped, mirrored and padded.

A label is a panoptic map, int32 [height, width], or an InstanceLabel, whose map has a bit per
instance. Augmentations move the map and leave the rest of the label unchanged.
"""

from typing import Any, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo, ImageClasses
from deeplab_tf.structures import InstanceLabel

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
