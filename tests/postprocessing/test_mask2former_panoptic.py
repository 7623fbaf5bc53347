"""Mask2Former's panoptic post-processing: recorded cases, plain numpy, static shapes, memory."""

import functools
import json

import graphs
import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.postprocessing import full_size, mask2former_panoptic, query_maps
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.postprocessing.mask2former_panoptic import Mask2FormerPostprocessor, PanopticOptions
from deeplab_tf.protos import evaluator_pb2

CASES = ('all_tasks', 'low_threshold', 'nothing_found')
# Number of queries that are at full resolution at once.
A_FEW = 16


def _info(num_classes, things, first_id=0):
  categories = tuple(Category(i + first_id, i + 1, str(i), i in things, (i, i, i))
                     for i in range(num_classes))
  return DatasetInfo('any', categories, num_classes + first_id, 255, 1000)


def _outputs(seed=0, queries=21, classes=6, size=(9, 11), images=2, scale=3.0):
  """Returns smooth masks, most of which are larger than one pixel, and classes of all scores."""
  rng = np.random.default_rng(seed)
  coarse = rng.normal(size=(images, 3, 4, queries)).astype(np.float32) * scale
  masks = tf.image.resize(coarse, size, 'bicubic') - scale
  logits = rng.normal(size=(images, queries, classes + 1)) * scale
  return {'mask_logits': masks, 'class_logits': tf.constant(logits, tf.float32)}


def _resize_weights(source, target):
  """Bilinear weights [target, source] of half-pixel centers, by definition."""
  position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
  return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source)))


def _numpy_prediction(outputs, image, size, info, options):
  """Post-processes one image by loops over all queries; returns the map and {id: score}."""
  logits = outputs['class_logits'].numpy()[image].astype(np.float64)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  maps = outputs['mask_logits'].numpy()[image].astype(np.float64)
  rows, columns = (_resize_weights(maps.shape[i], size[i]) for i in range(2))
  masks = 1 / (1 + np.exp(-np.einsum('yh,xw,hwq->qyx', rows, columns, maps)))
  labels, scores = probabilities.argmax(-1), probabilities.max(-1)
  kept = [q for q in range(len(labels)) if labels[q] < len(info.categories)
          and scores[q] > options.object_mask_threshold]
  panoptic, segments, things = np.full(size, info.void_label), {}, 0
  if not kept:
    return panoptic, segments
  owner = np.array(kept)[np.argmax([scores[q] * masks[q] for q in kept], axis=0)]
  for q in kept:
    area, original = (owner == q).sum(), (masks[q] >= 0.5).sum()
    final = owner == q
    if options.confident_pixels_only:
      final &= masks[q] >= 0.5
    if not original or not final.any() or area / original < options.overlap_threshold:
      continue
    category = info.categories[labels[q]]
    things += category.isthing
    number = category.class_id * info.label_divisor + (things if category.isthing else 0)
    panoptic[final] = number
    score = scores[q] * masks[q][final].mean()
    segments[number] = max(score, segments.get(number, 0))
  return panoptic, segments


