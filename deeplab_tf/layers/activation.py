"""Activation functions by name."""

from typing import Callable

import tensorflow as tf

from deeplab_tf.user_errors import ConfigError


def _hard_sigmoid(x):
  return tf.nn.relu6(x + 3.0) / 6.0


_FUNCTIONS = {
    'relu': tf.nn.relu,
    'swish': tf.nn.silu,
    'silu': tf.nn.silu,
    'gelu': tf.nn.gelu,
    'elu': tf.nn.elu,
    'relu6': tf.nn.relu6,
    'hard_sigmoid': _hard_sigmoid,
    'none': tf.identity,
}


def by_name(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns an activation function.

  Raises:
    ValueError: The name is unknown; the message lists the known ones.
  """
  if name not in _FUNCTIONS:
    raise ConfigError(f'unknown activation "{name}": allowed are {", ".join(_FUNCTIONS)}')
  return _FUNCTIONS[name]
