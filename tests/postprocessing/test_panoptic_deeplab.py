"""Post-processing of center models equals DeepLab2's and is correct on any input."""

import json

import graphs
import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf.data import catalog
from deeplab_tf.postprocessing import centers, panoptic_deeplab
from deeplab_tf.protos import data_pb2, evaluator_pb2

# `panoptic_keep_k` records a defect of DeepLab2, see below.
CASES = ('panoptic_cityscapes', 'panoptic_coco', 'panoptic_no_center')


def _info(name):
  return catalog.from_options(data_pb2.DatasetOptions(dataset=name))


def _load(name):
  """Returns data set, options, raw outputs by this library's names, and what is recorded."""
  folder = shared.path('parity', 'deeplab2', 'post')
  case = json.loads((folder / f'{name}.json').read_text())
  arrays = np.load(folder / f'{name}.npz')
  options = text_format.Parse(case['evaluator_options'], evaluator_pb2.EvaluatorOptions())
  outputs = {'semantic_logits': tf.math.log(arrays['semantic_probs']),
             'center_heatmap': tf.constant(arrays['center_heatmap']),
             'center_offsets': tf.constant(arrays['offset_map'])}
  return _info(case['dataset']), options, outputs, arrays


def _center_scores(maps):
  return tf.gather(tf.pad(maps.center_scores, [[0, 0], [1, 0]]), maps.center_map, batch_dims=1)


@pytest.mark.parity
@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_maps_equal_deeplab2(name, jit_compile):
  info, options, outputs, arrays = _load(name)
  postprocess = panoptic_deeplab.build(options, info)
  size = arrays['semantic_probs'].shape[1:3]
  run = tf.function(lambda x: postprocess.with_centers(x, size), jit_compile=jit_compile,
                    autograph=False)
  prediction, maps = run(outputs)
  np.testing.assert_array_equal(prediction.panoptic_map, arrays['out|panoptic_pred'])
  np.testing.assert_array_equal(prediction.semantic_map, arrays['out|semantic_pred'])
  np.testing.assert_array_equal(maps.center_map, arrays['out|instance_pred'])
  np.testing.assert_array_equal(_center_scores(maps), arrays['out|instance_scores'])
  peaks = np.unique(arrays['out|instance_center_pred'])
  np.testing.assert_array_equal(np.unique(maps.center_scores), np.union1d(peaks, [0]))


@pytest.mark.parity
def test_of_more_centres_than_are_kept_the_highest_stay():
  info, options, outputs, arrays = _load('panoptic_keep_k')
  size = arrays['semantic_probs'].shape[1:3]
  assert options.keep_k_centers == 5
  _, maps = panoptic_deeplab.build(options, info).with_centers(outputs, size)
  peaks = np.sort(np.unique(arrays['out|instance_center_pred']))
  assert len(peaks) > 6
  np.testing.assert_array_equal(np.sort(maps.center_scores[0]), peaks[-5:])
  assert set(np.unique(maps.center_map)) == {0, 1, 2, 3, 4, 5}


# --- Any input --------------------------------------------------------------------------------

SIZE = (33, 41)


def _random_outputs(seed, batch=2, channels=10, shape=(9, 11)):
  rng = np.random.default_rng(seed)
  return {
      'semantic_logits': tf.constant(rng.normal(size=(batch, *shape, channels)) * 4, tf.float32),
      'center_heatmap': tf.constant(rng.uniform(size=(batch, *shape, 1)), tf.float32),
      'center_offsets': tf.constant(rng.normal(size=(batch, *shape, 2)) * 3, tf.float32)}


def _build(dataset='shapes', **fields):
  return panoptic_deeplab.build(evaluator_pb2.EvaluatorOptions(**fields), _info(dataset))


