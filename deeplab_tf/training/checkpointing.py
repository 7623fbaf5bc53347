"""The checkpoints of a model directory, and the weights that a new run starts from."""

import glob
import os
import pathlib
from typing import Mapping, Optional

import tensorflow as tf

from deeplab_tf import config as config_lib

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
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


def find_checkpoint(path: str) -> str:
  """Returns the prefix of a checkpoint.

  Args:
    path: A prefix, one of the files of a checkpoint, or a directory, which means its latest.

  Raises:
    FileNotFoundError: There is none.
  """
  if os.path.isdir(path):
    latest = tf.train.latest_checkpoint(path)
    if latest is None:
      raise FileNotFoundError(f'{path}: holds no checkpoint; give a folder that training wrote '
                              'to, or a prefix such as .../ckpt-1000')
    return latest
  prefix = path[:-len('.index')] if path.endswith('.index') else path.split('.data-')[0]
  if not os.path.exists(prefix + '.index'):
    near = sorted(p[:-len('.index')] for p in glob.glob(glob.escape(prefix) + '*.index'))
    hint = f' Did you mean {near[-1]}?' if near else ''
    raise FileNotFoundError(f'{path}: no such checkpoint; give a folder that training wrote to, '
                            f'or a prefix such as .../ckpt-1000.{hint}')
  return prefix


def variables_by_path(root) -> dict:
  """Returns the variables below an object by their path in the object graph.

  The path is what a checkpoint calls a variable that is reached by it first, breadth first.
  """
  view = tf.train.TrackableView(root)
  found, seen = {}, {id(root)}
  level = [('', root)]
  while level:
    below = []
    for path, node in level:
      for name, child in view.children(node).items():
        if id(child) in seen:
          continue
        seen.add(id(child))
        step = name.replace('.', '..').replace('/', '.S')
        child_path = f'{path}/{step}' if path else step
        if isinstance(child, tf.Variable):
          found[child_path] = child
        below.append((child_path, child))
    level = below
  return found


def shapes_in_file(prefix: str) -> dict:
  """Returns path -> shape (a list) of the variables in a checkpoint, without optimiser slots."""
  shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
  return {name[:-len(_SUFFIX)]: shape for name, shape in shapes.items()
          if name.endswith(_SUFFIX) and '.OPTIMIZER_SLOT' not in name}


def check_same_model(model: tf.keras.Model, prefix: str) -> None:
  """Checks that a checkpoint holds the variables of a model, no more, no fewer.

  Raises:
    ValueError: It is another model's; the first differences are listed.
  """
  own = {path: list(variable.shape) for path, variable in variables_by_path(model).items()}
  saved = {name[len('model/'):]: list(shape) for name, shape in shapes_in_file(prefix).items()
           if name.startswith('model/')}
  differences = [f'{name} is {saved[name]} there and {own[name]} in the config'
                 for name in sorted(own) if name in saved and saved[name] != own[name]]
  differences += [f'{name} is not there' for name in sorted(own) if name not in saved]
  differences += [f'{name} is only there' for name in sorted(saved) if name not in own]
  if differences:
    more = len(differences) - _LISTED
    raise ValueError(
        f'{os.path.dirname(prefix)} holds a checkpoint ({os.path.basename(prefix)}) of another '
        f'model: {"; ".join(differences[:_LISTED])}'
        + (f'; and {more} more differences' if more > 0 else '')
        + '. Use the config that made it, or another --model_dir')


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
  prefix = find_checkpoint(path)
  shapes = shapes_in_file(prefix)
  reader = tf.train.load_checkpoint(prefix)
  variables = variables_by_path(model)
  matched = [name for name, variable in variables.items()
             if list(shapes.get(f'model/{name}', ())) == list(variable.shape)
             and f'model/{name}' in shapes]
  if not matched:
    raise ValueError(f'model_options.initial_checkpoint: nothing in {prefix} matches this '
                     f'model by name and shape; give a checkpoint of this library, or clear '
                     f'it with {_CLEAR}')
  for name in matched:
    variables[name].assign(reader.get_tensor(f'model/{name}{_SUFFIX}'))
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
