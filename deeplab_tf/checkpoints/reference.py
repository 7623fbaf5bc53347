"""Sets a model's variables from the weights of the program that it reproduces."""

import collections
from typing import Collection, Iterable, Mapping, NamedTuple, Optional, Protocol, Sequence

import numpy as np

from deeplab_tf import modules
from deeplab_tf.checkpoints.origins import Origin, Piece
from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.user_errors import CheckpointError

_MOST_NAMES = 10


class Reference(Protocol):
  """Interface of the modules from_SOURCE of this package, each for a program's checkpoints."""

  def weight_names(self, names: Iterable[str]) -> dict[str, str]:
    """Finds the weights among the names in a checkpoint.

    Args:
      names: All names in the checkpoint; counters and optimizer slots among them are left out.

    Returns:
      The names in the checkpoint -> those that `origins` uses.
    """

  def origins(self, path: str, model) -> Sequence[Origin]:
    """Returns the possible origins of the variable at a path: at least one, likeliest first."""

  def may_lack(self, path: str, names: Collection[str]) -> bool:
    """Returns whether a checkpoint with these weights need not have the variable at a path.

    Args:
      path: Path of the variable.
      names: Names of the weights, as `origins` uses them.
    """


class Account(NamedTuple):
  """Account of every weight of a reference, and of variables that it has no weight for.

  Attributes:
    used: Path of a variable -> the reference's names of the weights that it is made of.
    skipped: Names in the reference that are not weights of the model: counters, optimizer slots.
    initialized: Paths of variables that the reference lacks and may lack; they are unchanged.
  """
  used: dict[str, tuple[str, ...]]
  skipped: list[str]
  initialized: list[str]

  def lines(self) -> list[str]:
    """Returns lines for the user."""
    weights = len({name for names in self.used.values() for name in names})
    lines = [f'  {len(self.used)} variables from {weights} weights']
    if self.skipped:
      kinds = collections.Counter(_kind(name) for name in self.skipped)
      lines.append('  skipped, no weights of this model: ' + _shortened([
          name + (f' ({count})' if count > 1 else '') for name, count in kinds.items()]))
    if self.initialized:
      lines.append(f'  not in the checkpoint, as initialized: {self._initialized_parts()}')
    return lines

  def _initialized_parts(self) -> str:
    """Returns the variables that the reference lacks, by parts of the model if they are many."""
    if len(self.initialized) <= _MOST_NAMES:
      return _shortened(self.initialized)
    parts = collections.Counter(path.split('/')[0] for path in self.initialized)
    return ', '.join(f'{part} ({count} variables)' for part, count in parts.items())


def load_reference_weights(model: keras.Model, source: str,
                           weights: Mapping[str, np.ndarray]) -> Account:
  """Sets every variable of a model from the weights of a reference program.

  Args:
    model: A model of deeplab_tf.
    source: Program that the weights come from, e.g. 'deeplab2': a module from_SOURCE of this
      package.
    weights: Arrays by the reference's own names, in its own shapes. Optimizer slots and counters
      are skipped.

  Returns:
    Account of what became of each weight.

  Raises:
    ValueError: The source is unknown, or a weight is missing, unknown, duplicate, used twice or
      of the wrong shape; the message lists them, and no variable has changed.
  """
  sources = [n[len('from_'):] for n in modules.available('checkpoints') if n.startswith('from_')]
  if source not in sources:
    raise CheckpointError(f'unknown source "{source}": allowed are {", ".join(sources)}')
  return set_variables(model, modules.load('checkpoints', f'from_{source}'), weights, source)


