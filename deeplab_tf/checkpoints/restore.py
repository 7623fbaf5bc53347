"""Finds checkpoints and reads a model's variables from them, all or none.

A checkpoint is what training writes: a tf.train.Checkpoint whose item `model` is the network. An
item `averaged_weights` may hold averages of its variables, each under the variable's path.
Evaluation scored the averages, so an average is read in place of its variable.
"""

import os
from typing import Iterable, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf import listing, modules
from deeplab_tf.checkpoints import files, literal_paths
from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import escape, variables_by_path
from deeplab_tf.user_errors import CheckpointError, MissingFileError

# The items of a checkpoint.
MODEL = 'model'
AVERAGED = 'averaged_weights'

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
# Number of differences that an error lists.
_LISTED = 3


def load_checkpoint(model: keras.Model, path: str, averaged: bool = True) -> None:
  """Sets every variable of a model from a checkpoint.

  A model without the parts that only training uses can read a checkpoint that has them: parts whose
  attribute in the model is None are skipped.

  Args:
    model: A model of deeplab_tf.
    path: A prefix such as '.../ckpt-1000', or a folder, which means its latest whole checkpoint.
    averaged: Whether to take the average of a variable where the checkpoint has one.

  Raises:
    FileNotFoundError: There is no checkpoint.
    ValueError: The checkpoint is of another model, or is corrupt; no variable has changed.
  """
  prefix = find_checkpoint(path)
  check_same_model(model, prefix)
  variables = variables_by_path(model)
  values = read_variables(prefix, variables, averaged)
  for key, variable in variables.items():
    variable.assign(values[key])


def check_same_model(model: keras.Model, prefix: str,
                     advice: str = 'use the config that it was trained with') -> None:
  """Checks that a checkpoint holds the variables of a model, no more, no fewer.

  Parts of the model that are None may be in the checkpoint.

  Args:
    model: A model of deeplab_tf.
    prefix: Prefix of the checkpoint.
    advice: Remedy, the end of the error.

  Raises:
    ValueError: The checkpoint is of another model; the message lists the first differences.
  """
  differences = _differences(model, variables_by_path(model), shapes_in_checkpoint(prefix))
  if differences:
    more = len(differences) - _LISTED
    raise CheckpointError(f'{prefix} is a checkpoint of another model: '
                          + '; '.join(differences[:_LISTED])
                          + (f'; and {more} more differences' if more > 0 else '') + f'; {advice}')


def read_variable(prefix: str, key: str, averaged: bool = True) -> np.ndarray:
  """Returns the value of one of the model's variables; see read_variables."""
  return read_variables(prefix, [key], averaged)[key]


def read_variables(prefix: str, keys: Iterable[str],
                   averaged: bool = True) -> dict[str, np.ndarray]:
  """Returns the values of some of the model's variables in a checkpoint.

  Args:
    prefix: Prefix of the checkpoint.
    keys: Paths of variables that the checkpoint has.
    averaged: Whether to take the average of a variable where the checkpoint has one.

  Raises:
    ValueError: The checkpoint is corrupt.
  """
  reader = _reader(prefix)
  shapes = reader.get_variable_to_shape_map()
  try:
    return {key: reader.get_tensor(_saved_name(shapes, key, averaged)) for key in keys}
  except files.READ_ERRORS as error:
    raise CheckpointError(
        f'{prefix}: the checkpoint is corrupt ({files.first_line(error)})') from None


def names_in_checkpoint(prefix: str) -> list[str]:
  """Returns all names in a checkpoint, as its file has them.

  Raises:
    ValueError: The file is not a checkpoint, or is corrupt.
  """
  return sorted(_reader(prefix).get_variable_to_shape_map())


def averaged_key(key: str) -> str:
  """Returns the name in a checkpoint of the average of the variable at a path of the model."""
  return f'{AVERAGED}/{escape(key)}{_SUFFIX}'


