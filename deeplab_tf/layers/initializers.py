"""Initializers that Keras does not name: those of PyTorch's modules and of Detectron2.

Each function returns a new initializer, since one that is shared by two variables would give both
the same numbers.
"""

from deeplab_tf.compat import keras


def torch_linear_kernel() -> keras.initializers.Initializer:
  """Returns the initializer of the kernel of PyTorch's linear layer.

  Values are uniform in +-1 / sqrt(fan_in).
  """
  return keras.initializers.VarianceScaling(1 / 3, 'fan_in', 'uniform')


def torch_linear_bias(in_channels: int) -> keras.initializers.Initializer:
  """Returns the initializer of the bias of PyTorch's linear layer.

  Args:
    in_channels: Number of input channels of the layer; values are uniform in
      +-1 / sqrt(in_channels).
  """
  bound = in_channels**-0.5
  return keras.initializers.RandomUniform(-bound, bound)


def joint_xavier(parts: int) -> keras.initializers.Initializer:
  """Returns the initializer of one of several square kernels that PyTorch keeps in one matrix.

  PyTorch's attention has one matrix [3 channels, channels] for query, key and value, so that
  Xavier's bound is sqrt(6 / (4 channels)) instead of sqrt(6 / (2 channels)).

  Args:
    parts: Number of kernels in the matrix, 3 for query, key and value.
  """
  return keras.initializers.VarianceScaling(2 / (parts + 1), 'fan_avg', 'uniform')


def caffe2_xavier() -> keras.initializers.Initializer:
  """Returns Detectron2's initializer of convolutions: uniform in +-sqrt(3 / fan_in)."""
  return keras.initializers.VarianceScaling(1.0, 'fan_in', 'uniform')
