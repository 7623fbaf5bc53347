"""Precision of the layers that are created in a context."""

import contextlib
from typing import Iterator

from deeplab_tf.compat import keras


@contextlib.contextmanager
def policy(name: str) -> Iterator[None]:
  """Sets the Keras dtype policy of layers created inside the context.

  Args:
    name: 'float32', 'mixed_bfloat16' or 'mixed_float16'.
  """
  before = keras.mixed_precision.global_policy()
  keras.mixed_precision.set_global_policy(name)
  try:
    yield
  finally:
    keras.mixed_precision.set_global_policy(before)