def _listed(prediction, image):
  """Returns {segment id: score}."""
  ids, classes, scores = (np.asarray(x[image]) for x in (
      prediction.segment_ids, prediction.segment_classes, prediction.segment_scores))
  used = ids >= 0
  np.testing.assert_array_equal(classes[used], ids[used] // 1000)
  assert (classes[~used] == -1).all() and (scores[~used] == -1).all()
  assert len(set(ids[used])) == used.sum()
  return dict(zip(ids[used].tolist(), scores[used].tolist()))


@pytest.mark.parity
@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_maps_and_segments_equal_the_reference(name, static_shapes):
  folder = shared.path('parity', 'mask2former')
  case = json.loads((folder / 'post.json').read_text())[name]
  arrays = np.load(folder / 'post.npz')
  info = _info(case['num_classes'], case['thing_classes'])
  postprocess = Mask2FormerPostprocessor(
      info, PanopticOptions(case['object_mask_threshold'], case['overlap_threshold']),
      static_shapes)
  outputs = {
      'class_logits': tf.constant(arrays[f'{name}/pred_logits'][np.newaxis]),
      'mask_logits': tf.constant(arrays[f'{name}/pred_masks'].transpose(1, 2, 0)[np.newaxis])}
  sizes = FullSize(case['padded_input_hw'], case['image_hw'], case['output_hw'],
                   'half_pixel')
  predictions = [postprocess.at_full_size(outputs, sizes)]
  if sizes.input_size == sizes.raw_size:
    predictions.append(postprocess(outputs, sizes.input_size))
  recorded, expected, numbers, things = arrays[f'{name}/panoptic_seg'], {0: info.void_label}, [], 0
  for segment in case['segments_info']:
    things += segment['isthing']
    numbers.append(segment['category_id'] * 1000 + (things if segment['isthing'] else 0))
    expected[segment['id']] = numbers[-1]
  for prediction in predictions:
    np.testing.assert_array_equal(
        prediction.panoptic_map[0], np.vectorize(expected.get)(recorded))
    assert set(_listed(prediction, 0)) == set(numbers)


@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('thresholds', [
    (0.6, 0.7), (0.0, 0.3), (0.4, 0.0), (1.0, 0.0),
    (0.6, 0.7, 0, 0, False), (0.0, 0.3, 0, 0, False)])
def test_predictions_are_the_definition(thresholds, seed, static_shapes):
  options, info, size = PanopticOptions(*thresholds), _info(6, {0, 2, 5}, first_id=1), (31, 43)
  outputs = _outputs(seed, queries=[21, 5, 40][seed])
  prediction, maps = Mask2FormerPostprocessor(info, options, static_shapes).with_queries(
      outputs, size)
  segments = 0
  for image in range(2):
    expected, scores = _numpy_prediction(outputs, image, size, info, options)
    np.testing.assert_array_equal(prediction.panoptic_map[image], expected)
    found = _listed(prediction, image)
    assert set(found) == set(scores)
    for number, score in scores.items():
      np.testing.assert_allclose(found[number], score, rtol=1e-5)
    np.testing.assert_array_equal(maps.confident[image], expected != info.void_label)
    segments += len(scores)
  void = prediction.panoptic_map == info.void_label
  np.testing.assert_array_equal(prediction.semantic_map, prediction.panoptic_map // 1000)
  np.testing.assert_array_equal(prediction.instance_map,
                                np.where(void, 0, prediction.panoptic_map % 1000))
  assert segments == 0 if thresholds[0] == 1.0 else segments >= 4


@pytest.mark.parametrize('static_shapes', [False, True])
def test_a_segment_may_be_all_that_its_query_won(static_shapes):
  info, sizes = _info(6, {0, 2, 5}), FullSize((36, 44), (31, 41), (57, 77), 'half_pixel')
  outputs = _outputs(1)
  confident, whole = (
      Mask2FormerPostprocessor(info, PanopticOptions(0.4, 0.5, 0, 0, only), static_shapes)
      .at_full_size(outputs, sizes) for only in (True, False))
  written = confident.panoptic_map != info.void_label
  # Segments keep their pixels and gain less certain ones.
  np.testing.assert_array_equal(whole.semantic_map[written], confident.semantic_map[written])
  assert np.mean(whole.panoptic_map == info.void_label) < np.mean(~written) - 0.05
  for image in range(2):
    found = _listed(whole, image)
    assert set(found) == set(np.unique(whole.panoptic_map[image])) - {info.void_label}
    assert len(found) >= len(_listed(confident, image)) > 1
    assert all(0 < score < 1 for score in found.values())


@pytest.mark.parametrize('static_shapes', [False, True])
def test_things_of_uncertain_pixels_have_numbers_of_their_own(static_shapes):
  # Query 0 wins the left, 1 the right; where 0 is above 1/2, 1 is stronger. The masks of both
  # are 0 by rounding in most of their regions.
  masks = np.full((1, 4, 8, 2), -200.0, np.float32)
  masks[0, 0, 6:, 0], masks[0, 0, 6:, 1] = 1.0, 30.0
  classes = 50 * tf.one_hot([[0, 0]], 7)
  prediction = Mask2FormerPostprocessor(
      _info(6, {0}), PanopticOptions(0.5, 0.0, 0, 0, False), static_shapes)(
          {'mask_logits': tf.constant(masks), 'class_logits': classes}, (4, 8))
  np.testing.assert_array_equal(prediction.instance_map[0], np.where(masks[0, ..., 1] > 0, 2, 1))
  found = _listed(prediction, 0)
  assert set(found) == {1, 2} and found[1] < 1e-6 and found[2] > 0.99


def test_the_queries_lead_to_the_map():
  info = _info(6, {0, 2, 5})
  prediction, maps = Mask2FormerPostprocessor(info, PanopticOptions(0.4, 0.3)).with_queries(
      _outputs(), (31, 43))
  classes = tf.gather(maps.query_class, maps.query_map, batch_dims=1).numpy()
  numbers = tf.gather(maps.query_instance, maps.query_map, batch_dims=1).numpy()
  confident = maps.confident.numpy()
  assert confident.any() and not confident.all()
  is_thing = np.isin(classes, [0, 2, 5])
  expected = classes * 1000 + np.where(is_thing, numbers, 0)
  np.testing.assert_array_equal(prediction.panoptic_map.numpy()[confident], expected[confident])
  assert maps.pixel_score.numpy()[confident].min() >= 0.5


@pytest.mark.parametrize('static_shapes', [False, True])
def test_images_without_a_kept_query_are_void(static_shapes):
  info, outputs = _info(6, {0}), _outputs()
  # Image 0 has no object; the scores of image 1 equal the threshold, which is not enough.
  no_object = 50 * tf.one_hot([[6] * 21], 7)
  outputs['class_logits'] = tf.concat([no_object, tf.zeros([1, 21, 7])], 0)
  threshold = float(tf.nn.softmax(tf.zeros([7]))[0])
  prediction = Mask2FormerPostprocessor(info, PanopticOptions(threshold, 0.0), static_shapes)(
      outputs, (31, 43))
  assert (prediction.panoptic_map.numpy() == info.void_label).all()
  assert not prediction.instance_map.numpy().any()
  assert not _listed(prediction, 0) and not _listed(prediction, 1)
  lower = PanopticOptions(threshold - 1e-4, 0.0)
  prediction = Mask2FormerPostprocessor(info, lower, static_shapes)(outputs, (31, 43))
  assert not _listed(prediction, 0) and _listed(prediction, 1)


@pytest.mark.parametrize('static_shapes', [False, True])
def test_of_equal_products_the_first_query_counts(static_shapes, monkeypatch):
  # A softmax may round equal rows differently.
  monkeypatch.setattr(mask2former_panoptic, 'classify', lambda logits: (
      tf.zeros(logits.shape[:2], tf.int32), tf.cast(tf.range(37)[None] > 0, tf.float32)))
  outputs = _outputs(queries=37, images=1)
  masks = outputs['mask_logits'].numpy()
  # In different parts of the loop; the probability is 1, since resizing rounds, too.
  masks[..., 20] = masks[..., 36] = masks[..., 3] = 30.0
  _, maps = Mask2FormerPostprocessor(_info(6, {0}), PanopticOptions(0.5, 0.0),
                                     static_shapes).with_queries(
      {**outputs, 'mask_logits': tf.constant(masks)}, (9, 11))
  assert (maps.query_map.numpy() == 3).all()


def test_small_regions_become_void():
  info, outputs = _info(6, {0, 2, 5}), _outputs()
  options = PanopticOptions(0.4, 0.0)
  whole = Mask2FormerPostprocessor(info, options)(outputs, (31, 43)).panoptic_map.numpy()
  limited = Mask2FormerPostprocessor(
      info, options._replace(thing_area_limit=150, stuff_area_limit=100))(outputs, (31, 43))
  for image in range(2):
    areas = dict(zip(*np.unique(whole[image], return_counts=True)))
    large = {number for number, area in areas.items() if number != info.void_label
             and area >= (150 if number % 1000 else 100)}
    assert large and large != set(areas) - {info.void_label}
    np.testing.assert_array_equal(
        limited.panoptic_map[image],
        np.where(np.isin(whole[image], list(large)), whole[image], info.void_label))


def test_sizes_may_be_known_only_when_the_graph_runs():
  postprocess = Mask2FormerPostprocessor(_info(6, {0, 2, 5}), PanopticOptions(0.4, 0.3))

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, None]),
                                tf.TensorSpec([None, None, 7]), tf.TensorSpec([2], tf.int32)],
               autograph=False)
  def run(masks, classes, size):
    outputs = {'mask_logits': masks, 'class_logits': classes}
    return postprocess(outputs, (size[0], size[1])).panoptic_map

  outputs = _outputs()
  found = run(outputs['mask_logits'], outputs['class_logits'], [31, 43])
  expected = postprocess(outputs, (31, 43)).panoptic_map
  # Weights of the resizing that are computed in the graph round differently.
  assert np.mean(found.numpy() != expected.numpy()) < 2e-3