@pytest.mark.parametrize('seed', range(4))
def test_the_postprocessing_in_plain_numpy(seed):
  """Centers, groups, majority and numbers, by loops over pixels and segments."""
  info = _info('shapes')
  postprocess = _build(nms_kernel=5, center_score_threshold=0.6, keep_k_centers=4,
                    stuff_area_limit=30, thing_area_limit=6)
  outputs = _random_outputs(seed, 1, shape=SIZE)
  prediction, maps = postprocess.with_centers(outputs, SIZE)
  semantic = outputs['semantic_logits'][0].numpy().argmax(-1)
  heat = outputs['center_heatmap'][0, ..., 0].numpy()
  padded = np.pad(heat, 2)
  peaks = [(heat[y, x], y, x) for y in range(SIZE[0]) for x in range(SIZE[1])
           if heat[y, x] > 0.6 and heat[y, x] == padded[y:y + 5, x:x + 5].max()]
  peaks = sorted(sorted(peaks, reverse=True)[:4], key=lambda p: p[1:])
  assert len(peaks) == 4
  targets = np.indices(SIZE).transpose(1, 2, 0) + outputs['center_offsets'][0].numpy()
  distances = [np.hypot(*(np.array(p[1:]) - targets).transpose(2, 0, 1)) for p in peaks]
  is_thing = np.isin(semantic, info.thing_class_ids)
  groups = np.where(is_thing, np.argmin(distances, 0) + 1, 0)
  assert np.mean(maps.center_map[0] != groups) < 2e-3  # Distances that are all but equal.

  groups, expected = maps.center_map[0].numpy(), np.zeros(SIZE, int)
  numbers, scores = {}, {}
  softmax = tf.nn.softmax(outputs['semantic_logits'][0]).numpy()
  for group in dict.fromkeys(groups.ravel().tolist()):
    mask = groups == group
    if group and mask.sum() >= 6:
      class_id = np.bincount(semantic[mask]).argmax()
      numbers[class_id] = numbers.get(class_id, 0) + 1
      segment = class_id * info.label_divisor + numbers[class_id]
      expected[mask] = segment
      scores[segment] = softmax[mask, class_id].mean() * peaks[group - 1][0]
  for class_id in info.stuff_class_ids:
    mask = semantic == class_id
    if mask.sum() >= 30:
      expected[mask] = class_id * info.label_divisor
      scores[class_id * info.label_divisor] = softmax[mask, class_id].mean()
  np.testing.assert_array_equal(prediction.panoptic_map[0], expected)
  np.testing.assert_array_equal(prediction.semantic_map[0], semantic)
  listed = dict(zip(prediction.segment_ids[0].numpy().tolist(),
                    prediction.segment_scores[0].numpy().tolist()))
  assert listed.pop(-1, -1) == -1
  assert listed == pytest.approx(scores, rel=1e-4)
  assert prediction.segment_ids.shape[1] == 4 + len(info.stuff_class_ids)


