"""Names the variables of a model by the attributes that lead to them."""

import tensorflow as tf


def variables_by_path(model: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
  """Returns every variable of a model by its path, e.g. 'backbone/stages/0/blocks/1/conv1/kernel'.

  A path is the attribute names from the model to the variable, list positions included, and of
  several the shortest. It is what a checkpoint calls the variable, below the model's own name.
  """
  view = tf.train.TrackableView(model)
  found, seen, queue = {}, {id(model)}, [('', model)]
  for path, node in queue:
    if isinstance(node, tf.Variable):
      found[path] = node
    for name, child in view.children(node).items():
      if id(child) not in seen:
        seen.add(id(child))
        # As checkpoints escape names.
        step = name.replace('.', '..').replace('/', '.S')
        queue.append((f'{path}/{step}' if path else step, child))
  return found
