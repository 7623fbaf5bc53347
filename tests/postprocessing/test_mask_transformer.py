"""Post-processing of mask models equals DeepLab2's and is correct on any input."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf.data import catalog
from deeplab_tf.postprocessing import mask_transformer
from deeplab_tf.postprocessing.query_maps import pixelwise
from deeplab_tf.postprocessing.resize_back import resize_nearest, to_raw_size
from deeplab_tf.protos import data_pb2, evaluator_pb2

CASES = ('max_maskwise_coco', 'max_no_detection', 'max_pixelwise_cityscapes',
         'max_pixelwise_coco', 'max_published_thresholds')


def _dataset_info(name):
  return catalog.from_options(data_pb2.DatasetOptions(dataset=name))


def _class_order(info):
  """Position in DeepLab2's order of classes (things, stuff, void) of each of ours."""
  order = list(info.thing_class_ids) + list(info.stuff_class_ids)
  return [order.index(i) for i in info.class_ids] + [len(order)]


def _without_filters(options):
  """DeepLab2 takes its semantic map from a second, pixelwise pass without thresholds."""
  plain = evaluator_pb2.EvaluatorOptions()
  plain.CopyFrom(options)
  plain.transformer_class_confidence_threshold = 0
  plain.pixel_confidence_threshold = 0
  plain.thing_area_limit = plain.stuff_area_limit = 0
  plain.transformer_post_processing = 'pixelwise'
  return plain


@pytest.mark.parity
@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_maps_equal_deeplab2(name, static_shapes):
  folder = shared.path('parity', 'deeplab2', 'post')
  case = json.loads((folder / f'{name}.json').read_text())
  arrays = np.load(folder / f'{name}.npz')
  options = text_format.Parse(case['evaluator_options'], evaluator_pb2.EvaluatorOptions())
  info = _dataset_info(case['dataset'])
  outputs = {
      'mask_logits': tf.constant(arrays['pixel_space_mask_logits']),
      'class_logits': tf.constant(arrays['transformer_class_logits'][..., _class_order(info)]),
  }
  postprocessor = mask_transformer.build(options, info, static_shapes)
  maps = postprocessor.query_maps(outputs, case['crop_size'])
  prediction = postprocessor(outputs, case['crop_size'])
  np.testing.assert_array_equal(prediction.panoptic_map, arrays['out|panoptic_pred'])
  instance = tf.gather(maps.query_instance, maps.query_map, batch_dims=1)
  if options.transformer_post_processing == 'maskwise':
    # Uncovered pixels have number 1, the first in the order.
    instance = tf.where(maps.confident, instance, 1)
  np.testing.assert_array_equal(instance, arrays['out|instance_pred'])
  np.testing.assert_allclose(maps.pixel_score, arrays['out|instance_scores'], atol=1e-5)
  scores = tf.gather(maps.query_score, maps.query_map, batch_dims=1)
  scored = tf.reduce_any(maps.kept, axis=1)[:, None, None]
  if options.transformer_post_processing == 'maskwise':
    scored = maps.confident
  scores = tf.where(scored, scores, 0)
  np.testing.assert_allclose(scores, arrays['out|semantic_scores'], atol=1e-5)
  unfiltered = mask_transformer.build(_without_filters(options), info, static_shapes)
  semantic = unfiltered.semantic_map(unfiltered.query_maps(outputs, case['crop_size']))
  np.testing.assert_array_equal(semantic, arrays['out|semantic_pred'])


def _random_outputs(seed, queries=12, classes=9):
  rng = np.random.default_rng(seed)
  class_logits = rng.normal(size=(2, queries, classes + 1)).astype(np.float32) * 3
  mask_logits = rng.normal(size=(2, 9, 11, queries)).astype(np.float32) * 4
  return {'class_logits': tf.constant(class_logits), 'mask_logits': tf.constant(mask_logits)}


def _build(**fields):
  return mask_transformer.build(evaluator_pb2.EvaluatorOptions(**fields), _dataset_info('shapes'))


@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_the_two_argmaxes_in_plain_numpy(seed, static_shapes):
  outputs = _random_outputs(seed)
  threshold, pixel_threshold = 0.5, 0.3
  maps = pixelwise(outputs['mask_logits'], outputs['class_logits'], (9, 11), threshold,
                   pixel_threshold, static_shapes=static_shapes)
  logits, classes = outputs['mask_logits'].numpy(), outputs['class_logits'].numpy()
  probabilities = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
  kept = probabilities[..., :-1].max(-1) >= threshold
  for image in range(2):
    masked = np.where(kept[image], logits[image], -np.inf)
    best = masked.argmax(-1)
    score = np.exp(masked.max(-1)) / np.exp(masked).sum(-1)
    confident = (score > pixel_threshold) & (masked.max(-1) == logits[image].max(-1))
    np.testing.assert_array_equal(maps.query_map[image], best)
    np.testing.assert_allclose(maps.pixel_score[image], score, rtol=1e-5)
    np.testing.assert_array_equal(maps.confident[image], confident)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('kind', ['pixelwise', 'maskwise'])
