"""Convolutions with their normalization and activation.

All variables exist from the constructor on, so a model is complete without a forward pass.
Strided convolutions pad explicitly and symmetrically (as in DeepLab2): for a 3x3 convolution of
stride 2, one row of zeros above and one below, whatever the input size.
"""

from typing import Callable, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers.dilation import convolve
from deeplab_tf.layers.normalization import BatchNorm, NormFactory
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.user_errors import ConfigError

HE_NORMAL = keras.initializers.HeNormal


class _LinearLayer(keras.layers.Layer):
  """Base class of layers with a kernel, then a norm or a bias, then an activation."""

  def _make(self, kernel_shape, norm, activation, kernel_initializer, zero_gamma,
            bias_initializer='zeros'):
    """Creates the variables; the last axis of the kernel is the output's channels."""
    self.kernel = self.add_weight('kernel', kernel_shape,
                                  initializer=kernel_initializer or HE_NORMAL())
    self._make_end(kernel_shape[-1], norm, activation, zero_gamma, bias_initializer)

  def _make_end(self, channels, norm, activation, zero_gamma=False, bias_initializer='zeros'):
    """Creates what follows the kernel; without a norm and an initializer there is no bias."""
    self.activation = activation_lib.by_name(activation)
    self.bias = None
    self.norm = None
    if norm is not None:
      self.norm = norm(channels, gamma_initializer='zeros' if zero_gamma else 'ones')
    elif bias_initializer is not None:
      self.bias = self.add_weight('bias', (channels,), initializer=bias_initializer)

  def fold_norms(self) -> None:
    """Folds a batch norm into the kernel and a bias; see folding.fold_norms."""
    # Norms of other kinds depend on their input at inference too.
    if isinstance(self.norm, BatchNorm):
      norm, self.norm = self.norm, None
      self.absorb(*norm.inference_affine())

  def absorb(self, scale: np.ndarray, offset: np.ndarray) -> None:
    """Applies a scale and an offset to the layer's output before the activation.

    Args:
      scale: float64 [channels].
      offset: float64 [channels].
    """
    self.fold_norms()
    self._scale_kernel(scale)
    if self.bias is None:
      self.bias = folded_weight(self, 'bias', offset)
    else:
      self.bias.assign(self.bias.numpy() * scale + offset)

  def _scale_kernel(self, scale):
    self.kernel.assign(self.kernel.numpy() * scale)

  def _finish(self, x, training):
    """Applies the bias or norm, and the activation."""
    if self.bias is not None:
      x = add_bias(x, self.bias)
    if self.norm is not None:
      x = self.norm(x, training=training)
    return self.activation(x)


def folded_weight(layer: keras.layers.Layer, name: str, value: np.ndarray) -> tf.Variable:
  """Creates a layer's variable in place of a batch norm; float32 in every precision."""
  return layer.add_weight(name, value.shape, tf.float32, trainable=False,
                          initializer=keras.initializers.Constant(value),
                          experimental_autocast=False)


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
  """Adds a bias to the last axis, in the bias's precision."""
  bias = tf.convert_to_tensor(bias)
  if bias.dtype == x.dtype:
    return tf.nn.bias_add(x, bias)
  return tf.cast(tf.nn.bias_add(tf.cast(x, bias.dtype), bias), x.dtype)


class Convolution(_LinearLayer):
  """Convolution, batch norm, activation.

  Attributes:
    channels: Channels of the output.
    kernel: float32 [size, size, in_channels, channels].
    bias: float32 [channels], or None.
    norm: BatchNorm, or None.
  """

  def __init__(self,
               in_channels: int,
               channels: int,
               kernel_size: int = 1,
               *, stride: int = 1,
               rate: int = 1,
               norm: Optional[NormFactory] = None,
               activation: str = 'none',
               kernel_initializer: Optional[keras.initializers.Initializer] = None,
               zero_gamma: bool = False):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      channels: Channels of the output.
      kernel_size: Height and width of the kernel.
      stride: Stride in pixels.
      rate: Dilation.
      norm: Factory of the norm; None: a bias instead.
      activation: Name of the activation.
      kernel_initializer: Initializer of the kernel; default: HeNormal.
      zero_gamma: Whether the norm's gamma starts at 0, for the end of residual branches.
    """
    super().__init__()
    self.channels, self.stride, self.rate = channels, stride, rate
    self._make((kernel_size, kernel_size, in_channels, channels), norm, activation,
               kernel_initializer, zero_gamma)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, h, w, channels]."""
    x = convolve(x, tf.cast(self.kernel, x.dtype), self.stride, self.rate)
    return self._finish(x, training)


