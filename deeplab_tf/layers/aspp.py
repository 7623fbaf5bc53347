"""Atrous spatial pyramid pooling."""

import contextlib
from typing import Iterator, Optional, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.convolution import Convolution, convolution_block
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions, scaled_size

_DROPOUT = 0.1


class ASPP(keras.layers.Layer):
  """A 1x1 convolution, dilated 3x3 convolutions and image pooling; concatenated and projected."""

  def __init__(self, *, in_channels: int, channels: int, rates: Sequence[int], norm: NormFactory,
               pool_size: Optional[Sequence[int]] = None, only_projection: bool = False,
               convolution: str = 'standard_conv', activation: str = 'relu'):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels of each branch and of the output.
      rates: Dilations of the 3x3 convolutions.
      norm: Factory of the batch norms.
      pool_size: Height and width of the pooling window, which slides with stride 1 over larger
        inputs; None pools over the whole input. DeepLab2 pools over the size of the training
        crop's feature also at inference.
      only_projection: Whether the layer is a 1x1 convolution and nothing else.
      convolution: Kind of the dilated convolutions, see convolution_block.
      activation: Name of the activation of all convolutions.
    """
    super().__init__()
    self.pool_size = pool_size
    self.only_projection = only_projection
    if only_projection:
      self.projection = Convolution(in_channels, channels, norm=norm, activation=activation)
      return
    self.branches = [Convolution(in_channels, channels, norm=norm, activation=activation)] + [
        convolution_block(convolution, in_channels, channels, 3, norm=norm, rate=rate,
                          activation=activation)
        for rate in rates
    ]
    self.pool = Convolution(in_channels, channels, norm=norm, activation=activation)
    self.projection = Convolution((2 + len(rates)) * channels, channels, norm=norm,
                                  activation=activation)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, height, width, channels]."""
    if self.only_projection:
      return self.projection(x, training=training)
    _, height, width, _ = dimensions(x)
    outputs = [branch(x, training=training) for branch in self.branches]
    pooled = self.pool(self._average(x), training=training)
    outputs.append(resize_bilinear(pooled, (height, width)))
    y = self.projection(tf.concat(outputs, axis=-1), training=training)
    if training:
      mask = tf.cast(randomness.uniform(dimensions(y)) >= _DROPOUT, y.dtype)
      y = y * mask / (1 - _DROPOUT)
    return y

  def _average(self, x: tf.Tensor) -> tf.Tensor:
    height, width = x.shape[1:3]
    if self.pool_size is None or height is None or width is None:
      return tf.reduce_mean(x, [1, 2], keepdims=True)
    # DeepLab2 fails where the input is smaller than the window; we shrink the window.
    window = (min(height, self.pool_size[0]), min(width, self.pool_size[1]))
    if window == (height, width):
      return tf.reduce_mean(x, [1, 2], keepdims=True)
    return tf.nn.avg_pool2d(x, window, 1, 'VALID')


@contextlib.contextmanager
def scaled_pooling(model: tf.Module, scale: float) -> Iterator[None]:
  """Scales the pooling windows of a model's ASPP layers while it is called.

  Args:
    model: Model with any number of ASPP layers.
    scale: Size of the model's input, relative to the size that the windows are for.
  """
  layers = [m for m in model.submodules if isinstance(m, ASPP) and m.pool_size is not None]
  before = [layer.pool_size for layer in layers]
  try:
    for layer, size in zip(layers, before):
      layer.pool_size = tuple(scaled_size(n, scale) for n in size)
    yield
  finally:
    for layer, size in zip(layers, before):
      layer.pool_size = size
