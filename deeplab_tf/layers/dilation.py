"""Dilated convolutions that have gradients on every processor.

TensorFlow's own CPU kernels compute dilated convolutions, but not their gradients; the kernels of
oneDNN, GPUs and TPUs compute both. Where the gradient is missing, this module computes it by two
forward convolutions. Everywhere else, and at inference, the operation is TensorFlow's.

Depthwise convolutions do not need this: `tf.nn.depthwise_conv2d` moves the dilation into the batch.
"""

import contextlib
import functools
import threading

import tensorflow as tf

from deeplab_tf.layers.shapes import dimensions

_ACCELERATORS = ('GPU', 'TPU')


def pad_for_stride(x: tf.Tensor, kernel_size: int, rate: int, value: float = 0.0) -> tf.Tensor:
  """Pads height and width as a 'same' convolution of stride 1 would, with zeros or a value."""
  before, after = _padding(kernel_size, rate)
  return tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]], constant_values=value)


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int, rate: int) -> tf.Tensor:
  """Convolves [batch, height, width, in_channels] with [size, size, in_channels, channels].

  Args:
    x: Any floating type; height and width may be unknown, and smaller than the dilated kernel.
    kernel: Same type.
    stride: Stride in pixels.
    rate: Dilation of the kernel.

  Returns:
    [batch, ceil(height / stride), ceil(width / stride), channels], of the same type.
  """
  x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
  size = kernel.shape[0]
  padded = pad_for_stride(x, size, rate) if stride > 1 and size > 1 else x
  y = tf.nn.conv2d(padded, kernel, stride, 'VALID' if stride > 1 else 'SAME', dilations=rate)
  if rate == 1 or size == 1 or _has_native_gradient(y):
    return y

  @tf.custom_gradient
  def with_gradient(x, kernel):
    def gradient(dy):
      return (_input_gradient(x, kernel, dy, stride, rate),
              _kernel_gradient(x, kernel, dy, stride, rate))
    return y, gradient

  return with_gradient(x, kernel)


def _padding(size, rate):
  """Returns the number of rows of zeros before and after the image."""
  total = (size - 1) * rate
  return total // 2, total - total // 2


# --- Gradients --------------------------------------------------------------------------------


def _input_gradient(x, kernel, dy, stride, rate):
  """Returns the gradient for x: a convolution with the flipped kernel, of the same dilation."""
  size, _, channels, out_channels = kernel.shape
  _, height, width, _ = dimensions(x)
  if stride > 1:
    dy = _with_zeros_between(dy, stride)[:, :height, :width]
  # TensorFlow transposes single matrices several times faster than all of them in one tensor.
  matrices = tf.unstack(tf.reshape(kernel, [size * size, channels, out_channels]))
  turned = tf.stack([tf.transpose(matrix) for matrix in reversed(matrices)])
  turned = tf.reshape(turned, [size, size, out_channels, channels])
  before, after = _padding(size, rate)
  dy = tf.pad(dy, [[0, 0], [after, before], [after, before], [0, 0]])
  return tf.nn.conv2d(dy, turned, 1, 'VALID', dilations=rate)


def _kernel_gradient(x, kernel, dy, stride, rate):
  """Returns the gradient for the kernel: the image convolved with dy.

  The taps of a kernel are `rate` pixels apart, those of dy `stride` pixels: stride and dilation
  are swapped, and so are channels and batch.
  """
  size = kernel.shape[0]
  image = tf.transpose(pad_for_stride(x, size, rate), [3, 1, 2, 0])
  gradient = tf.nn.conv2d(image, tf.transpose(dy, [1, 2, 0, 3]), rate, 'VALID', dilations=stride)
  # Where the stride leaves over rows at the end of the image, there are more results than taps.
  return tf.transpose(gradient[:, :size, :size], [1, 2, 0, 3])


def _with_zeros_between(y, stride):
  """Maps [batch, h, w, channels] to [batch, stride * h, stride * w, channels]."""
  batch, height, width, channels = dimensions(y)
  y = tf.reshape(y, [batch, height, 1, width, 1, channels])
  y = tf.pad(y, [[0, 0], [0, 0], [0, stride - 1], [0, 0], [0, stride - 1], [0, 0]])
  return tf.reshape(y, [batch, height * stride, width * stride, channels])


# --- What the platform supports ---------------------------------------------------------------


def _has_native_gradient(y):
  """Returns whether TensorFlow has the gradient of a dilated convolution on the device of y."""
  # In a graph only devices that the program sets are known; else a GPU is used if there is one.
  device = tf.DeviceSpec.from_string(y.device).device_type
  if device is None and any(d.device_type in _ACCELERATORS
                            for d in tf.config.list_logical_devices()):
    return True
  return device not in (None, 'CPU') or _cpu_has_gradient(y.dtype)


@functools.cache
def _cpu_has_gradient(dtype):
  """Tries the gradient once: it depends on oneDNN, which depends on processor and environment."""
  found = []

  def attempt():
    with tf.device('/cpu:0'), contextlib.suppress(tf.errors.OpError):
      found.append(tf.raw_ops.Conv2DBackpropInput(
          input_sizes=[1, 3, 3, 1], filter=tf.ones([3, 3, 1, 1], dtype),
          out_backprop=tf.ones([1, 3, 3, 1], dtype), strides=[1] * 4, padding='SAME',
          dilations=[1, 2, 2, 1]))

  # A new thread is eager, whatever graph, function or strategy the caller is in.
  thread = threading.Thread(target=attempt)
  thread.start()
  thread.join()
  return bool(found)
