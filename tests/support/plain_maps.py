"""Plain numpy versions of operations on feature maps, in float64.

Maps are [batch, height, width, channels].
"""

import numpy as np

from deeplab_tf.compat import keras
from deeplab_tf.layers.variable_paths import variables_by_path


def randomize(layer: keras.layers.Layer, scale: float = 0.3) -> None:
  """Gives all variables random values, also those that start at 0; gammas are around 1."""
  random = np.random.default_rng(0)
  for path, variable in sorted(variables_by_path(layer).items()):
    value = scale * random.standard_normal(variable.shape)
    variable.assign(value + 1 if path.endswith(('gamma', 'fusion_weights')) else value)


def convolve(x: np.ndarray, kernel) -> np.ndarray:
  """Convolves with [size, size, in_channels, channels], with zeros around the map."""
  kernel = np.asarray(kernel, np.float64)
  size = len(kernel)
  padded = np.pad(x, [(0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)])
  height, width = x.shape[1:3]
  return sum(padded[:, i:i + height, j:j + width] @ kernel[i, j]
             for i in range(size) for j in range(size))


def normalize(x: np.ndarray, norm, groups: int = 32) -> np.ndarray:
  """Group norm with the gamma and beta of a layer."""
  grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
  centered = grouped - grouped.mean((1, 3), keepdims=True)
  scale = 1 / np.sqrt((centered**2).mean((1, 3), keepdims=True) + 1e-5)
  return (centered * scale).reshape(x.shape) * norm.gamma.numpy() + norm.beta.numpy()


def block(layer, x: np.ndarray, activated: bool = False) -> np.ndarray:
  """A convolution of a layer with its bias or group norm, and ReLU."""
  assert (layer.bias is None) != (layer.norm is None)
  x = convolve(x, layer.kernel)
  x = normalize(x, layer.norm) if layer.bias is None else x + layer.bias.numpy()
  return np.maximum(x, 0) if activated else x


def nearest(x: np.ndarray, size) -> np.ndarray:
  """Resizes by copying position floor(i * source / target)."""
  rows, columns = ([i * n // m for i in range(m)] for n, m in zip(x.shape[1:3], size))
  return x[:, rows][:, :, columns]


def bilinear(x: np.ndarray, size) -> np.ndarray:
  """Resizes with half-pixel centers, one axis after the other."""
  for axis, target in zip((1, 2), size):
    source = x.shape[axis]
    positions = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.floor(positions).astype(int)
    share = (positions - below).reshape([-1] + [1] * (3 - axis))
    x = (np.take(x, below, axis) * (1 - share)
         + np.take(x, np.minimum(below + 1, source - 1), axis) * share)
  return x
