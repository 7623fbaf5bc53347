"""The tasks that a model can be trained and used for, and the classes and labels of each."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, Optional

from deeplab_tf import config as config_lib
from deeplab_tf.classes import AnyInfo, DatasetInfo

if TYPE_CHECKING:  # Files are scored and configs are checked without TensorFlow.
  import tensorflow as tf


class Task(enum.Enum):
  """A task of a model.

  Attributes:
    PANOPTIC: A class for every pixel, and an instance for every pixel of a thing.
    INSTANCE: Masks of things with a class and a score; they may overlap.
    SEMANTIC: A class for every pixel.
    CLASSIFICATION: A class for every image.
  """
  PANOPTIC = 'panoptic'
  INSTANCE = 'instance'
  SEMANTIC = 'semantic'
  CLASSIFICATION = 'classification'


def of(config) -> Task:
  """Returns the task of an experiment: CLASSIFICATION by its model, else its field `task`."""
  if config_lib.classifies_images(config):
    return Task.CLASSIFICATION
  return Task[type(config).Task.Name(config.task)]


def used_for(config, name: Optional[str] = None) -> Task:
  """Returns the task that a trained model is used for.

  Args:
    config: ExperimentOptions that the model was trained with.
    name: Name of another task than that of the training; None for the same.

  Raises:
    ConfigError: A model that was trained for this task cannot be used for the other.
  """
  trained = of(config)
  if name is None or Task(name) is trained:
    return trained
  if trained is not Task.PANOPTIC:
    raise config_lib.ConfigError(
        f'the model was trained for task {trained.name} and cannot be used for '
        f'{Task(name).name}: only models of task PANOPTIC can be used for other tasks')
  return Task(name)


def classes(task: Task, info: AnyInfo) -> AnyInfo:
  """Returns the classes that a model of a task predicts.

  They are those of the data set; for SEMANTIC all of them count as stuff, since instances are
  not told apart, and for INSTANCE the stuff classes are left out.
  """
  if task is Task.SEMANTIC:
    categories = tuple(c._replace(isthing=False) for c in info.categories)
  elif task is Task.INSTANCE:
    categories = tuple(c for c in info.categories if c.isthing)
  else:
    return info
  return dataclasses.replace(info, categories=categories)


def label(task: Task, given: Any, info: AnyInfo) -> Any:
  """Turns the label of a data set into that of a task.

  Args:
    task: The task.
    given: Label of a structures.LabeledImage.
    info: Classes of the data set.

  Returns:
    The label; only panoptic maps are changed, see `label_map`.
  """
  is_map = isinstance(info, DatasetInfo) and not info.masks_overlap
  return label_map(task, given, info) if is_map else given


def label_map(task: Task, panoptic_map: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
  """Turns the panoptic map of a data set into the label map of a task.

  Args:
    task: PANOPTIC, INSTANCE or SEMANTIC.
    panoptic_map: int32 [...], class id * label divisor + instance number.
    info: Classes of the data set.

  Returns:
    int32 [...], of the same form: for SEMANTIC all instance numbers are 0, and for INSTANCE the
    pixels of stuff are unlabeled.
  """
  if task is Task.SEMANTIC:
    return panoptic_map // info.label_divisor * info.label_divisor
  if task is Task.INSTANCE:
    import tensorflow as tf
    is_thing = tf.reduce_any(
        (panoptic_map // info.label_divisor)[..., None] == tf.constant(
            info.thing_class_ids, panoptic_map.dtype), axis=-1)
    return tf.where(is_thing, panoptic_map, info.void_label)
  return panoptic_map