def _saved_name(shapes, key: str, averaged: bool) -> str:
  own, average = f'{MODEL}/{key}{_SUFFIX}', averaged_key(key)
  has_average = average in shapes and shapes[average] == shapes.get(own)
  return average if averaged and has_average else own


def read_step(prefix: str) -> int:
  """Returns the training step of a checkpoint; 0 if training did not write it."""
  reader, name = _reader(prefix), f'global_step{_SUFFIX}'
  return int(reader.get_tensor(name)) if reader.has_tensor(name) else 0


def find_checkpoint(path: str) -> str:
  """Returns the prefix of a checkpoint.

  Args:
    path: A prefix, one of the files of a checkpoint, or a folder, which means its latest whole
      one; warnings about corrupt ones go to standard error.

  Raises:
    FileNotFoundError: There is no checkpoint; the message suggests the nearest name.
    ValueError: All checkpoints of the folder are corrupt.
  """
  path = os.fspath(path)
  if os.path.isdir(path):
    # Only a name without a number needs the file `checkpoint` to be found.
    latest = files.newest_whole(path) or _named_latest(path)
    if latest is None:
      raise MissingFileError(f'{path}: holds no checkpoint; give a folder that training wrote '
                             'to, or a prefix such as .../ckpt-1000')
    return latest
  prefix = path[:-len('.index')] if path.endswith('.index') else path.split('.data-')[0]
  if files.has_index(prefix):
    return prefix
  folder = os.path.dirname(prefix) or '.'
  if not os.path.isdir(folder):
    raise MissingFileError(f'{path}: no such checkpoint; the folder {folder} does not exist')
  found = [name[:-len('.index')] for name in listing.files(folder, ('.index',))]
  raise MissingFileError(f'{path}: no such checkpoint; give a folder that training wrote to, or '
                         'a prefix such as .../ckpt-1000.'
                         + modules.nearest(os.path.basename(prefix), found))


def _named_latest(folder: str) -> Optional[str]:
  """Returns the prefix that the file `checkpoint` names; None if no such checkpoint exists."""
  known_as = literal_paths.folder(folder)
  state = tf.train.get_checkpoint_state(known_as)
  prefix = state.model_checkpoint_path if state else ''
  if prefix and os.path.dirname(prefix) == known_as:
    prefix = os.path.join(folder, os.path.basename(prefix))
  return prefix if prefix and files.has_index(prefix) else None


def shapes_in_checkpoint(prefix: str) -> dict[str, list[int]]:
  """Returns the shapes of the model's variables in a checkpoint, by their paths.

  Raises:
    ValueError: The file is not a checkpoint, or is corrupt.
  """
  return _saved_shapes(_reader(prefix))


def _reader(prefix: str):
  files.check_readable(prefix)
  try:
    return tf.train.load_checkpoint(literal_paths.prefix(prefix))
  except files.READ_ERRORS as error:
    raise CheckpointError(
        f'{prefix}: cannot be read as a checkpoint ({files.first_line(error)})') from None


def _saved_shapes(reader) -> dict[str, list[int]]:
  start, end = len(MODEL) + 1, -len(_SUFFIX)
  return {name[start:end]: list(shape) for name, shape in reader.get_variable_to_shape_map().items()
          if name.startswith(f'{MODEL}/') and name.endswith(_SUFFIX)
          and '.OPTIMIZER_SLOT' not in name}


def _differences(model, variables, saved) -> list[str]:
  own = {key: variable.shape.as_list() for key, variable in variables.items()}
  found = [f'{key} is {saved[key]} there and {own[key]} in the config'
           for key in sorted(own) if key in saved and saved[key] != own[key]]
  found += [f'{key} is not there' for key in sorted(own) if key not in saved]
  found += [f'{key} is only there' for key in sorted(saved)
            if key not in own and not _is_switched_off(model, key)]
  return found


def _is_switched_off(model, key: str) -> bool:
  """Returns whether the model could have the variable, but does not have that part."""
  part = model
  for name in key.split('/'):
    if not hasattr(part, name):
      return False
    part = getattr(part, name)
    if part is None:
      return True
  return False
