"""Instances and class maps of Mask2Former equal the released code's."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.layers import resizing
from deeplab_tf.postprocessing import mask2former_instances
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.postprocessing.mask2former_instances import Mask2FormerInstances
from deeplab_tf.postprocessing.mask2former_semantic import Mask2FormerSemantic

CASES = ('all_tasks', 'low_threshold', 'nothing_found')


def _info(num_classes, things):
  categories = tuple(Category(i, i + 1, str(i), i in things, (i, i, i))
                     for i in range(num_classes))
  return DatasetInfo('recorded', categories, num_classes, 255, 1000)


class _Case:
  """A recorded case: the classes, the outputs, the sizes, and the results by name."""

  def __init__(self, name):
    folder = shared.path('parity', 'mask2former')
    self.case = json.loads((folder / 'post.json').read_text())[name]
    arrays = np.load(folder / 'post.npz')
    self.results = {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{name}/')}
    self.info = _info(self.case['num_classes'], self.case['thing_classes'])
    self.outputs = {
        'class_logits': tf.constant(self.results['pred_logits'][np.newaxis]),
        'mask_logits': tf.constant(self.results['pred_masks'].transpose(1, 2, 0)[np.newaxis])}
    self.size = FullSize(self.case['padded_input_hw'], self.case['image_hw'],
                         self.case['output_hw'], 'half_pixel')


# === Instances ===


def _instances(prediction):
  """Returns (class, score, mask, box) of the instances of the first image, best first."""
  classes, scores, masks, boxes = (np.asarray(x[0]) for x in (
      prediction.instance_classes, prediction.instance_scores, prediction.instance_masks,
      prediction.instance_boxes))
  used = classes >= 0
  assert (scores[~used] == -1).all() and not masks[~used].any() and not boxes[~used].any()
  assert used[:used.sum()].all()  # Unused rows are at the end.
  return classes[used], scores[used], masks[used], boxes[used]


@pytest.mark.parity
@pytest.mark.parametrize('name', [*CASES, 'instance_only'])
def test_instances_are_the_recorded_ones(name):
  case = _Case(name)
  postprocess = Mask2FormerInstances(case.info, case.case['topk'])
  classes, scores, masks, _ = _instances(postprocess.at_full_size(case.outputs, case.size))
  order = np.argsort(-scores, kind='stable')
  np.testing.assert_allclose(scores[order], case.results['instance_scores'], rtol=1e-5, atol=1e-7)
  assert masks.shape[1:] == tuple(case.case['output_hw'])
  # Instances of equal scores have any order, so both are compared as sets of (class, area).
  areas = masks.reshape(len(masks), -1).astype(int).sum(1)
  found = sorted(zip(classes, areas))
  expected = sorted(zip(case.results['instance_classes'], case.results['instance_mask_areas']))
  assert [c for c, _ in found] == [c for c, _ in expected]
  np.testing.assert_allclose([a for _, a in found], [a for _, a in expected], atol=1)
  pixels = np.unpackbits(case.results['instance_masks_packed'], axis=1)
  pixels = pixels[:, :masks[0].size].reshape(-1, *masks.shape[1:])
  distinct = np.flatnonzero(np.diff(case.results['instance_scores'], append=-1) < -1e-5)
  assert (masks[order][distinct] == pixels[distinct]).mean() > 0.9999


def _random(images=2, queries=9, classes=4):
  rng = np.random.default_rng(0)
  return {'mask_logits': tf.constant(rng.normal(size=(images, 5, 7, queries)), tf.float32),
          'class_logits': tf.constant(rng.normal(size=(images, queries, classes + 1)) * 2,
                                      tf.float32)}


def test_instances_are_the_definition_and_stuff_is_dropped_after_the_selection():
  outputs, info, size = _random(), _info(4, {0, 2}), (11, 13)
  prediction = Mask2FormerInstances(info, 20)(outputs, size)
  assert prediction.instance_masks.shape == (2, 20, 11, 13)
  probabilities = tf.nn.softmax(outputs['class_logits'])[..., :-1].numpy()
  full = resizing.resize_bilinear(outputs['mask_logits'], size, 'half_pixel').numpy()
  for image in range(2):
    pairs = np.argsort(-probabilities[image].ravel())[:20]
    pairs = [pair for pair in pairs if pair % 4 in (0, 2)]
    own = type(prediction)(*(x[image:image + 1] for x in prediction))
    classes, scores, masks, boxes = _instances(own)
    assert list(classes) == [pair % 4 for pair in pairs] and 0 < len(pairs) < 20
    for pair, score, mask, box in zip(pairs, scores, masks, boxes):
      logits = full[image, ..., pair // 4]
      np.testing.assert_array_equal(mask, logits > 0)
      quality = (1 / (1 + np.exp(-logits)))[logits > 0].mean()
      np.testing.assert_allclose(score, probabilities[image].ravel()[pair] * quality, rtol=1e-5)
      rows, columns = np.nonzero(mask)
      assert list(box) == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def test_empty_masks_have_empty_boxes():
  masks = np.zeros((1, 2, 4, 6), np.uint8)
  masks[0, 1, 1:3, 2:3] = 1
  assert mask2former_instances.boxes(masks).numpy().tolist() == [[[0, 0, 0, 0], [1, 2, 3, 3]]]


def test_few_pairs_are_all_selected():
  outputs = _random(1, 2, 3)
  prediction = Mask2FormerInstances(_info(3, {0, 1, 2}))(outputs, (5, 7))
  assert sorted(prediction.instance_classes[0].numpy()) == [0, 0, 1, 1, 2, 2]


# === Class maps ===


@pytest.mark.parity
@pytest.mark.parametrize('name', [*CASES, 'semantic_after'])
def test_class_maps_are_the_recorded_ones(name):
  case = _Case(name)
  postprocess = Mask2FormerSemantic(case.info, not case.case['resize_before_inference'])
  found = postprocess.at_full_size(case.outputs, case.size).semantic_map[0].numpy()
  recorded = case.results['semantic_argmax'].astype(int)
  assert found.shape == recorded.shape
  # Where the two best scores are equal up to rounding, either class may win.
  assert (found == recorded).mean() > 0.9995


@pytest.mark.parametrize('resizes_scores', [False, True])
@pytest.mark.parametrize('raw_size', [(150, 40), (30, 21)])
def test_class_maps_are_the_definition_in_either_order(resizes_scores, raw_size):
  outputs, info = _random(), _info(4, {0, 2})
  size = FullSize((20, 28), (17, 25), raw_size, 'aligned')
  found = Mask2FormerSemantic(info, resizes_scores).at_full_size(outputs, size).semantic_map
  probabilities = tf.nn.softmax(outputs['class_logits'])[..., :-1]
  full = resizing.resize_bilinear(outputs['mask_logits'], (20, 28), 'half_pixel')[:, :17, :25]
  if not resizes_scores:
    full = resizing.resize_bilinear(full, raw_size)
  scores = tf.einsum('byxq,bqc->byxc', tf.sigmoid(full), probabilities)
  if resizes_scores:
    scores = resizing.resize_bilinear(scores, raw_size)
  assert (found.numpy() == np.argmax(scores, -1)).mean() > 0.999


@pytest.mark.parametrize('make', [
    lambda info: Mask2FormerInstances(info), lambda info: Mask2FormerSemantic(info, True),
    lambda info: Mask2FormerSemantic(info, False)], ids=['instances', 'scores', 'masks'])
def test_sizes_may_be_known_only_when_the_graph_runs_and_xla_compiles_the_rest(make):
  outputs, postprocess = _random(), make(_info(4, {0, 2}))
  sizes = [(20, 28), (17, 25), (45, 60)]
  expected = postprocess.at_full_size(outputs, FullSize(*sizes))
  dynamic = tf.function(lambda *s: postprocess.at_full_size(outputs, FullSize(*s)),
                        autograph=False)(*map(tf.constant, sizes))
  compiled = tf.function(lambda o: postprocess(o, (20, 28)), jit_compile=True,
                         autograph=False)(outputs)
  for one, two in zip(expected, dynamic):
    assert one.shape == two.shape and np.mean(np.isclose(one, two, atol=1e-3)) > 0.999
  for one, two in zip(postprocess(outputs, (20, 28)), compiled):
    assert one.shape == two.shape and np.mean(np.isclose(one, two, atol=1e-3)) > 0.999
