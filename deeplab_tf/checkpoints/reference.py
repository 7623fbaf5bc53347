"""Sets a model's variables from the weights of the program that it reproduces."""

from typing import Mapping

import numpy as np
import tensorflow as tf

from deeplab_tf import modules
from deeplab_tf.checkpoints.paths import variables_by_path

_MOST_NAMES = 10


def load_reference_weights(model: tf.keras.Model, source: str,
                           weights: Mapping[str, np.ndarray]) -> None:
  """Sets every variable of a model.

  Args:
    model: A model of deeplab_tf.
    source: Where the weights come from: 'deeplab2'.
    weights: The reference's own names to arrays, in its own shapes. Optimiser slots and counters
      are skipped.

  Raises:
    ValueError: The source is unknown, or a weight is missing, unknown or of the wrong shape; the
      message lists them, and no variable has changed.
  """
  sources = [n[len('from_'):] for n in modules.available('checkpoints') if n.startswith('from_')]
  if source not in sources:
    raise ValueError(f'unknown source "{source}": allowed are {", ".join(sources)}')
  reference = modules.load('checkpoints', f'from_{source}')
  weights = reference.normalize_names(weights)
  values, missing, wrong, used = {}, [], [], set()
  for path, variable in variables_by_path(model).items():
    candidates = reference.keys(path, model)
    name = next((key for key in candidates if key in weights), None)
    if name is None:
      missing.append(f'{candidates[0]} (for {path})')
      continue
    used.add(name)
    value = reference.convert(path, np.asarray(weights[name]), model)
    if _squeezed(value.shape) != _squeezed(variable.shape):
      wrong.append(f'{name}: {list(value.shape)} instead of {list(variable.shape)} (for {path})')
      continue
    values[path] = value
  unknown = [name for name in weights if name not in used]
  problems = [f'{len(names)} {kind}: {_shortened(names)}' for kind, names in
              (('missing', missing), ('unknown', unknown), ('of the wrong shape', wrong)) if names]
  if problems:
    raise ValueError(f'the {source} weights do not fit the model: ' + '; '.join(problems))
  for path, variable in variables_by_path(model).items():
    variable.assign(np.reshape(values[path], variable.shape))


def _squeezed(shape) -> list[int]:
  return [n for n in shape if n != 1]


def _shortened(names: list[str]) -> str:
  more = len(names) - _MOST_NAMES
  return ', '.join(names[:_MOST_NAMES]) + (f' and {more} more' if more > 0 else '')
