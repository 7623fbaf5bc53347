"""Recomputes activations in the backward pass instead of keeping them: less memory, more work.

Of what runs inside of `recompute` only the inputs are kept (Chen et al., "Training deep nets with
sublinear memory cost", 2016). The second run repeats the first: stochastic layers draw the same
numbers, and batch norms do not record their statistics once more.
"""

import re
from typing import Callable, Optional

import tensorflow as tf

from deeplab_tf.layers import normalization, randomness

# The name scope of what is recomputed; graphs number scopes of one name.
_SCOPE = 'recomputed'
_REGION = re.compile(rf'^(.*?\b{_SCOPE}(_\d+)?)/')


def region(operation: tf.Operation) -> Optional[str]:
  """Returns the name of the call of `recompute` that an operation of a graph is in, or None."""
  match = _REGION.match(operation.name)
  return match and match[1]


def recompute(function: Callable, *inputs: tf.Tensor):
  """Returns function(*inputs), whose activations are not kept for its gradient.

  Args:
    function: Of tensors, which calls layers. It is called again for the gradient.
    *inputs: Its arguments, which are kept.

  Returns:
    What the function returns, a tensor or a tuple of tensors.
  """
  replay = randomness.Replay()

  def run(*arguments):
    with replay.run() as is_first, normalization.recording(is_first), tf.name_scope(_SCOPE):
      return function(*arguments)

  return tf.recompute_grad(run)(*inputs)
