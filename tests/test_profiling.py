"""Parameters and multiply-adds are those that the papers and DeepLab2 print."""

import json

import pytest
import shared
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf import profiling
from deeplab_tf.layers.deformable_convolution import deform_convolve
from deeplab_tf.layers.resizing import resize_bilinear, upsample_nearest
from deeplab_tf.pixel_decoders.bifpn_decoder import FusionNode, halve


def _madds(function, *shapes):
  specs = [tf.TensorSpec(shape) for shape in shapes]
  graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
  return sum(profiling.count_madds(graph).values())


@pytest.mark.parametrize('function, shapes, expected', [
    (lambda x, k: tf.nn.conv2d(x, k, 2, 'VALID'), ([1, 9, 9, 4], [3, 3, 4, 8]), 4 * 4 * 8 * 36),
    (lambda x, k: tf.nn.conv2d(x, k, 1, 'SAME', dilations=2), ([1, 9, 9, 4], [3, 3, 4, 8]),
     81 * 8 * 36),
    (lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], 'SAME'),
     ([1, 9, 9, 4], [5, 5, 4, 1]), 81 * 4 * 25),
    (lambda x, y: tf.matmul(x, y, transpose_a=True), ([7, 3], [7, 5]), 3 * 7 * 5),
    (lambda x, y: tf.matmul(x, y, transpose_b=True), ([2, 3, 7], [2, 5, 7]), 2 * 3 * 7 * 5),
    (lambda x, y: tf.einsum('nlhd,lmd->nhlm', x, y), ([2, 3, 4, 5], [3, 6, 5]), 2 * 3 * 4 * 5 * 6),
    (lambda x: resize_bilinear(x, (17, 21)), ([1, 5, 6, 8],), 0),
    (lambda x: tf.nn.relu(x * 2) + 1, ([4, 4],), 0),
    (lambda x: upsample_nearest(x, (11, 20)), ([1, 5, 6, 8],), 0),
    (lambda x: halve(x), ([1, 5, 6, 8],), 0),
    # The convolution, and four neighbors with their weights for each sample, as in deformable
    # attention.
    (lambda x, o, w, k: deform_convolve(x, o, w, k, 2),
     ([1, 5, 6, 8], [1, 5, 6, 36], [1, 5, 6, 18], [3, 3, 8, 7]), 30 * 9 * 8 * (7 + 4)),
])
def test_operations_are_counted(function, shapes, expected):
  assert _madds(function, *shapes) == expected


def test_a_node_of_bifpn_is_a_depthwise_and_a_pointwise_convolution():
  node = FusionNode(32, 2)
  assert _madds(lambda x, y: node([x, y]), *[[1, 5, 6, 32]] * 2) == 30 * 32 * (9 + 32)


def test_an_unknown_shape_is_an_error_and_not_a_wrong_count():
  with pytest.raises(ValueError, match='is not known'):
    _madds(tf.matmul, [None, 3], [3, 4])


def test_parts_sum_to_the_total_and_training_parts_do_not_count(tmp_path):
  config = deeplab_tf.load_config(tiny.write_config(tmp_path))
  summary = profiling.summarize(config)
  assert summary.input_size == (65, 81)
  for i, number in enumerate(summary.total):
    assert number == sum(part[i] for part in summary.by_part.values())
  model = deeplab_tf.build_model(config)
  assert summary.total.parameters == sum(v.shape.num_elements() for v in model.variables)
  assert summary.by_part['semantic_head'].parameters > 0
  assert summary.by_part['semantic_head'].inference_parameters == 0
  assert summary.by_part['semantic_head'].madds == 0
  assert summary.by_part['backbone'].madds > 0.5 * summary.total.madds
  config.ClearField('eval_dataset_options')
  with pytest.raises(ValueError, match='give --input_size=HxW'):
    profiling.summarize(config)


@pytest.mark.parity
@pytest.mark.parametrize('name', [
    'max_deeplab_s@641', pytest.param('max_deeplab_l@1025', marks=pytest.mark.slow)])
def test_counts_are_exactly_deeplab2s(name):
  recorded = json.loads(shared.path('reference', 'deeplab2_counts.json').read_text())
  recorded = recorded['models'][name]
  config = deeplab_tf.load_config(
      shared.path('parity', 'deeplab2', 'configs', recorded['config']))
  summary = profiling.summarize(config, recorded['size'])
  assert summary.total.trainable_parameters == recorded['trainable']
  assert summary.total.parameters == recorded['total_with_moving']
  assert summary.total.inference_parameters == recorded['trainable_without_auxiliary_semantic']
  assert summary.total.madds / 1e9 == pytest.approx(
      recorded['madds_without_auxiliary_semantic_G'], abs=1e-3)
