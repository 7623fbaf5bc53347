"""Attention layers report their calls to an open recorder."""

import functools
import threading

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.attention_records import AttentionRecord, recording, report
from deeplab_tf.layers.axial_attention import AxialAttention2D
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm

NORM = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-3)
RECORD = AttentionRecord(None, ())


def test_axial_layers_report_height_then_width_with_their_inputs():
  layer = AxialAttention2D(4, 8, 8, 2, norm=NORM)
  with recording() as records:
    layer(tf.zeros([2, 5, 6, 4]))
  assert [record.layer for record in records] == [layer.height_axis, layer.width_axis]
  assert [record.inputs[0].shape for record in records] == [(2 * 6, 5, 4), (2 * 5, 6, 8)]
  assert all(record.weights is None for record in records)


def test_a_local_layer_reports_once():
  layer, x = LocalAttention2D(4, 8, 8, 2, norm=NORM), tf.zeros([2, 5, 6, 4])
  with recording() as records:
    layer(x)
  (record,) = records
  assert record.layer is layer and record.inputs[0].shape == x.shape


@pytest.mark.parametrize('training', [False, True])
def test_a_dual_path_layer_reports_both_of_its_attentions(training):
  layer = DualPathLayer(6, 10, DualPathOptions(8, 16, num_heads=4), NORM)
  with recording() as records:
    layer(tf.random.normal([2, 3, 7, 6], seed=0), tf.random.normal([2, 5, 10], seed=1),
          training=training)
  to_pixels, to_memory = records
  assert to_pixels.layer is layer.memory_attention and to_memory.layer is layer.pixel_attention
  assert to_pixels.key_size == (3, 7) and to_memory.key_size is None
  assert to_pixels.weights.shape == (2, 4, 5, 3 * 7 + 5)
  assert to_memory.weights.shape == (2, 4, 3 * 7, 5)
  for record in records:
    query, key, value = record.inputs
    assert record.weights.shape[2:] == (query.shape[2], key.shape[2]) and value is not None
    np.testing.assert_allclose(tf.reduce_sum(record.weights, -1), 1, rtol=1e-5)


def test_the_innermost_recorder_is_filled_and_an_error_closes_it():
  report(RECORD)
  with recording() as outer:
    report(RECORD)
    with pytest.raises(KeyError), recording() as inner:
      report(RECORD)
      raise KeyError
    report(RECORD)
  report(RECORD)
  assert (len(outer), len(inner)) == (2, 1)


def test_a_recorder_hears_its_own_thread_alone():
  with recording() as records:
    thread = threading.Thread(target=report, args=(RECORD,))
    thread.start()
    thread.join()
  assert records == []


def test_records_of_a_trace_are_tensors_of_its_graph():
  layer = DualPathLayer(6, 10, DualPathOptions(8, 16, num_heads=4), NORM)
  inputs = tf.random.normal([1, 3, 7, 6], seed=0), tf.random.normal([1, 5, 10], seed=1)

  @tf.function(autograph=False)
  def run(pixels, memory):
    with recording() as records:
      layer(pixels, memory)
    return [record.weights for record in records]

  with recording() as records:
    layer(*inputs)
  for _ in range(2):  # The second time nothing is traced.
    for weights, record in zip(run(*inputs), records):
      np.testing.assert_allclose(weights, record.weights, atol=1e-6)
