"""The checkpoints of a model directory, and the weights that a new run starts from."""

import pathlib
from typing import Mapping, Optional

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf.checkpoints import restore
from deeplab_tf.checkpoints.paths import variables_by_path

_CLEAR = '--override=\'model_options { initial_checkpoint: "" }\''
# Differences that an error lists.
_LISTED = 3


def make_checkpoint(model: tf.keras.Model, global_step: tf.Variable,
                    optimizers: Optional[Mapping] = None) -> tf.train.Checkpoint:
  """Returns what is saved: `model`, `global_step` and the optimisers by their names."""
  return tf.train.Checkpoint(model=model, global_step=global_step, **(optimizers or {}))


def make_manager(checkpoint: tf.train.Checkpoint, model_dir: str,
                 max_to_keep: int) -> tf.train.CheckpointManager:
  """Returns the manager of `model_dir/ckpt-STEP`; it saves whenever it is asked at a new step."""
  return tf.train.CheckpointManager(checkpoint, model_dir, max_to_keep=max_to_keep,
                                    step_counter=checkpoint.global_step, checkpoint_interval=1)


def restore_initial(model: tf.keras.Model, path: str) -> list[str]:
  """Sets the variables of a model that a checkpoint of ours has, by path and shape.

  Args:
    model: A model whose variables exist.
    path: `model_options.initial_checkpoint`: a prefix or a directory.

  Returns:
    Lines that tell what was restored and what was not.

  Raises:
    ConfigError: The path is still a placeholder.
    FileNotFoundError: There is no checkpoint.
    ValueError: No variable matches.
  """
  try:
    config_lib.require_value(path, 'model_options.initial_checkpoint')
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(f'{error}, or clear it with {_CLEAR}') from None
  prefix = restore.find_checkpoint(path)
  shapes = restore.shapes_in_checkpoint(prefix)
  variables = variables_by_path(model)
  matched = [name for name, variable in variables.items()
             if shapes.get(name) == variable.shape.as_list()]
  if not matched:
    raise ValueError(f'model_options.initial_checkpoint: nothing in {prefix} matches this '
                     f'model by name and shape; give a checkpoint of this library, or clear '
                     f'it with {_CLEAR}')
  for name in matched:
    variables[name].assign(restore.read_variable(prefix, name))
  lines = [f'initial checkpoint: {len(matched)} of {len(variables)} variables from {prefix}']
  missed = sorted(set(variables) - set(matched))
  if missed:
    listed = ', '.join(missed[:_LISTED])
    more = f' and {len(missed) - _LISTED} more' if len(missed) > _LISTED else ''
    lines.append(f'  not in it, or of another shape: {listed}{more}')
  return lines


def latest(model_dir: str) -> Optional[str]:
  """Returns the prefix of the latest checkpoint of a model directory, or None."""
  return tf.train.latest_checkpoint(str(pathlib.Path(model_dir)))


def restore_training(checkpoint: tf.train.Checkpoint, prefix: str,
                     strategy: tf.distribute.Strategy) -> None:
  """Restores model, step and optimisers, all of them.

  Raises:
    ValueError: The checkpoint lacks the state of the optimiser.
  """
  with strategy.scope():
    status = checkpoint.restore(prefix)
  try:
    status.assert_existing_objects_matched()
  except AssertionError:
    raise ValueError(
        f'{prefix} was written by a training with another optimizer or another '
        'backbone_learning_rate_multiplier; use the config that made it, or another --model_dir '
        'with this checkpoint as model_options.initial_checkpoint') from None
  # Slots of another optimiser in the file would be silent otherwise.
  status.expect_partial()
