"""The tasks that a model can be trained and used for, and the classes of each.

The labels of a task are those of data.label_maps.
"""

import dataclasses
import enum
from typing import Optional

from deeplab_tf import config as config_lib
from deeplab_tf.classes import AnyInfo


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