def test_compiled_it_gives_the_same_prediction():
  info = _info(6, {0, 2, 5})
  for options in (PanopticOptions(0.4, 0.3), PanopticOptions(0.4, 0.3, 0, 0, False),
                  PanopticOptions(1.0)):
    run = tf.function(functools.partial(
        Mask2FormerPostprocessor(info, options, static_shapes=True), output_size=(31, 43)),
                      jit_compile=True, autograph=False)
    for seed in range(2):
      outputs = _outputs(seed, queries=37)
      expected = Mask2FormerPostprocessor(info, options)(outputs, (31, 43))
      for name, value in run(outputs)._asdict().items():
        np.testing.assert_allclose(value, getattr(expected, name), atol=1e-5, err_msg=name)


def test_options_of_a_config_are_used():
  text = evaluator_pb2.EvaluatorOptions(thing_area_limit=3, stuff_area_limit=4)
  assert mask2former_panoptic.build(text, _info(6, {0})).options == PanopticOptions(
      np.float32(0.8), np.float32(0.8), 3, 4)
  text.mask2former_postprocessing.object_mask_threshold = 0.25
  text.mask2former_postprocessing.overlap_threshold = 0.5
  text.mask2former_postprocessing.confident_pixels_only = False
  built = mask2former_panoptic.build(text, _info(6, {0}), static_shapes=True)
  assert built.options == PanopticOptions(0.25, 0.5, 3, 4, False) and built.static_shapes


