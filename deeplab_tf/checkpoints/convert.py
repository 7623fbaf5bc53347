"""Turns checkpoints of other programs into checkpoints of this library."""

import os
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import files, literal_paths
from deeplab_tf.checkpoints.detectron_reader import read_detectron_weights
from deeplab_tf.checkpoints.reference import Account, load_reference_weights
from deeplab_tf.checkpoints.restore import find_checkpoint
from deeplab_tf.checkpoints.safetensors_reader import read_safetensors_weights
from deeplab_tf.checkpoints.torch_reader import read_torch_weights
from deeplab_tf.compat import keras
from deeplab_tf.user_errors import CheckpointError


def read_tensorflow_weights(path: str) -> dict[str, np.ndarray]:
  """Reads all arrays of a TensorFlow checkpoint.

  Args:
    path: A prefix, or a folder, which means its latest checkpoint.

  Returns:
    Arrays by their names in the file.

  Raises:
    FileNotFoundError: There is no checkpoint.
    ValueError: The file is not a TensorFlow checkpoint, or is corrupt.
  """
  prefix = find_checkpoint(path)
  files.check_readable(prefix)
  try:
    reader = tf.train.load_checkpoint(literal_paths.prefix(prefix))
    names = [name for name in reader.get_variable_to_shape_map()
             if name != '_CHECKPOINTABLE_OBJECT_GRAPH']
    return {name: reader.get_tensor(name) for name in names}
  except files.READ_ERRORS as error:
    raise CheckpointError(
        f'{prefix}: cannot be read as a checkpoint ({files.first_line(error)})') from None


# Source -> function that reads arrays from a path, by the source's own names.
READERS = {'deeplab2': read_tensorflow_weights, 'axial_deeplab': read_torch_weights,
           'mask2former': read_detectron_weights, 'huggingface': read_safetensors_weights}


class Converted(NamedTuple):
  """Result of a conversion.

  Attributes:
    prefix: Prefix of the checkpoint, which `load_checkpoint`, the trainer's `initial_checkpoint`
      and the exporter take; they also take the folder.
    account: Account of what became of each weight.
  """
  prefix: str
  account: Account


def convert(model: keras.Model, source: str, path: str, output: str) -> Converted:
  """Sets a model's variables from another program's checkpoint and writes one of ours.

  Args:
    model: A model of deeplab_tf.
    source: Program that wrote the checkpoint, one of READERS.
    path: Path of the checkpoint: a file, a prefix or a folder.
    output: Prefix to write; its folder is created. See `save_checkpoint`.

  Raises:
    FileNotFoundError: There is no checkpoint.
    ValueError: The checkpoint cannot be read, or does not fit the model.
  """
  if source not in READERS:
    raise CheckpointError(f'unknown source "{source}": allowed are {", ".join(sorted(READERS))}')
  weights = READERS[source](path)
  if any(name.startswith('model/backbone/') for name in weights):
    raise CheckpointError(f'{path} is a checkpoint of this library already: it needs no conversion')
  account = load_reference_weights(model, source, weights)
  return Converted(save_checkpoint(model, output), account)


def save_checkpoint(model: keras.Model, output: str) -> str:
  """Writes a model's variables as a checkpoint, whole or not at all.

  Args:
    model: A model of deeplab_tf.
    output: Prefix to write; for an existing folder it becomes 'ckpt-0' in it.

  Returns:
    The prefix.
  """
  output = os.path.abspath(output)
  if os.path.isdir(output):
    output = os.path.join(output, 'ckpt-0')
  folder, name = os.path.split(output)
  os.makedirs(folder, exist_ok=True)
  temporary = tempfile.mkdtemp(prefix=f'.{name}.', dir=folder)
  try:
    tf.train.Checkpoint(model=model).write(
        os.path.join(literal_paths.folder(temporary), 'converted'))
    files.move_in(temporary, folder, name)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  # With a state file, the folder names the checkpoint. An existing one is kept.
  if tf.train.get_checkpoint_state(literal_paths.folder(folder)) is None:
    files.write_state(output)
  return output
