"""Average precision fed image by image, merged, and from panoptic maps."""

import json

import numpy as np
import pytest
import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.metrics.instance_average_precision import InstanceAveragePrecision

INFO = DatasetInfo(
    'made_up',
    (Category(0, 40, 'ground', False, (90, 90, 90)),
     Category(1, 3, 'box', True, (200, 40, 40)),
     Category(2, 8, 'ball', True, (40, 40, 200))),
    num_classes=3, ignore_label=255, label_divisor=1000)
THINGS = (3, 8)


def _runs(mask):
  from pycocotools import mask as mask_lib
  return mask_lib.encode(np.asfortranarray(mask, np.uint8))


def _label_maps(seed):
  """A crowded map, a prediction that resembles it, and a score for each of its labels."""
  rng = np.random.default_rng(seed)
  labels = np.array([0, 1000, 1001, 1002, 1003, 2001, 2002, 255000], np.int32)
  truth = rng.choice(labels, (5, 6)).repeat(9, axis=0).repeat(8, axis=1)
  guess = np.roll(truth, rng.integers(0, 3, 2), (0, 1))
  swapped = rng.choice(labels, (5, 6)).repeat(9, axis=0).repeat(8, axis=1)
  guess = np.where(rng.random((5, 6)).repeat(9, axis=0).repeat(8, axis=1) < 0.2, swapped, guess)
  return truth, guess, {int(label): round(float(rng.random()), 1) for label in labels}


def _things(label_map):
  for label in np.unique(label_map).tolist():
    if label // 1000 in (1, 2):
      mask = label_map == label
      yield label, {'category_id': THINGS[label // 1000 - 1], 'segmentation': _runs(mask),
                    'area': int(mask.sum()), 'iscrowd': int(label % 1000 == 0)}


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(['segm', 'boundary']))
def test_panoptic_maps_score_as_their_masks(seed, iou_type):
  from_maps, from_masks = (InstanceAveragePrecision(THINGS, iou_type, 0.03) for _ in range(2))
  for image in range(3):
    truth, guess, scores = _label_maps(seed + image)
    from_maps.update_from_label_maps(image, truth, guess, scores, INFO)
    from_masks.update(image, truth.shape, [entry for _, entry in _things(truth)],
                      [{**entry, 'score': scores[label]} for label, entry in _things(guess)])
  assert from_maps.result() == from_masks.result()


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_neither_order_nor_merging_changes_a_score(order, cut):
  # Few distinct scores, so that the order of images matters for equal ones.
  together, first, second = (InstanceAveragePrecision(THINGS) for _ in range(3))
  for image in range(6):
    together.update_from_label_maps(image, *_label_maps(image), INFO)
  for position, image in enumerate(order):
    part = first if position < cut else second
    part.update_from_label_maps(image, *_label_maps(image), INFO)
  first.merge_bytes(second.to_bytes())
  assert first.result() == together.result()
  assert together.result()['AP'] > 0


@settings(deadline=None, max_examples=10)
@given(st.permutations([2, 10, '1', '02', 'a', 'b']), st.integers(0, 6))
def test_image_ids_may_be_numbers_and_texts(order, cut):
  # Numbered in the order that they have: numbers first, then texts.
  position_of = {image_id: index for index, image_id in enumerate([2, 10, '02', '1', 'a', 'b'])}
  numbered, first, second = (InstanceAveragePrecision(THINGS) for _ in range(3))
  for position, image_id in enumerate(order):
    maps = _label_maps(position_of[image_id])
    numbered.update_from_label_maps(position_of[image_id], *maps, INFO)
    (first if position < cut else second).update_from_label_maps(image_id, *maps, INFO)
  first.merge_bytes(second.to_bytes())
  assert first.result() == numbered.result()
  ids = [image.image_id for image in first._images]
  assert sorted(map(repr, ids)) == sorted(map(repr, order))


def test_image_ids_may_be_names():
  metric = InstanceAveragePrecision(THINGS)
  for name in ('b', 'a'):
    metric.update_from_label_maps(name, *_label_maps(len(name)), INFO)
  other = InstanceAveragePrecision(THINGS)
  other.merge_bytes(metric.to_bytes())
  assert other.result() == metric.result()
  metric.reset()
  assert metric.result()['AP'] is None


def test_nothing_to_find_is_none_and_nothing_found_is_zero():
  metric = InstanceAveragePrecision(THINGS)
  empty = np.full((4, 4), 255000)
  metric.update_from_label_maps(1, empty, empty, {}, INFO)
  assert metric.result()['AP'] is None and metric.result()['per_class'] == {3: None, 8: None}
  metric.update_from_label_maps(2, np.full((4, 4), 1001), empty, {}, INFO)
  assert metric.result()['AP'] == 0 and metric.result()['per_class'] == {3: 0.0, 8: None}


def test_an_annotation_with_the_id_zero_can_be_found():
  # COCOeval itself takes the id 0 for no match.
  metric = InstanceAveragePrecision(THINGS)
  entry = {'id': 0, 'category_id': 3, 'segmentation': _runs(np.ones((4, 4))), 'area': 16}
  metric.update(0, (4, 4), [entry], [{**entry, 'score': 0.5}])
  assert metric.result()['AP'] == pytest.approx(1.0)


def test_memory_holds_no_masks():
  metric = InstanceAveragePrecision(THINGS)
  truth, guess, scores = (np.kron(value, np.ones((8, 8), np.int32)) if index < 2 else value
                          for index, value in enumerate(_label_maps(0)))
  for image in range(5):
    metric.update_from_label_maps(image, truth, guess, scores, INFO)
  assert sum(array.nbytes for array in metric.state().values()) < truth.size / 10


def test_wrong_use_is_one_line():
  metric = InstanceAveragePrecision(THINGS)
  truth, guess, scores = _label_maps(0)
  with pytest.raises(ValueError, match='the predicted thing with the label 100[0-3] has no score'):
    metric.update_from_label_maps('x', truth, guess, {}, INFO)
  with pytest.raises(ValueError, match='detection of category 5, which is none of the 2'):
    metric.update('x', (4, 4), [], [{'category_id': 5, 'score': 1.0}])
  with pytest.raises(ValueError, match='allowed are segm, boundary, bbox'):
    InstanceAveragePrecision(THINGS, 'box')
  with pytest.raises(ValueError, match='segm or boundary, not bbox'):
    InstanceAveragePrecision(THINGS, 'bbox').update_from_label_maps(1, truth, guess, scores, INFO)
  with pytest.raises(ValueError, match='differ in iou_type'):
    metric.merge(InstanceAveragePrecision(THINGS, 'boundary'))
  assert metric.result()['AP'] is None


@pytest.mark.parity
def test_any_order_of_images_equals_cocoeval():
  folder = shared.path('parity', 'evaluation', 'instance_ap', 'score_ties')
  expected = json.loads((folder / 'expected.json').read_text())['segm']['stats']
  truth = json.loads((folder / 'gt.json').read_text())
  results = json.loads((folder / 'results.json').read_text())
  metric = InstanceAveragePrecision([entry['id'] for entry in truth['categories']])
  for image in reversed(truth['images']):
    own = [[entry for entry in entries if entry['image_id'] == image['id']]
           for entries in (truth['annotations'], results)]
    metric.update(image['id'], (image['height'], image['width']), *own)
  for name, value in expected.items():
    assert metric.result()[name] == (None if value < 0 else pytest.approx(value, abs=1e-6))