# === Memory ===

BATCH, QUERIES, CLASSES, SIZE, LOGITS_SIZE = 2, 100, 133, 640, 160


@pytest.mark.parametrize('static_shapes', [False, True])
def test_no_tensor_holds_all_queries_at_full_resolution(static_shapes):
  postprocess = Mask2FormerPostprocessor(_info(CLASSES, {0}), PanopticOptions(), static_shapes)
  outputs = {'mask_logits': tf.TensorSpec([BATCH, LOGITS_SIZE, LOGITS_SIZE, QUERIES]),
             'class_logits': tf.TensorSpec([BATCH, QUERIES, CLASSES + 1])}
  tensors = list(graphs.tensors(lambda x: postprocess(x, (SIZE, SIZE)), outputs))
  assert not [t for t in tensors if t.elements > SIZE * SIZE * A_FEW]
  number = A_FEW if static_shapes else None
  assert any(t.shape.as_list() == [1, SIZE, SIZE, number] for t in tensors if t.shape.rank)
  if static_shapes:
    assert all(t.shape.is_fully_defined() for t in tensors)


@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('kept', [0, 5, 16, 40])
def test_kept_queries_are_brought_up_a_few_at_a_time(kept, static_shapes, monkeypatch):
  numbers = []
  resize = query_maps.resize_bilinear

  def counting(x, size, rule):
    numbers.append(x.shape[3])
    return resize(x, size, rule)

  monkeypatch.setattr(full_size, 'resize_bilinear', counting)
  outputs = _outputs(queries=40, images=1)
  outputs['class_logits'] = 50 * tf.one_hot([[0] * kept + [6] * (40 - kept)], 7)
  Mask2FormerPostprocessor(_info(6, {0}), PanopticOptions(), static_shapes)(outputs, (31, 43))
  steps = -(-kept // A_FEW)
  expected = [A_FEW] * steps if static_shapes else [
      min(A_FEW, kept - A_FEW * i) for i in range(steps)]
  assert numbers == expected