class DepthwiseConvolution(_LinearLayer):
  """Depthwise convolution of stride 1, norm, activation.

  Attributes:
    depthwise_kernel: float32 [size, size, in_channels, 1].
    norm: The norm; None if there is none or it is folded.
    bias: float32 [in_channels] once the norm is folded, else None.
  """

  def __init__(self, in_channels: int, kernel_size: int, *, norm: Optional[NormFactory],
               activation: str = 'none', rate: int = 1):
    """Initializes the layer; without a norm it has no bias either. See Convolution."""
    super().__init__()
    self.rate = rate
    self.depthwise_kernel = self.add_weight('depthwise_kernel',
                                            (kernel_size, kernel_size, in_channels, 1),
                                            initializer='glorot_uniform')
    self._make_end(in_channels, norm, activation, bias_initializer=None)

  def _scale_kernel(self, scale):
    self.depthwise_kernel.assign(self.depthwise_kernel.numpy() * scale[:, None])

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to the same shape."""
    kernel = tf.cast(self.depthwise_kernel, x.dtype)
    x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], 'SAME', dilations=[self.rate] * 2)
    return self._finish(x, training)


class SeparableConvolution(keras.layers.Layer):
  """Depthwise convolution, then a 1x1 convolution, each with batch norm and activation."""

  def __init__(self, in_channels: int, channels: int, kernel_size: int, *, norm: NormFactory,
               activation: str = 'relu', rate: int = 1):
    super().__init__()
    self.depthwise = DepthwiseConvolution(in_channels, kernel_size, norm=norm,
                                          activation=activation, rate=rate)
    self.pointwise = Convolution(in_channels, channels, norm=norm, activation=activation)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, height, width, channels]."""
    return self.pointwise(self.depthwise(x, training=training), training=training)


def convolution_block(kind: str, in_channels: int, channels: int, kernel_size: int,
                      *, norm: NormFactory, rate: int = 1,
                      activation: str = 'relu') -> keras.layers.Layer:
  """Returns a convolution with norm and activation.

  Args:
    kind: 'depthwise_separable_conv' or 'standard_conv'.
    in_channels: Channels of the input.
    channels: Channels of the output.
    kernel_size: Height and width of the kernel.
    norm: Factory of the norms.
    rate: Dilation.
    activation: Name of the activation.

  Raises:
    ValueError: The kind is unknown.
  """
  if kind == 'depthwise_separable_conv':
    return SeparableConvolution(in_channels, channels, kernel_size, norm=norm,
                                activation=activation, rate=rate)
  if kind == 'standard_conv':
    return Convolution(in_channels, channels, kernel_size, rate=rate, norm=norm,
                       activation=activation)
  raise ConfigError(f'unknown convolution "{kind}": allowed are depthwise_separable_conv, '
                    'standard_conv')


class Projection(_LinearLayer):
  """A linear map of the last axis, batch norm, activation: a 1x1 convolution of sequences.

  Attributes:
    kernel: float32 [in_channels, channels].
    bias: float32 [channels], or None.
    norm: BatchNorm, or None.
  """

  def __init__(self,
               in_channels: int,
               channels: int,
               norm: Optional[NormFactory] = None,
               activation: str = 'none',
               kernel_initializer: Optional[keras.initializers.Initializer] = None,
               zero_gamma: bool = False,
               use_bias: bool = True,
               bias_initializer: Union[str, keras.initializers.Initializer] = 'zeros'):
    """Initializes the layer; see Convolution for the arguments.

    Without `use_bias` the layer has no bias, also if it has no norm. `bias_initializer` is the
    initializer of a bias.
    """
    super().__init__()
    self._make((in_channels, channels), norm, activation, kernel_initializer, zero_gamma,
               bias_initializer if use_bias else None)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, length, in_channels] to [batch, length, channels]."""
    return project(x, self.kernel, lambda y: self._finish(y, training))


def project(x: tf.Tensor, kernel: tf.Tensor,
            finish: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
  """Multiplies the last axis of a tensor of any rank with a matrix, as one matrix product.

  Args:
    x: [..., in_channels].
    kernel: [in_channels, channels].
    finish: Function that is applied to the product [n, channels]. TensorFlow fuses the product with
      a bias that directly follows it.

  Returns:
    [..., channels].
  """
  shape = dimensions(x)
  flat = finish(tf.matmul(tf.reshape(x, [-1, shape[-1]]), tf.cast(kernel, x.dtype)))
  return tf.reshape(flat, [*shape[:-1], kernel.shape[-1]])


def split_heads(x: tf.Tensor, num_heads: int) -> tf.Tensor:
  """Maps [batch, length, heads * channels] to [batch, heads, length, channels]."""
  batch, length, channels = dimensions(x)
  x = tf.reshape(x, [batch, length, num_heads, channels // num_heads])
  return tf.transpose(x, [0, 2, 1, 3])


def merge_heads(x: tf.Tensor) -> tf.Tensor:
  """Maps [batch, heads, length, channels] to [batch, length, heads * channels]."""
  batch, heads, length, channels = dimensions(x)
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, length, heads * channels])


def split_channels(x: tf.Tensor, sizes: Sequence[int]) -> list[tf.Tensor]:
  """Cuts the last axis into pieces of the given sizes."""
  return tf.split(x, sizes, axis=-1)
