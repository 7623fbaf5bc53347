"""Dilated convolutions have exact gradients, with the kernels of oneDNN and with TensorFlow's.

The reference is a convolution without dilation whose kernel has zeros between its taps, in float64.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import dilation
from deeplab_tf.layers.convolution import DepthwiseConvolution
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.switchable_atrous import SwitchableAtrousConvolution

# Unit roundoffs.
_ROUNDOFF = {'float32': 2.0**-24, 'bfloat16': 2.0**-8, 'float16': 2.0**-11}


@pytest.fixture(params=['platform', 'own'])
def gradients(request, monkeypatch):
  """The gradients that this platform has, and ours in their place."""
  if request.param == 'own':
    monkeypatch.setattr(dilation, '_cpu_has_gradient', lambda dtype: False)


def _stuffed(kernel, rate):
  size = kernel.shape[0]
  reach = (size - 1) * rate + 1
  index = tf.stack(tf.meshgrid(*[tf.range(size) * rate] * 2, indexing='ij'), -1)
  return tf.scatter_nd(index, kernel, [reach, reach, *kernel.shape[2:]])


def _oracle(x, kernel, weight, stride, rate):
  """Output and gradients of sum(weight * y) in float64, and sums of magnitudes for each."""
  results = []
  for magnitude in (False, True):
    a, k, w = (tf.cast(v, tf.float64) for v in (x, kernel, weight))
    if magnitude:
      a, k, w = tf.abs(a), tf.abs(k), tf.abs(w)
    with tf.GradientTape() as tape:
      tape.watch([a, k])
      before = (kernel.shape[0] - 1) * rate // 2
      after = (kernel.shape[0] - 1) * rate - before
      padded = tf.pad(a, [[0, 0], [before, after], [before, after], [0, 0]])
      y = tf.nn.conv2d(padded, _stuffed(k, rate), stride, 'VALID')
      loss = tf.reduce_sum(y * w)
    results.append((y, *tape.gradient(loss, [a, k])))
  return zip(*results)


def _output_and_gradients(x, kernel, weight, stride, rate):
  with tf.GradientTape() as tape:
    tape.watch([x, kernel])
    y = dilation.convolve(x, kernel, stride, rate)
    loss = tf.reduce_sum(y * weight)
  return (y, *tape.gradient(loss, [x, kernel]))


def _tensors(height, width, stride, dtype='float32', size=3, in_channels=5, channels=4):
  rng = np.random.default_rng(height + 10 * width + 100 * stride)
  shapes = ([2, height, width, in_channels], [size, size, in_channels, channels],
            [2, -(-height // stride), -(-width // stride), channels])
  return [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]


def _check(results, tensors, stride, rate, dtype='float32'):
  """Results are as near to the oracle's as sums in a float type can be promised to be."""
  for name, got, (expected, magnitude) in zip(
      ('output', 'by pixels', 'by kernel'), results, _oracle(*tensors, stride, rate)):
    assert got.dtype == dtype and got.shape == expected.shape
    # n terms summed in any order err by less than n times the roundoff of what they sum up to;
    # here n is at most 9 taps x 5 channels or 2 x 13 x 17 pixels, and errors mostly cancel: the
    # root of the latter. Half precision also rounds the result.
    error = np.abs(tf.cast(got, tf.float64) - expected)
    bound = 21 * _ROUNDOFF[dtype] * magnitude + 1e-12
    assert np.all(error <= bound), f'{name}: {np.max(error / bound)} of the bound'


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('rate', [2, 3, 6, 12])
@pytest.mark.parametrize('height, width', [(13, 17), (8, 12), (5, 1)])
def test_gradients_are_those_of_a_kernel_with_zeros_between_its_taps(gradients, height, width,
                                                                     rate, stride):
  tensors = _tensors(height, width, stride)
  _check(_output_and_gradients(*tensors, stride, rate), tensors, stride, rate)