@pytest.mark.parametrize('seed', range(3))
def test_listed_segments_are_those_of_the_map(seed):
  prediction = _build(thing_area_limit=4, stuff_area_limit=9)(_random_outputs(seed), SIZE)
  for image in range(2):
    panoptic = prediction.panoptic_map[image].numpy()
    listed = prediction.segment_ids[image].numpy()
    valid = listed >= 0
    assert set(listed[valid]) == set(np.unique(panoptic)) - {0}
    assert len(set(listed[valid])) == valid.sum() >= 5
    np.testing.assert_array_equal(prediction.segment_classes[image].numpy()[valid],
                                  listed[valid] // 256)
    scores = prediction.segment_scores[image].numpy()
    assert ((scores[valid] > 0) & (scores[valid] <= 1)).all() and (scores[~valid] == -1).all()
    np.testing.assert_array_equal(prediction.instance_map[image], panoptic % 256)


def test_without_centres_things_are_void_and_without_an_instance_branch_one_segment_per_class():
  outputs = _random_outputs(0)
  outputs['center_heatmap'] *= 0
  info = _info('shapes')
  without_centers = _build()(outputs, SIZE)
  semantic = without_centers.semantic_map.numpy()
  is_thing = np.isin(semantic, info.thing_class_ids)
  is_void = semantic == 0
  expected = np.where(is_thing | is_void, 0, semantic * 256)
  np.testing.assert_array_equal(without_centers.panoptic_map, expected)
  semantic_alone = _build()({'semantic_logits': outputs['semantic_logits']}, SIZE)
  np.testing.assert_array_equal(semantic_alone.panoptic_map,
                                np.where(is_void, 0, semantic * 256 + is_thing))
  assert semantic_alone.segment_ids.shape[1] == len(info.class_ids)


def test_of_equal_distances_the_first_centre_wins():
  found = centers.Centers(tf.constant([[0., 0.], [0., 4.], [0., 4.], [np.inf, np.inf]]),
                          tf.constant([0.5, 0.9, 0.9, 0.0]))
  nearest = centers.nearest_center(found, tf.zeros([1, 6, 2]))
  assert nearest.numpy().tolist() == [[0, 0, 0, 1, 1, 1]]


def test_offsets_that_are_no_numbers_break_nothing():
  outputs = _random_outputs(0)
  outputs['center_offsets'] *= np.nan
  prediction, maps = _build(keep_k_centers=7).with_centers(outputs, SIZE)
  assert set(np.unique(maps.center_map)) <= {0, 1}
  assert (prediction.segment_ids.numpy() >= -1).all()


def test_instance_numbers_never_reach_the_next_class():
  # 300 peaks, and numbers up to 255.
  size = (33, 121)
  heat = np.zeros((1, *size, 1), np.float32)
  heat[:, ::3, ::4] = 0.9
  assert heat.astype(bool).sum() > 300
  info = _info('shapes')
  logits = tf.tile(tf.one_hot([[[info.thing_class_ids[0]]]], 10) * 9, [1, *size, 1])
  prediction = _build(keep_k_centers=330)(
      {'semantic_logits': logits, 'center_heatmap': tf.constant(heat),
       'center_offsets': tf.zeros([1, *size, 2])}, size)
  ids = np.unique(prediction.panoptic_map)
  first = info.thing_class_ids[0] * 256
  assert set(ids) == {0, *range(first + 1, first + 256)}


def test_sizes_unknown_while_tracing_give_the_same_maps():
  postprocess = _build(keep_k_centers=20)

  @tf.function(input_signature=[
      {'semantic_logits': tf.TensorSpec([None, None, None, 10]),
       'center_heatmap': tf.TensorSpec([None, None, None, 1]),
       'center_offsets': tf.TensorSpec([None, None, None, 2])}, tf.TensorSpec([2], tf.int32)])
  def run(outputs, size):
    return postprocess(outputs, (size[0], size[1])).panoptic_map

  outputs = _random_outputs(3)
  assert np.mean(run(outputs, SIZE).numpy() != postprocess(outputs, SIZE).panoptic_map) < 2e-3


def test_no_tensor_has_all_pixels_and_all_centres():
  size, keep = (65, 81), 400
  postprocess = _build('coco_panoptic', keep_k_centers=keep)
  specs = {'semantic_logits': tf.TensorSpec([1, 17, 21, 134]),
           'center_heatmap': tf.TensorSpec([1, 17, 21, 1]),
           'center_offsets': tf.TensorSpec([1, 17, 21, 2])}
  pixels = size[0] * size[1]
  largest = max(graphs.tensors(lambda x: postprocess(x, size), specs), key=lambda t: t.elements)
  # The class logits are the largest; 32 to 400 centers at once would be larger.
  assert largest.elements <= pixels * 134, largest


@pytest.mark.parametrize('keep', [3, 20])
def test_xla_gives_the_same_maps(keep):
  postprocess = _build(keep_k_centers=keep, nms_kernel=4, thing_area_limit=5)
  compiled = tf.function(lambda x: postprocess(x, SIZE), jit_compile=True, autograph=False)
  for seed in range(3):
    outputs = _random_outputs(seed)
    expected, actual = postprocess(outputs, SIZE), compiled(outputs)
    for name in ('panoptic_map', 'semantic_map'):
      different = getattr(actual, name).numpy() != getattr(expected, name).numpy()
      assert np.mean(different) < 2e-3, name
