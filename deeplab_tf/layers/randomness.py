"""Random numbers of stochastic layers as a pure function of a seed.

A train step opens `seeded(seed)` with a seed made of the run's seed, the step and the replica;
inside, each call of `uniform` draws from its own stream. So the same step gives the same
numbers after a restart, with and without XLA, and no variable has to be saved. Outside of
`seeded` the numbers come from TensorFlow's global generator.
"""

import contextlib
from typing import Iterator, Optional, Sequence

import tensorflow as tf


class _Stream:

  def __init__(self, seed: tf.Tensor):
    self.seed = seed
    self.count = 0


_current: Optional[_Stream] = None


@contextlib.contextmanager
def seeded(seed: tf.Tensor) -> Iterator[None]:
  """Makes `uniform` a function of a seed, int32 or int64 [2], while the context is open."""
  global _current
  previous, _current = _current, _Stream(tf.cast(seed, tf.int32))
  try:
    yield
  finally:
    _current = previous


def uniform(shape: Sequence[int]) -> tf.Tensor:
  """Returns float32 numbers in [0, 1) of the given shape."""
  if _current is None:
    return tf.random.uniform(shape)
  _current.count += 1
  seed = tf.stack([_current.seed[0], _current.seed[1] * 1009 + _current.count])
  return tf.random.stateless_uniform(shape, seed)