@pytest.mark.parametrize('size', [2, 4, 5])
@pytest.mark.parametrize('stride', [1, 2])
def test_kernels_of_other_sizes(gradients, size, stride):
  tensors = _tensors(9, 12, stride, size=size)
  _check(_output_and_gradients(*tensors, stride, 2), tensors, stride, 2)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('stride, rate', [(1, 2), (1, 6), (2, 3)])
def test_half_precision(gradients, stride, rate, dtype):
  tensors = _tensors(9, 14, stride, dtype)
  _check(_output_and_gradients(*tensors, stride, rate), tensors, stride, rate, dtype)


@pytest.mark.parametrize('jit_compile', [False, True], ids=['graph', 'XLA'])
@pytest.mark.parametrize('stride, rate', [(1, 2), (2, 2), (2, 3)])
def test_graphs(gradients, stride, rate, jit_compile):
  compiled = tf.function(_output_and_gradients, jit_compile=jit_compile)
  tensors = _tensors(9, 14, stride)
  _check(compiled(*tensors, stride, rate), tensors, stride, rate)


@pytest.mark.parametrize('stride, rate', [(1, 2), (2, 3)])
def test_shapes_that_a_graph_does_not_know(gradients, stride, rate):
  dynamic = tf.TensorSpec([None, None, None, 5])
  compiled = tf.function(
      lambda x, kernel, weight: _output_and_gradients(x, kernel, weight, stride, rate),
      input_signature=[dynamic, tf.TensorSpec([3, 3, 5, 4]), tf.TensorSpec([None, None, None, 4])])
  for height, width in ((9, 14), (4, 3)):
    tensors = _tensors(height, width, stride)
    _check(compiled(*tensors), tensors, stride, rate)


def test_activations_can_be_recomputed(gradients):
  x, kernel, weight = tensors = _tensors(9, 14, 1)

  @tf.function
  def run():
    with tf.GradientTape() as tape:
      tape.watch([x, kernel])
      y = tf.recompute_grad(lambda x, kernel: dilation.convolve(x, kernel, 1, 2))(x, kernel)
      loss = tf.reduce_sum(y * weight)
    return (y, *tape.gradient(loss, [x, kernel]))

  _check(run(), tensors, 1, 2)


def test_two_replicas(gradients):
  devices = tf.config.list_logical_devices('CPU')
  strategy = tf.distribute.MirroredStrategy([devices[0].name])
  tensors = _tensors(9, 14, 1)
  run = tf.function(lambda: strategy.run(_output_and_gradients, (*tensors, 1, 2)))
  _check(run(), tensors, 1, 2)


def _operations(convolve, device=None):
  def on_device():
    with tf.device(device):
      return convolve()
  graph = tf.function(on_device).get_concrete_function().graph
  return [operation.type for operation in graph.get_operations()]


def _devices(*kinds):
  return [tf.config.LogicalDevice(f'/device:{kind}:0', kind) for kind in ('CPU', *kinds)]


def test_a_graph_for_an_accelerator_is_tensorflows_own(monkeypatch):
  monkeypatch.setattr(dilation, '_cpu_has_gradient', lambda dtype: False)
  x, kernel, _ = _tensors(9, 14, 1)
  plain = _operations(lambda: tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=2))
  ours = lambda: dilation.convolve(x, kernel, 1, 2)  # noqa: E731
  assert 'IdentityN' in _operations(ours)
  monkeypatch.setattr(tf.config, 'list_logical_devices', lambda: _devices('GPU'))
  assert _operations(ours) == plain
  assert 'IdentityN' in _operations(ours, '/cpu:0')
  monkeypatch.setattr(tf.config, 'list_logical_devices', lambda: _devices())
  for device in ('/gpu:0', '/device:TPU:0', '/device:TPU_REPLICATED_CORE:0'):
    assert _operations(ours, device) == plain, device


def test_the_kernels_are_tried_inside_any_graph():
  dilation._cpu_has_gradient.cache_clear()
  with tf.Graph().as_default() as graph:
    found = dilation._cpu_has_gradient(tf.float32)
    assert not graph.get_operations()
  dilation._cpu_has_gradient.cache_clear()
  assert found == dilation._cpu_has_gradient(tf.float32)


