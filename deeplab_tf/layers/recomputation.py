"""Recomputes activations in the backward pass instead of keeping them: less memory, more work.

Inside of `recompute` only the inputs are kept (Chen et al., "Training deep nets with
sublinear memory cost", 2016). The second run repeats the first: stochastic layers draw the same
numbers, and batch norms do not record their statistics again.
"""

import re
from typing import Any, Callable, Optional

import tensorflow as tf

from deeplab_tf.layers import normalization, randomness

# The name scope of recomputed operations; graphs number scopes of the same name.
_SCOPE = 'recomputed'
_REGION = re.compile(rf'^(.*?\b{_SCOPE}(_\d+)?)/')


def region(operation: tf.Operation) -> Optional[str]:
  """Returns the name of the call of `recompute` that an operation of a graph is in, or None."""
  match = _REGION.match(operation.name)
  return match and match[1]


def recompute(function: Callable, *inputs: Any) -> Any:
  """Returns function(*inputs), whose activations are not kept for its gradient.

  Args:
    function: Function that calls layers; it is called again for the gradient.
    *inputs: Arguments of the function, which are kept: float tensors, and tuples, NamedTuples or
      dictionaries of them; None where there is no tensor.

  Returns:
    The result of the function, a structure of the same kinds.
  """
  replay = randomness.Replay()
  # tf.recompute_grad takes only flat arguments and results. Nothing here may hold a run's tensor.
  arguments = _packer(inputs)
  pack_result = None

  def run(*tensors):
    nonlocal pack_result
    with replay.run() as is_first, normalization.recording(is_first), tf.name_scope(_SCOPE):
      result = function(*arguments(tensors))
    pack_result = _packer(result)
    return tuple(_tensors_in(result))

  tensors = tf.recompute_grad(run)(*_tensors_in(inputs))
  return pack_result(tensors)


def _tensors_in(structure) -> list[tf.Tensor]:
  return [x for x in tf.nest.flatten(structure) if x is not None]


def _packer(structure):
  """Returns the function from tensors to a structure of this form; None stays."""
  is_tensor = tf.nest.map_structure(lambda x: x is not None, structure)

  def pack(tensors):
    tensors = iter(tensors)
    return tf.nest.map_structure(lambda there: next(tensors) if there else None, is_tensor)

  return pack
