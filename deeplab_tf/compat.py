"""Everything that depends on the version of TensorFlow.

  from deeplab_tf.compat import keras

The library is written for Keras 2. TensorFlow has it as `tf.keras` up to 2.15; from 2.16 on that is
Keras 3, and Keras 2 is the package tf_keras. Because of this explicit import,
the user's own code can work with either.
"""

import types

import tensorflow as tf

from deeplab_tf.user_errors import HostError


def find_keras(tensorflow_version: str) -> types.ModuleType:
  """Returns Keras 2 for a version of TensorFlow, e.g. '2.15.1'.

  Raises:
    HostError: Keras 2 is a package of its own for this version, and it is not installed.
  """
  major, minor = (int(part) for part in tensorflow_version.split('.')[:2])
  if (major, minor) < (2, 16):
    return tf.keras
  try:
    import tf_keras
  except ImportError:
    raise HostError(f'TensorFlow {tensorflow_version} has Keras 3 and this library needs Keras 2: '
                    f'install the package tf_keras~={major}.{minor}.0') from None
  return tf_keras


keras = find_keras(tf.__version__)
