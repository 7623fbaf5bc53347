"""Sets a model's variables from the weights of the program that it reproduces."""

import collections
from typing import Mapping, NamedTuple, Sequence

import numpy as np

from deeplab_tf import modules
from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.user_errors import CheckpointError

_MOST_NAMES = 10


class Account(NamedTuple):
  """What became of every weight of a reference, and of variables that it has no weight for.

  Attributes:
    used: Path of a variable -> the reference's name of its weight.
    skipped: Names in the reference that are no weights of the model: counters, optimiser slots.
    initialised: Paths of variables that the reference cannot have, and that stay as they were.
  """
  used: dict[str, str]
  skipped: list[str]
  initialised: list[str]

  def lines(self) -> list[str]:
    """Returns lines for the user."""
    weights = len(set(self.used.values()))
    lines = [f'  {len(self.used)} variables from {weights} weights']
    if self.skipped:
      kinds = collections.Counter(name.split('/')[0] for name in self.skipped)
      lines.append('  skipped, no weights of this model: ' + ', '.join(
          name + (f' ({count})' if count > 1 else '') for name, count in kinds.items()))
    if self.initialised:
      lines.append(f'  not in the checkpoint, as initialised: {_shortened(self.initialised)}')
    return lines


def load_reference_weights(model: keras.Model, source: str,
                           weights: Mapping[str, np.ndarray]) -> Account:
  """Sets every variable of a model.

  Args:
    model: A model of deeplab_tf.
    source: Where the weights come from, e.g. 'deeplab2': a module from_SOURCE of this package.
    weights: The reference's own names to arrays, in its own shapes. Optimiser slots and counters
      are skipped.

  Returns:
    What became of each weight.

  Raises:
    ValueError: The source is unknown, or a weight is missing, unknown or of the wrong shape; the
      message lists them, and no variable has changed.
  """
  sources = [n[len('from_'):] for n in modules.available('checkpoints') if n.startswith('from_')]
  if source not in sources:
    raise CheckpointError(f'unknown source "{source}": allowed are {", ".join(sources)}')
  reference = modules.load('checkpoints', f'from_{source}')
  names = reference.weight_names(weights)
  variables = variables_by_path(model)
  account = Account({}, sorted(set(weights) - set(names.values())), [])
  values, missing, wrong = {}, [], []
  for path, variable in variables.items():
    candidates = reference.keys(path, model)
    name = next((key for key in candidates if key in names), None)
    if name is not None:
      account.used[path] = name
      values[path] = reference.convert(path, np.asarray(weights[names[name]]), model)
      shape = values[path].shape
      if _squeezed(shape) != _squeezed(variable.shape):
        wrong.append(f'{name}: {list(shape)} instead of {list(variable.shape)} (for {path})')
    elif reference.may_lack(path):
      account.initialised.append(path)
    else:
      missing.append(f'{candidates[0]} (for {path})')
  unknown = sorted(set(names) - set(account.used.values()))
  _check_fit(source, missing, unknown, wrong)
  for path, value in values.items():
    variables[path].assign(np.reshape(value, variables[path].shape))
  return account


def _check_fit(source: str, missing: Sequence[str], unknown: Sequence[str],
               wrong: Sequence[str]) -> None:
  problems = [f'{len(names)} {kind}: {_shortened(names)}' for kind, names in
              (('missing', missing), ('unknown', unknown), ('of the wrong shape', wrong)) if names]
  if problems:
    raise CheckpointError(f'the {source} weights do not fit the model: ' + '; '.join(problems))


def _squeezed(shape) -> list[int]:
  return [n for n in shape if n != 1]


def _shortened(names: list[str]) -> str:
  more = len(names) - _MOST_NAMES
  return ', '.join(names[:_MOST_NAMES]) + (f' and {more} more' if more > 0 else '')
