"""Initializes a model from a checkpoint that fits it only in part, and reports the result.

A layer may have a method `fit_saved_value(variable, value)`, which returns a value of another
shape in the shape of its variable, or None if it cannot. This adapts tables of positions to
another image size. A model may have a method `initial_checkpoint_path(path)`, which returns where
another model's checkpoint has a variable that it lacks under its own path.
"""

import collections
import math
from typing import Collection, Mapping, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import restore
from deeplab_tf.compat import keras
from deeplab_tf.layers import variable_paths

# Number of names that the table lists for each part of a model.
_LISTED = 3

_RESTORED = 'restored'
_FITTED = 'fitted'
_OTHER_SHAPE = 'of another shape, as initialized'
_MISSING = 'not in the checkpoint, as initialized'
_LEFT_OUT = 'left out on request, as initialized'
_UNUSED = 'only in the checkpoint, unused'
# What becomes of a variable, in the order of the table.
_FATES = (_RESTORED, _FITTED, _OTHER_SHAPE, _MISSING, _LEFT_OUT, _UNUSED)

# Prefixes of names in other programs' checkpoints, and advice.
_FOREIGN = (
    ('backbone/_encoder/', 'it looks like an encoder of the TensorFlow Model Garden: convert it '
     'with trainer/convert_checkpoint.py and a classification config first'),
    (('encoder/', 'model/_encoder/', 'model/encoder/'),
     'it looks like one of DeepLab2: convert it with trainer/convert_checkpoint.py first'),
)


class NothingMatches(ValueError):
  """A checkpoint has no variable of a model."""


class _Entry(NamedTuple):
  """What becomes of a variable, and its shape in checkpoint and model; None: it is not there."""
  fate: str
  saved: Optional[list[int]]
  own: Optional[list[int]]

  @property
  def size(self) -> int:
    return math.prod(self.saved if self.own is None else self.own)


def restore_matching(model: keras.Model, prefix: str,
                     skip: Collection[str] = ()) -> list[str]:
  """Sets those variables of a model that a checkpoint has.

  Variables of another shape are set if their layer can fit the saved value. Averages in the
  checkpoint are taken in place of the weights.

  Args:
    model: A model whose variables exist.
    prefix: Prefix of a checkpoint of this library; it may be another model's.
    skip: Paths of variables to leave as they are; see variable_paths.paths_of.

  Returns:
    Lines for the user: a table of what was restored and what was not.

  Raises:
    NothingMatches: No variable fits, and none has changed; the message gives advice.
    ValueError: The file is not a checkpoint, or is corrupt; no variable has changed.
  """
  variables = variable_paths.variables_by_path(model)
  saved = restore.shapes_in_checkpoint(prefix)
  sources = {path: _source(model, path, saved) for path in variables}
  table = _compare(variables, sources, saved, skip)
  read = [path for path, entry in table.items() if entry.fate in (_RESTORED, _OTHER_SHAPE)]
  found = restore.read_variables(prefix, list(dict.fromkeys(sources[path] for path in read)))
  values = {path: found[sources[path]] for path in read}
  owners = variable_paths.owners_by_path(model)
  for path in [path for path in read if table[path].fate == _OTHER_SHAPE]:
    fitted = _fit(owners[path], variables[path], values.pop(path))
    if fitted is not None:
      values[path] = fitted
      table[path] = table[path]._replace(fate=_FITTED)
  names = restore.names_in_checkpoint(prefix)
  if not values:
    raise NothingMatches(f'nothing in {prefix} matches this model by name and shape; '
                         + _advice(names))
  for path, value in values.items():
    variables[path].assign(value)
  averaged = len({restore.averaged_key(sources[path]) for path in values} & set(names))
  return [f'initial checkpoint: {len(values)} of {len(variables)} variables from {prefix}',
          *([f'  averages instead of weights: of {averaged} variables'] if averaged else []),
          *_lines(table)]


def _source(model, path: str, saved: Collection[str]) -> str:
  """Returns the path in the checkpoint that a variable is read from, if it is there."""
  if path in saved or not hasattr(model, 'initial_checkpoint_path'):
    return path
  return model.initial_checkpoint_path(path)


def _compare(variables, sources, saved, skip) -> dict[str, _Entry]:
  """Returns what becomes of each variable of the model and of the checkpoint, by path."""
  table = {}
  for path, variable in variables.items():
    own, there = variable.shape.as_list(), saved.get(sources[path])
    fate = _RESTORED if own == there else _OTHER_SHAPE
    if there is None:
      fate = _MISSING
    elif path in skip:
      fate = _LEFT_OUT
    table[path] = _Entry(fate, there, own)
  used = {*variables, *sources.values()}
  table.update((path, _Entry(_UNUSED, shape, None)) for path, shape in sorted(saved.items())
               if path not in used)
  return table


def _fit(owner, variable: tf.Variable, value: np.ndarray) -> Optional[np.ndarray]:
  if not hasattr(owner, 'fit_saved_value'):
    return None
  return owner.fit_saved_value(variable, value)


def _advice(names: list[str]) -> str:
  for starts, advice in _FOREIGN:
    if any(name.startswith(starts) for name in names):
      return advice
  return 'give a checkpoint of this library'


# === The table ===


def _lines(table: Mapping[str, _Entry]) -> list[str]:
  """Returns the table: counts by fate and by top-level part of the model, and some names."""
  parts = collections.defaultdict(set)
  for path, entry in table.items():
    parts[_part(path)].add(entry.fate)
  lines = []
  for fate in _FATES:
    entries = {path: entry for path, entry in table.items() if entry.fate == fate}
    if entries:
      lines.append(f'  {fate}: {_counts(entries)}')
    if len(entries) == len(table):  # All variables share one fate.
      break
    for part in dict.fromkeys(_part(path) for path in entries):
      members = {path: entry for path, entry in entries.items() if _part(path) == part}
      lines.append(f'    {part}: {_counts(members)}')
      # If a whole part shares one fate, its name is enough.
      if fate != _RESTORED and (len(parts[part]) > 1 or fate in (_FITTED, _OTHER_SHAPE)):
        lines += _listed(members)
  return lines


def _part(path: str) -> str:
  return path.split('/')[0]


def _counts(entries: Mapping[str, _Entry]) -> str:
  parameters = sum(entry.size for entry in entries.values())
  return (f'{len(entries):,} variable{"s" * (len(entries) != 1)}, '
          f'{parameters:,} parameter{"s" * (parameters != 1)}')


def _listed(entries: Mapping[str, _Entry]) -> list[str]:
  lines = []
  for path, entry in list(entries.items())[:_LISTED]:
    both = entry.saved is not None and entry.own is not None and entry.saved != entry.own
    lines.append(f'      {path}' + (f': {entry.saved} there, {entry.own} here' if both else ''))
  more = len(entries) - _LISTED
  return lines + ([f'      and {more} more'] if more > 0 else [])
