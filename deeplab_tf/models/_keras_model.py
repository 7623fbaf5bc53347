"""Base class of the networks: names of variables, and Keras' own files."""

import dataclasses
import json
import os
from typing import Any, Optional

import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf import models
from deeplab_tf.classes import AnyInfo, DatasetInfo, ImageClasses
from deeplab_tf.compat import keras
from deeplab_tf.formats import atomic_file
from deeplab_tf.layers import variable_paths
from deeplab_tf.protos import config_pb2
from deeplab_tf.user_errors import UsageError

_ONE_FILE = ('.h5', '.hdf5', '.keras')
_HDF5 = ('h5', 'hdf5')
_USE = ('use model.save_weights("x.weights.h5"), which deeplab_tf.build_model(config).load_weights '
        'reads, or trainer/export.py for a program that runs without this library')


class KerasModel(keras.Model):
  """A network that knows its classes, and that Keras can save and load.

  `save_weights` and `load_weights` take any of Keras' formats, `save` its own format '.keras' and
  SavedModels. A single file is written whole or not at all.

  Attributes:
    dataset_info: The classes that the network predicts; importers order its outputs by them.
  """

  # Text, since Keras would make a dictionary a part of checkpoints.
  _described_by = ''
  _is_folded = False

  def __init__(self, dataset_info: AnyInfo):
    """Initializes the model.

    Args:
      dataset_info: The classes that the network predicts.
    """
    super().__init__()
    self.dataset_info = dataset_info

  def call_all_layers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the raw outputs at inference, those of earlier decoder layers included.

    By default they are those of `call`. A model whose decoder layers make predictions of their own
    names them as in training; see structures.split_layers.

    Args:
      images: [batch, height, width, 3], normalized.
    """
    return self(images, training=False)

  def initial_checkpoint_path(self, path: str) -> str:
    """Returns where another model's checkpoint has a variable that it lacks under its own path.

    By default the path itself. See checkpoints.initial.

    Args:
      path: Path of a variable; see layers.variable_paths.
    """
    return path

  @property
  def first_prediction(self) -> int:
    """Number of the decoder layer after which the first prediction of `call_all_layers` is made.

    0 stands for a prediction before the first layer.
    """
    return 0

  def describe_by(self, config, for_inference: bool) -> None:
    """Stores what the model was built from, which a file of the whole model has to hold.

    Also names each variable by its path in the model, as checkpoints do.

    Args:
      config: ExperimentOptions.
      for_inference: Whether the parts that only training uses are left out.
    """
    self._described_by = json.dumps({'experiment': text_format.MessageToString(config),
                                     'for_inference': for_inference,
                                     **_encode_classes(self.dataset_info)})
    self.built = True  # The layers have created all variables, which Keras cannot know.
    name_variables(self)

  def fold_norms(self) -> None:
    """Records that the batch norms are folded; see layers.folding, which calls this."""
    self._is_folded = True

  # === Keras' interface ===

  def get_config(self) -> dict:
    """Returns what `from_config` builds the model from."""
    return json.loads(self._described_by or '{}')

  @classmethod
  def from_config(cls, config: dict, custom_objects: Any = None) -> 'KerasModel':
    """Builds a model with random weights from what `get_config` returned."""
    del custom_objects
    if 'experiment' not in config:
      raise UsageError(f'the file does not say how its {cls.__name__} was built; {_USE}')
    experiment = config_pb2.ExperimentOptions()
    text_format.Parse(config['experiment'], experiment)
    # Files of earlier versions do not have the entry: their experiment lacks those parts itself.
    return models.architecture(experiment).build(experiment, _decode_classes(config),
                                                 config.get('for_inference', False))

  def save_weights(self, filepath: Any, overwrite: bool = True, save_format: Optional[str] = None,
                   options: Any = None) -> None:
    """Writes all weights; see keras.Model.save_weights."""
    name_variables(self)  # Folding creates new variables.
    path = os.fspath(filepath)
    if not _is_one_file(path, save_format) or (not overwrite and os.path.exists(path)):
      super().save_weights(path, overwrite, save_format, options)
      return
    with atomic_file.replacing(path) as temporary:
      super().save_weights(temporary, True, save_format, options)

  def save(self, filepath: Any, overwrite: bool = True, save_format: Optional[str] = None,
           **kwargs: Any) -> None:
    """Writes the whole model; see keras.Model.save.

    Raises:
      UsageError: The format is HDF5, which holds only functional models; or it is '.keras', and the
        batch norms are folded or build_model did not build the model. Nothing is written.
    """
    path = os.fspath(filepath)
    is_file = _is_one_file(path, save_format) or save_format == 'keras'
    if is_file and (save_format in _HDF5 or not path.endswith('.keras')):
      raise UsageError(f'{path}: a {type(self).__name__} cannot be saved as one HDF5 file; {_USE}')
    if is_file and (self._is_folded or not self._described_by):
      raise UsageError(f'{path}: only a model that build_model made, without folded batch norms, '
                       f'can be saved in the format .keras; {_USE}')
    if not is_file or (not overwrite and os.path.exists(path)):
      super().save(path, overwrite, save_format, **kwargs)
      return
    with atomic_file.replacing(path) as temporary:
      super().save(temporary, True, save_format, **kwargs)


def name_variables(model: keras.Model) -> None:
  """Names each variable of a model by its path, which is unique in the model."""
  for path, variable in variable_paths.variables_by_path(model).items():
    for i, part in enumerate(_parts(variable)):
      name = f'{path}/replica_{i}:0' if i else f'{path}:0'
      part._handle_name = name  # TensorFlow has no other way to name a variable that exists.


def _parts(variable: tf.Variable) -> list:
  """Returns the variables of the devices, without wrappers of mixed precision and strategies."""
  values = getattr(variable, 'values', None)
  if isinstance(values, (list, tuple)):  # A variable of a strategy.
    return [part for value in values for part in _parts(value)]
  inner = getattr(variable, '_variable', None)  # A wrapper of mixed precision.
  return [variable] if inner is None else _parts(inner)


def _is_one_file(path: str, save_format: Optional[str]) -> bool:
  return path.endswith(_ONE_FILE) or save_format in _HDF5


def _encode_classes(dataset_info: AnyInfo) -> dict:
  if isinstance(dataset_info, ImageClasses):
    return {'image_classes': json.dumps(dataclasses.asdict(dataset_info))}
  return {'dataset': dataset_info.to_json()}


def _decode_classes(config: dict) -> AnyInfo:
  if 'dataset' in config:
    return DatasetInfo.from_json(config['dataset'])
  values = json.loads(config['image_classes'])
  return ImageClasses(**{**values, 'class_names': tuple(values['class_names'])})
