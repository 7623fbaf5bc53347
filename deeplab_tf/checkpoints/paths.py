"""Names the variables of a model by the attributes that lead to them."""

import tensorflow as tf


def variables_by_path(model: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
  """Returns every variable of a model by its path, e.g. 'backbone/stages/0/blocks/1/conv1/kernel'.

  A path is the attribute names from the model to the variable, list positions included; it does
  not depend on the order of construction.
  """
  found: dict[str, tf.Variable] = {}
  seen: set[int] = set()
  _walk(model, '', found, seen)
  return found


def _walk(value, path: str, found: dict, seen: set) -> None:
  if isinstance(value, tf.Variable):
    if id(value) not in seen:
      seen.add(id(value))
      found[path] = value
  elif isinstance(value, tf.keras.layers.Layer):
    if id(value) not in seen:
      seen.add(id(value))
      for name, child in vars(value).items():
        if not name.startswith('_'):
          _walk(child, f'{path}/{name}' if path else name, found, seen)
  elif isinstance(value, (list, tuple)):
    for index, child in enumerate(value):
      _walk(child, f'{path}/{index}', found, seen)
