"""The checkpoints of a model directory, and the initial weights of a new run."""

import os
import pathlib
from typing import Callable, Collection, Mapping, Optional, Sequence

import tensorflow as tf

from deeplab_tf import cli
from deeplab_tf import config as config_lib
from deeplab_tf.checkpoints import files, initial, literal_paths, restore
from deeplab_tf.compat import keras
from deeplab_tf.layers import variable_paths
from deeplab_tf.user_errors import CheckpointError, HostError

_CLEAR = '--override=\'model_options { initial_checkpoint: "" }\''


class DiskFullError(HostError, OSError):
  """The disk is full; the existing checkpoints are intact."""
  exit_code = 1


class Manager(tf.train.CheckpointManager):
  """Saves each checkpoint once and completely or not at all, and removes the oldest."""

  def __init__(self, checkpoint: tf.train.Checkpoint, model_dir: str, *,
               on_saved: Callable[[str], None], **kwargs):
    super().__init__(checkpoint, literal_paths.folder(model_dir), **kwargs)
    self._model_dir = model_dir
    self._on_saved = on_saved

  @property
  def newest(self) -> Optional[str]:
    """The prefix of the latest checkpoint, starting with `model_dir`; None before the first."""
    latest = self.latest_checkpoint
    return latest and os.path.join(self._model_dir, os.path.basename(latest))

  def save(self, checkpoint_number: int, **kwargs) -> Optional[str]:
    """Saves as tf.train.CheckpointManager does, unless this step is saved already.

    Raises:
      DiskFullError: The disk is full.
    """
    if self.latest_checkpoint == os.path.join(self.directory, f'ckpt-{int(checkpoint_number)}'):
      return None
    try:
      prefix = super().save(checkpoint_number, **kwargs)
    except (tf.errors.OpError, OSError) as error:
      explain_full_disk(error, self._model_dir)
      raise
    if prefix is None:
      return None
    self._on_saved(self.newest)
    return self.newest


def explain_full_disk(error: Exception, model_dir: str) -> None:
  """Raises DiskFullError with a line for the user if an error says that a disk is full.

  Only the process that writes to the model directory may call this.

  Args:
    error: Error of Python or TensorFlow.
    model_dir: The model directory; incomplete files in it are removed.
  """
  if isinstance(error, DiskFullError) or not cli.is_disk_full(error):
    return
  files.remove_leftovers(model_dir)
  last = files.newest_whole(model_dir, warn=lambda line: None)
  kept = f'the last checkpoint, {last}, is whole' if last else 'there is no checkpoint yet'
  raise DiskFullError(
      f'{model_dir}: no space left on the disk; {kept}. Free some space and start again with the '
      'same command') from error


def make_checkpoint(items: Mapping) -> tf.train.Checkpoint:
  """Returns the checkpoint of all or some of state.TrainingState.checkpoint_items."""
  return tf.train.Checkpoint(**items)


def make_manager(checkpoint: tf.train.Checkpoint, model_dir: str, max_to_keep: int,
                 last: Optional[str] = None,
                 on_saved: Callable[[str], None] = lambda prefix: None) -> Manager:
  """Returns the manager of `model_dir/ckpt-STEP`, after removing the leftovers of a killed run.

  It saves at every new step at which `save` is called. Only the process that writes to the model
  directory may call this.

  Args:
    checkpoint: The checkpoint object.
    model_dir: Model directory, created if needed.
    max_to_keep: Number of latest checkpoints to keep.
    last: Newest complete checkpoint in the folder, from `latest`.
    on_saved: Function that is called with the prefix of each saved checkpoint.
  """
  os.makedirs(model_dir, exist_ok=True)
  files.remove_leftovers(model_dir)
  if last is not None:
    files.write_state(last)  # The manager counts what is listed there.
  return Manager(checkpoint, model_dir, max_to_keep=max_to_keep, on_saved=on_saved,
                 step_counter=checkpoint.global_step, checkpoint_interval=1)


def restore_initial(model: keras.Model, path: str, skip: Collection[str] = ()) -> list[str]:
  """Restores the variables that a checkpoint of this library has; see initial.restore_matching.

  Args:
    model: A model whose variables exist.
    path: `model_options.initial_checkpoint`, a prefix or a directory.
    skip: Paths of variables that are not restored, from `left_out`.

  Returns:
    Lines that describe what was restored and what was not.

  Raises:
    ConfigError: The path is still a placeholder.
    FileNotFoundError: There is no checkpoint.
    ValueError: No variable matches, or the checkpoint is corrupt.
  """
  try:
    config_lib.require_value(path, 'model_options.initial_checkpoint')
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(f'{error}, or clear it with {_CLEAR}') from None
  if not os.path.lexists(path):
    path = os.path.expanduser(path)
  try:
    return initial.restore_matching(model, restore.find_checkpoint(path), skip)
  except initial.NothingMatches as error:
    raise CheckpointError(
        f'model_options.initial_checkpoint: {error}, or clear it with {_CLEAR}') from None


def left_out(config, model: keras.Model,
             last_layers: Mapping[str, Sequence[keras.layers.Layer]]) -> list[str]:
  """Returns the paths of the variables that are not restored from the initial checkpoint.

  Args:
    config: ExperimentOptions.
    model: The model.
    last_layers: Result of the architecture's `last_layers(model)`.
  """
  options = config.model_options
  restored = {'semantic': options.restore_semantic_last_layer_from_initial_checkpoint,
              'instance': options.restore_instance_last_layer_from_initial_checkpoint}
  return variable_paths.paths_of(model, [layer for kind, layers in last_layers.items()
                                         if not restored[kind] for layer in layers])


def latest(model_dir: str) -> Optional[str]:
  """Returns the prefix of the latest intact checkpoint of a model directory, or None.

  Raises:
    ValueError: All checkpoints are corrupt.
  """
  return files.newest_whole(str(pathlib.Path(model_dir)))


def restore_training(checkpoint: tf.train.Checkpoint, prefix: str,
                     strategy: tf.distribute.Strategy,
                     advice: str = 'use the config that made it, or another --model_dir') -> None:
  """Restores model, step and optimizers completely.

  Args:
    checkpoint: Checkpoint object to restore.
    prefix: Prefix of the checkpoint's files.
    strategy: The devices.
    advice: Advice in the error about a checkpoint of another training.

  Raises:
    ValueError: The checkpoint lacks the state of the optimizer.
  """
  with strategy.scope():
    status = checkpoint.restore(literal_paths.prefix(prefix))
  try:
    status.assert_existing_objects_matched()
  except AssertionError:
    raise CheckpointError(
        f'{prefix} was written by a training with another optimizer, another '
        f'backbone_learning_rate_multiplier, another precision or without ema_decay; {advice} with '
        'this checkpoint as model_options.initial_checkpoint') from None
  # Silences warnings about values in the file that have no object, as slots of another optimizer.
  status.expect_partial()