def test_a_saved_model_holds_tensorflows_operation(gradients, tmp_path):
  x, kernel, _ = _tensors(9, 14, 1)
  module = tf.Module()
  module.serve = tf.function(lambda x: dilation.convolve(x, kernel, 1, 2),
                             input_signature=[tf.TensorSpec([None, None, None, 5])])
  tf.saved_model.save(module, str(tmp_path))
  served = tf.saved_model.load(str(tmp_path)).serve
  np.testing.assert_array_equal(served(x), dilation.convolve(x, kernel, 1, 2))
  graph = served.concrete_functions[0].graph
  convolutions = [operation for operation in graph.get_operations()
                  if operation.type == 'Conv2D']
  assert [operation.get_attr('dilations') for operation in convolutions] == [[1, 2, 2, 1]]


def _gradients_of(layer, x):
  with tf.GradientTape() as tape:
    y = layer(x, training=True)
    loss = tf.reduce_sum(y * tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, y.shape), y.dtype))
  return tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16', 'mixed_float16'])
@pytest.mark.parametrize('stride', [1, 2])
def test_switchable_convolutions_train(gradients, stride, policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    layer = SwitchableAtrousConvolution(
        3, 4, 3, stride=stride, rate=2,
        norm=lambda *args, **kwargs: BatchNorm(*args, synchronized=False, **kwargs))
    found = _gradients_of(layer, tf.random.normal([2, 9, 14, 3]))
  finally:
    keras.mixed_precision.set_global_policy('float32')
  assert all(gradient is not None and np.all(np.isfinite(gradient)) for gradient in found)


@pytest.mark.parametrize('jit_compile', [False, True], ids=['graph', 'XLA'])
@pytest.mark.parametrize('rate', [2, 6])
@pytest.mark.parametrize('height, width', [(9, 14), (4, 3)])
def test_depthwise_convolutions_train(height, width, rate, jit_compile):
  layer = DepthwiseConvolution(5, 3, norm=lambda channels, **kwargs: keras.layers.Layer(),
                               rate=rate)
  layer.norm = None
  x, _, weight = _tensors(height, width, 1, channels=5)
  kernel = layer.depthwise_kernel

  @tf.function(jit_compile=jit_compile)
  def run():
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = layer(x)
      loss = tf.reduce_sum(y * weight)
    return (y, *tape.gradient(loss, [x, kernel]))

  # The same as a dense kernel with zeros between channels.
  dense = tf.linalg.diag(kernel[..., 0])
  y, by_pixels, by_kernel = run()
  with tf.GradientTape() as tape:
    tape.watch([x, dense])
    expected = tf.nn.conv2d(tf.pad(x, [[0, 0], [rate, rate], [rate, rate], [0, 0]]),
                            _stuffed(dense, rate), 1, 'VALID')
    loss = tf.reduce_sum(expected * weight)
  expected_by_pixels, by_dense = tape.gradient(loss, [x, dense])
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(by_pixels, expected_by_pixels, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(by_kernel[..., 0], tf.linalg.diag_part(by_dense), rtol=1e-5,
                             atol=1e-4)


@pytest.mark.parametrize('onednn', ['0', '1'])
def test_a_dilated_layer_trains_with_either_kind_of_kernels(onednn):
  code = """if True:
      import tensorflow as tf
      from deeplab_tf.layers.convolution import Convolution
      layer = Convolution(3, 4, 3, stride=1, rate=2)
      for precision in ('float32', 'bfloat16', 'float16'):
        x = tf.ones([1, 7, 7, 3], precision)
        with tf.GradientTape() as tape:
          loss = tf.reduce_sum(layer(tf.cast(x, precision)))
        assert tape.gradient(loss, layer.kernel) is not None
      """
  environment = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': onednn}
  done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True,
                        text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
