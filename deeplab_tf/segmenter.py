"""Segments single images with a SavedModel or a checkpoint."""

import os
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import files, literal_paths
from deeplab_tf.checkpoints.restore import load_checkpoint
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.user_errors import CheckpointError, HostError, MissingFileError
from deeplab_tf.visualization import draw


class Segment(NamedTuple):
  """One segment of an image.

  Attributes:
    id: Value of the segment in the panoptic map.
    class_id: Contiguous class id.
    category_id: Category id of the data set.
    isthing: Whether the class is a thing class.
    score: Confidence, in [0, 1].
    area: Number of pixels.
  """
  id: int
  class_id: int
  category_id: int
  isthing: bool
  score: float
  area: int


class PanopticResult:
  """A segmented image.

  Attributes:
    image: uint8 [height, width, 3], the input.
    panoptic_map: int32 [height, width], class id * label divisor + instance number.
    segments: List of Segment, the largest first.
    dataset_info: The classes.
  """

  def __init__(self, image: np.ndarray, panoptic_map: np.ndarray, segments: list[Segment],
               dataset_info: DatasetInfo):
    self.image = image
    self.panoptic_map = panoptic_map
    self.segments = segments
    self.dataset_info = dataset_info

  def overlay(self) -> np.ndarray:
    """Returns the image with colors, outlines and class names, uint8 [height, width, 3]."""
    return draw.overlay(self.image, self.panoptic_map, self.dataset_info)


class Segmenter:
  """Segments an image: a callable that takes an image and returns a PanopticResult.

  Attributes:
    dataset_info: The classes.
  """

  def __init__(self, predict: Callable, dataset_info: DatasetInfo):
    """Initializes the segmenter; see `from_saved_model` and `from_checkpoint`.

    Args:
      predict: Function of uint8 [1, height, width, 3] that returns a dictionary of the fields of
        PanopticPrediction.
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
  def from_checkpoint(cls, config, path: str) -> 'Segmenter':
    """Builds the network that a config describes and restores its weights.

    Args:
      config: ExperimentOptions from `load_config`.
      path: Prefix of a checkpoint, or a folder whose latest checkpoint is used.

    Raises:
      FileNotFoundError: There is no checkpoint.
      ValueError: The checkpoint belongs to another model.
    """
    dataset_info = catalog.from_config(config)
    model = serving_module.build_network(config, dataset_info)
    load_checkpoint(model, path)
    module = serving_module.build(config, dataset_info, model)
    return cls(lambda images: module.predict(images), dataset_info)  # Keeps the module alive.

  def __call__(self, image: np.ndarray) -> PanopticResult:
    """Segments an image.

    Args:
      image: uint8 [height, width, 3], RGB, any size.

    Raises:
      ValueError: The image has another dtype or shape.
    """
    image = _checked(image)
    outputs = self._predict(tf.constant(image[None]))
    outputs = {name: value.numpy()[0] for name, value in outputs.items()}
    panoptic_map = outputs['panoptic_map']
    return PanopticResult(image, panoptic_map, self._segments(outputs), self.dataset_info)

  def _segments(self, outputs) -> list[Segment]:
    values, counts = np.unique(outputs['panoptic_map'], return_counts=True)
    areas = dict(zip(values.tolist(), counts.tolist()))
    categories = self.dataset_info.by_class_id
    segments = []
    for segment_id, class_id, score in zip(*(outputs[f'segment_{name}'].tolist()
                                             for name in ('ids', 'classes', 'scores'))):
      if segment_id >= 0:
        category = categories[class_id]
        segments.append(Segment(id=segment_id, class_id=class_id, category_id=category.category_id,
                                isthing=category.isthing, score=score, area=areas[segment_id]))
    return sorted(segments, key=lambda segment: -segment.area)


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
