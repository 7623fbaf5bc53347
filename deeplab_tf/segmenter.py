"""Segments single images with a SavedModel or a checkpoint."""

import os
from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf import results, tasks
from deeplab_tf.checkpoints import files, literal_paths
from deeplab_tf.checkpoints.restore import load_checkpoint
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.models import architecture
from deeplab_tf.user_errors import CheckpointError, HostError, MissingFileError


class Segmenter:
  """Segments an image: a callable that takes an image and returns a result of its task.

  Attributes:
    dataset_info: The classes.
  """

  def __init__(self, predict: Callable, dataset_info: DatasetInfo):
    """Initializes the segmenter; see `from_saved_model` and `from_checkpoint`.

    Args:
      predict: Function of uint8 [1, height, width, 3] that returns a dictionary of the fields of
        the task's prediction; see deeplab_tf.structures.
      dataset_info: The classes.
    """
    self._predict = predict
    self.dataset_info = dataset_info

  @classmethod
  def from_saved_model(cls, directory: str) -> 'Segmenter':
    """Loads a SavedModel written by trainer/export.py.

    Raises:
      FileNotFoundError: There is no SavedModel.
      HostError: A file of the SavedModel cannot be opened.
      CheckpointError: The SavedModel was not exported by this library, or is corrupt.
    """
    directory = os.fspath(directory)
    _check_readable(directory)
    path = os.path.join(directory, saved_model.EXTRA_FOLDER, saved_model.DATASET_FILE)
    if not os.path.isfile(path):
      raise CheckpointError(f'{directory}: is a SavedModel without {path}, so not one of '
                            'trainer/export.py')
    with open(path, encoding='utf-8') as file:
      dataset_info = DatasetInfo.from_json(file.read())
    try:
      loaded = tf.saved_model.load(literal_paths.folder(directory))
    except (tf.errors.OpError, OSError, ValueError) as error:
      raise CheckpointError(f'{directory}: TensorFlow cannot read the SavedModel '
                            f'({files.first_line(error)}); give another copy of it, or another '
                            'export') from None
    # The lambda keeps the loaded object alive, which owns the variables.
    return cls(lambda images: loaded.signatures['serving_default'](images=images), dataset_info)

  @classmethod
  def from_checkpoint(cls, config, path: str, task: Optional[str] = None) -> 'Segmenter':
    """Builds the network that a config describes and restores its weights.

    Args:
      config: ExperimentOptions from `load_config`.
      path: Prefix of a checkpoint, or a folder whose latest checkpoint is used.
      task: 'panoptic', 'instance' or 'semantic', the task to do with a panoptic Mask2Former; None
        for that of the config.

    Raises:
      FileNotFoundError: There is no checkpoint.
      ValueError: The checkpoint belongs to another model.
      ConfigError: The model does not do the task.
    """
    wanted = tasks.used_for(config, task)
    dataset_info = catalog.from_config(config)
    architecture(config).check_task(config, wanted)
    model = serving_module.build_network(config, dataset_info)
    load_checkpoint(model, path)
    module = serving_module.build(config, dataset_info, model, task=wanted)
    dataset_info = tasks.classes(wanted, dataset_info)
    return cls(lambda images: module.predict(images), dataset_info)  # Keeps the module alive.

  def __call__(self, image: np.ndarray) -> results.Result:
    """Segments an image; returns a PanopticResult, InstanceResult or SemanticResult.

    Args:
      image: uint8 [height, width, 3], RGB, any size.

    Raises:
      ValueError: The image has another dtype or shape.
    """
    image = _checked(image)
    outputs = self._predict(tf.constant(image[None]))
    outputs = {name: value.numpy()[0] for name, value in outputs.items()}
    return results.of_outputs(image, outputs, self.dataset_info)


def _check_readable(directory: str) -> None:
  """Opens each file of an export, so that missing permission is not reported as corruption."""
  def stop(error):
    raise HostError(f'{error.filename} cannot be opened: {error.strerror}') from None

  try:
    os.stat(os.path.join(directory, 'saved_model.pb'))
    for folder, _, names in os.walk(directory, onerror=stop):
      for path in [os.path.join(folder, name) for name in names]:
        open(path, 'rb').close()
  except (FileNotFoundError, NotADirectoryError):
    raise MissingFileError(f'{directory}: holds no saved_model.pb; give a folder that '
                           'trainer/export.py wrote') from None
  except OSError as error:
    stop(error)


def _checked(image) -> np.ndarray:
  image = np.asarray(image)
  allowed = 'the segmenter takes uint8 [height, width, 3], RGB'
  if image.dtype != np.uint8:
    hint = '; multiply values in [0, 1] by 255 and convert them' if image.dtype.kind == 'f' else ''
    raise CheckpointError(f'the image has dtype {image.dtype}: {allowed}{hint}')
  if image.ndim != 3 or image.shape[-1] != 3:
    hint = ''
    if image.ndim == 4:
      hint = '; give the images of a batch one by one'
    elif image.ndim == 2 or image.shape[-1] in (1, 4):
      hint = "; convert it, with Pillow by image.convert('RGB')"
    raise CheckpointError(f'the image has shape {list(image.shape)}: {allowed}{hint}')
  if 0 in image.shape:
    raise CheckpointError(f'the image is empty, shape {list(image.shape)}: {allowed}')
  return image