def set_variables(model: keras.Model, reference: Reference, weights: Mapping[str, np.ndarray],
                  program: str) -> Account:
  """Sets every variable of a model by what a reference says about their origins.

  Each weight is used once: by one variable, or each of its parts by one.

  Args:
    model: A model or a layer.
    reference: Module, or other object, that knows the origins.
    weights: Arrays by the reference's own names.
    program: Name of the program that the weights come from, for errors.

  Returns:
    Account of what became of each weight.

  Raises:
    ValueError: A weight is missing, unknown, duplicate, used twice or of the wrong shape; the
      message lists them, and no variable has changed.
  """
  names = reference.weight_names(weights)
  tensors = {own: weights[name] for name, own in names.items()}
  variables = variables_by_path(model)
  origins, initialized, missing = {}, [], []
  for path in variables:
    candidates = reference.origins(path, model)
    origin = max(candidates, key=lambda c: sum(n in tensors for n in c.names) / len(c.names))
    absent = [n for n in origin.names if n not in tensors]
    if not absent:
      origins[path] = origin
    elif reference.may_lack(path, tensors.keys()):
      initialized.append(path)
    else:
      missing += [f'{n} (for {path})' for n in absent]
  values, wrong = {}, []
  for path, origin in origins.items():
    shape = list(variables[path].shape)
    values[path], found = _make(origin, tensors, shape)
    if found:
      wrong.append(f'{origin}: {found} instead of {shape} (for {path})')
  unused, used_twice = _accounted(origins)
  _check_fit(program, {
      'missing': missing, 'unknown': sorted([*set(tensors) - _names(origins), *unused]),
      'duplicate': _same(names), 'used twice': used_twice, 'of the wrong shape': wrong})
  for path, value in values.items():
    variables[path].assign(value)
  return Account({path: origin.names for path, origin in origins.items()},
                 sorted(set(weights) - set(names)), initialized)


def _make(origin: Origin, tensors: Mapping[str, np.ndarray],
          shape: Sequence[int]) -> tuple[Optional[np.ndarray], str]:
  """Returns a value in its variable's shape, and ''; or None and the shape that does not fit."""
  try:
    value = origin.value(tensors)
  except ValueError as error:
    return None, str(error)
  if _squeezed(value.shape) != _squeezed(shape):
    return None, str(list(value.shape))
  return np.reshape(value, shape), ''


def _kind(name: str) -> str:
  """Returns the part of a name that weights of the same kind have in common."""
  return '.'.join(step for step in name.split('/')[0].split('.') if not step.isdigit())


def _names(origins: Mapping[str, Origin]) -> set[str]:
  return {name for origin in origins.values() for name in origin.names}


def _same(names: Mapping[str, str]) -> list[str]:
  """Returns the names of the checkpoint that mean the same weight."""
  originals = collections.defaultdict(list)
  for name, own in names.items():
    originals[own].append(name)
  return [' and '.join(found) for found in originals.values() if len(found) > 1]


def _accounted(origins: Mapping[str, Origin]) -> tuple[list[str], list[str]]:
  """Returns the parts of tensors that no variable uses, and the tensors that are used twice."""
  uses = collections.defaultdict(list)
  for path, origin in origins.items():
    for piece in origin.pieces:
      uses[piece.name].append((piece, path))
  unused, twice = [], []
  for name, users in uses.items():
    pieces, count = {piece for piece, _ in users}, users[0][0].count
    if len(pieces) < len(users) or any(piece.count != count for piece in pieces):
      twice.append(f'{name} (for {", ".join(dict.fromkeys(path for _, path in users))})')
    else:
      unused += [str(piece) for piece in (Piece(name, i, count) for i in range(count))
                 if piece not in pieces]
  return unused, twice


def _check_fit(program: str, problems: Mapping[str, Sequence[str]]) -> None:
  lines = [f'{len(found)} {kind}: {_shortened(found)}' for kind, found in problems.items() if found]
  if lines:
    raise CheckpointError(f'the {program} weights do not fit the model: ' + '; '.join(lines))


def _squeezed(shape: Sequence[int]) -> list[int]:
  return [n for n in shape if n != 1]


def _shortened(names: Sequence[str]) -> str:
  more = len(names) - _MOST_NAMES
  return ', '.join(names[:_MOST_NAMES]) + (f' and {more} more' if more > 0 else '')
