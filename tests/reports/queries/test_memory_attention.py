"""The recorded attention of dual-path layers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import AttentionRecord, recording
from deeplab_tf.layers.convolution import merge_heads, split_channels, split_heads
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.reports.queries import memory_attention

HEADS, QUERIES, HEIGHT, WIDTH = 4, 5, 3, 7


class _Network(tf.Module):
  """Two layers; the one that is made first runs last."""

  def __init__(self, memory_to_memory):
    super().__init__()
    norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-3)
    options = DualPathOptions(channels=8, feed_forward_channels=16, num_heads=HEADS,
                              memory_to_memory=memory_to_memory)
    self.last, self.first = (DualPathLayer(6, 10, options, norm) for _ in range(2))

  def __call__(self, pixels, memory):
    return self.last(*self.first(pixels[:, ::2, ::2], memory)[:2])


def _inputs():
  rng = np.random.default_rng(0)
  return (tf.constant(rng.normal(size=(2, 2 * HEIGHT - 1, 2 * WIDTH - 1, 6)), tf.float32),
          tf.constant(rng.normal(size=(2, QUERIES, 10)), tf.float32))


@pytest.mark.parametrize('memory_to_memory', [True, False])
def test_weights_of_the_last_layer_sum_to_one_and_give_its_output(memory_to_memory):
  keras.utils.set_random_seed(0)
  network = _Network(memory_to_memory)
  pixels, memory = _inputs()
  with recording() as records:
    network(pixels, memory)
  readings = memory_attention.readings(records)
  assert len(readings) == 2
  reading = readings[-1]
  assert (reading.height, reading.width) == (HEIGHT, WIDTH)
  assert reading.weights.shape == (2, HEADS, QUERIES,
                                   HEIGHT * WIDTH + QUERIES * memory_to_memory)
  np.testing.assert_allclose(tf.reduce_sum(reading.weights, -1), np.ones((2, HEADS, QUERIES)),
                             rtol=1e-5)
  on_pixels = tf.reduce_sum(reading.pixel_weights(), [-2, -1])
  np.testing.assert_allclose(on_pixels + reading.memory_share(), np.ones((2, HEADS, QUERIES)),
                             rtol=1e-5)
  # The values that they weigh give what the layer's attention gave.
  layer, (pixels, memory) = network.last, network.first(pixels[:, ::2, ::2], memory)
  flat = tf.nn.relu(tf.reshape(pixels, [2, HEIGHT * WIDTH, -1]))
  of_pixels, of_memory = (
      [split_heads(t, HEADS) for t in split_channels(qkv(conv(x)), sizes)]
      for x, conv, qkv, sizes in (
          (flat, layer.pixel_conv1, layer.pixel_qkv, layer.pixel_sizes),
          (memory, layer.memory_conv1, layer.memory_qkv, layer.memory_sizes)))
  key, value = of_pixels[-2:]
  if memory_to_memory:
    key, value = tf.concat([key, of_memory[1]], 2), tf.concat([value, of_memory[2]], 2)
  given = layer.memory_attention(of_memory[0], key, value)
  again = tf.matmul(reading.weights, value)
  again = merge_heads(tf.nn.relu(layer.memory_attention.norm_output(again, training=False)))
  np.testing.assert_allclose(again, given, atol=1e-5)


def test_recording_leaves_the_network_as_it_was_and_works_in_a_traced_function():
  keras.utils.set_random_seed(0)
  network = _Network(True)
  inputs = _inputs()
  before = network(*inputs)

  @tf.function(autograph=False)
  def run(*arguments):
    with recording() as records:
      outputs = network(*arguments)
    return outputs, memory_attention.readings(records)[-1].pixel_weights()

  outputs, weights = run(*inputs)
  with recording() as records:
    network(*inputs)
  reading = memory_attention.readings(records)[-1]
  np.testing.assert_allclose(weights, reading.pixel_weights(), atol=1e-5)
  for found, expected, after in zip(outputs, before, network(*inputs)):
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(after, expected)
  assert len(records) == 4, 'of a recorder that is closed'


def test_sizes_unknown_while_tracing_are_those_of_the_pixel_path():
  keras.utils.set_random_seed(0)
  network = _Network(True)
  pixels, memory = _inputs()

  @tf.function(autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 6]), tf.TensorSpec([None, QUERIES, 10])])
  def run(*arguments):
    with recording() as records:
      network(*arguments)
    reading = memory_attention.readings(records)[-1]
    return reading.pixel_weights(), reading.memory_share()

  with recording() as records:
    network(pixels, memory)
  expected = memory_attention.readings(records)[-1]
  weights, share = run(pixels, memory)
  np.testing.assert_allclose(weights, expected.pixel_weights(), atol=1e-5)
  np.testing.assert_allclose(share, expected.memory_share(), atol=1e-5)


def test_attention_that_is_not_to_pixels_is_no_reading():
  record = AttentionRecord(keras.layers.Layer(), (), tf.ones([1, 1, 2, 3]) / 3)
  assert memory_attention.readings([record]) == []