def test_listed_segments_are_those_of_the_map(seed, kind):
  prediction = _build(
      transformer_post_processing=kind, thing_area_limit=4, stuff_area_limit=9,
      transformer_class_confidence_threshold=0.4, pixel_confidence_threshold=0.2)(
          _random_outputs(seed), (33, 41))
  void = 0
  for image in range(2):
    panoptic = prediction.panoptic_map[image].numpy()
    listed = prediction.segment_ids[image].numpy()
    valid = listed >= 0
    assert set(listed[valid]) == set(np.unique(panoptic)) - {void}
    assert len(set(listed[valid])) == valid.sum()
    np.testing.assert_array_equal(prediction.segment_classes[image].numpy()[valid],
                                  listed[valid] // 256)
    assert (prediction.segment_scores[image].numpy()[valid] > 0).all()
    assert (prediction.segment_scores[image].numpy()[~valid] == -1).all()
    for segment, area in zip(*np.unique(panoptic, return_counts=True)):
      limit = 0 if segment == void else 4 if segment % 256 else 9
      assert area >= limit


def test_no_confident_query_gives_void():
  outputs = _random_outputs(0)
  prediction = _build(transformer_class_confidence_threshold=1.0)(outputs, (9, 11))
  assert not prediction.panoptic_map.numpy().any()
  assert (prediction.segment_ids.numpy() == -1).all()


def test_unknown_sizes_trace_once_and_agree():
  postprocessor = _build(transformer_class_confidence_threshold=0.4)

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 12]),
                                tf.TensorSpec([None, 12, 10]), tf.TensorSpec([2], tf.int32)])
  def run(masks, classes, size):
    outputs = {'mask_logits': masks, 'class_logits': classes}
    return postprocessor(outputs, (size[0], size[1])).panoptic_map

  outputs = _random_outputs(3)
  expected = postprocessor(outputs, (33, 41)).panoptic_map
  actual = run(outputs['mask_logits'], outputs['class_logits'], [33, 41])
  assert np.mean(actual.numpy() != expected.numpy()) < 2e-3


@pytest.mark.parametrize('static_shapes', [False, True])
def test_masks_and_maps_are_resized_by_the_rule(static_shapes):
  outputs, size = _random_outputs(4), (33, 41)
  postprocessor = mask_transformer.MaskTransformerPostprocessor(
      _dataset_info('shapes'), mask_transformer.PixelwiseOptions(0.0, 0.0),
      static_shapes=static_shapes, rule='half_pixel')
  full = tf.image.resize(outputs['mask_logits'], size)
  maps = postprocessor.query_maps(outputs, size)
  assert np.mean(maps.query_map.numpy() == tf.argmax(full, -1).numpy()) > 0.999
  np.testing.assert_allclose(maps.pixel_score, tf.reduce_max(tf.nn.softmax(full), -1), atol=1e-4)
  one = tf.nest.map_structure(lambda x: x[:1], postprocessor(outputs, size))
  raw = to_raw_size(one, (20, 30), (50, 47), 'half_pixel')
  rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in ((50, 20), (47, 30)))
  np.testing.assert_array_equal(raw.panoptic_map[0],
                                one.panoptic_map[0].numpy()[np.ix_(rows, columns)])


def test_resizing_back_cuts_the_padding():
  prediction = _build(transformer_class_confidence_threshold=0.4)(_random_outputs(1), (33, 41))
  one = prediction._replace(panoptic_map=prediction.panoptic_map[:1],
                            semantic_map=prediction.semantic_map[:1],
                            instance_map=prediction.instance_map[:1])
  raw = to_raw_size(one, (20, 30), (40, 60))
  assert raw.panoptic_map.shape == (1, 40, 60)
  assert set(np.unique(raw.panoptic_map)) <= set(np.unique(one.panoptic_map[0, :20, :30]))
  np.testing.assert_array_equal(
      raw.panoptic_map[0],
      tf.compat.v1.image.resize_nearest_neighbor(
          one.panoptic_map[:, :20, :30, None], (40, 60), align_corners=True)[0, ..., 0])


@pytest.mark.parametrize('source,target', [
    ((1, 1), (5, 4)), ((7, 9), (1, 1)), ((33, 41), (17, 90))])
def test_nearest_resizing_equals_tensorflow_with_aligned_corners(source, target):
  x = tf.reshape(tf.range(source[0] * source[1]), source)
  expected = tf.compat.v1.image.resize_nearest_neighbor(x[None, ..., None], target,
                                                        align_corners=True)[0, ..., 0]
  np.testing.assert_array_equal(resize_nearest(x, target), expected)
