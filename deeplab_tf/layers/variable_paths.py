"""Names the variables of a model by the attributes that lead to them."""

from typing import Iterable, Iterator, Optional, Union

import tensorflow as tf

from deeplab_tf.compat import keras


def variables_by_path(model: keras.layers.Layer) -> dict[str, tf.Variable]:
  """Returns every variable of a model by its path, e.g. 'backbone/stages/0/blocks/1/conv1/kernel'.

  A path consists of the attribute names and list indices from the model to the variable; of several
  paths it is the shortest. Checkpoints use it as the variable's name, below the model's own name.
  """
  return {path: variable for path, variable, _ in _walk(model)}


def owners_by_path(model: keras.layers.Layer) -> dict[str, Optional[tf.Module]]:
  """Returns the layer that each variable belongs to, by the variable's path."""
  return {path: owner for path, _, owner in _walk(model)}


def paths_of(model: keras.layers.Layer,
             parts: Iterable[Union[keras.layers.Layer, tf.Variable]]) -> list[str]:
  """Returns the paths of the variables of some layers, and of single variables, of a model."""
  wanted = {id(variable) for part in parts for _, variable, _ in _walk(part)}
  return [path for path, variable, _ in _walk(model) if id(variable) in wanted]


def _walk(model) -> Iterator[tuple[str, tf.Variable, Optional[tf.Module]]]:
  """Yields each variable below a model with its path and its layer, the shortest paths first."""
  view = tf.train.TrackableView(model)
  seen, queue = {id(model)}, [('', model, None)]
  for path, node, owner in queue:
    if isinstance(node, tf.Variable):
      yield path, node, owner
    if isinstance(node, tf.Module):
      owner = node
    for name, child in view.children(node).items():
      if id(child) not in seen:
        seen.add(id(child))
        step = escape(name)
        queue.append((f'{path}/{step}' if path else step, child, owner))


def escape(name: str) -> str:
  """Writes the name of an attribute or an item as checkpoints do, in which '/' separates names."""
  return name.replace('.', '..').replace('/', '.S')
