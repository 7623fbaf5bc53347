"""Statistics of the segments that lower panoptic quality."""

import json
import math

import numpy as np
import pytest
import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import panoptic_quality, segment_survey
from deeplab_tf.scoring import panoptic_files

Segment = panoptic_quality.Segment
CATEGORIES = (coco_panoptic.FileCategory(3, 'disc', True),
              coco_panoptic.FileCategory(5, 'box', True),
              coco_panoptic.FileCategory(9, 'sky', False))


def _survey(*images):
  survey = segment_survey.SegmentSurvey(CATEGORIES)
  for image in images:
    survey.update(segment_survey.compare(*image))
  return survey


def _image(truth, truth_categories, guess, guess_categories, crowds=()):
  """An image from rows of ids; categories are of the ids 1, 2, ... that occur."""
  truth, guess = np.asarray(truth), np.asarray(guess)
  return (truth, [Segment(i, c, i in crowds) for i, c in enumerate(truth_categories, 1)
                  if i in truth],
          guess, [Segment(i, c) for i, c in enumerate(guess_categories, 1) if i in guess])


def _strip(*runs):
  """A map of one row: pairs of id and length."""
  return np.repeat([i for i, _ in runs], [length for _, length in runs])[None]


@st.composite
def _images(draw):
  side = draw(st.integers(1, 7))
  rng = np.random.default_rng(draw(st.integers(0, 10**6)))
  truth = rng.integers(0, 4, (side, 6)).repeat(2, axis=0)
  guess = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 4, truth.shape), truth)
  categories = [[int(c) for c in rng.choice((3, 5, 9), 3)] for _ in range(2)]
  crowds = {1} if categories[0][0] != 9 and rng.random() < 0.3 else ()
  return _image(truth, categories[0], guess, categories[1], crowds)


@settings(deadline=None, max_examples=60)
@given(st.lists(_images(), max_size=4))
def test_the_counts_are_those_of_panoptic_quality(images):
  metric = panoptic_quality.PanopticQuality(CATEGORIES)
  for image in images:
    metric.update(*image)
  survey = _survey(*images)
  for name, values in metric.state().items():
    np.testing.assert_allclose(survey.panoptic_quality().state()[name], values, atol=1e-12)
    np.testing.assert_allclose(getattr(survey, name).sum(axis=1), values, atol=1e-12)
  assert sum(survey.image_true_positives) == metric.true_positives.sum()
  assert survey.iou_histogram.sum() == metric.true_positives.sum()


@settings(deadline=None, max_examples=60)
@given(st.lists(_images(), min_size=1, max_size=4))
def test_score_and_losses_make_up_a_full_pq(images):
  result = _survey(*images).result()
  for scores in [result['All'], result['Things'], result['Stuff'], *result['per_class'].values()]:
    if scores['pq'] is None:
      assert set(scores['losses'].values()) == {None}
      continue
    assert all(value >= 0 for value in scores['losses'].values())
    assert scores['pq'] + sum(scores['losses'].values()) == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(_images(), max_size=3), st.lists(_images(), max_size=3))
def test_parts_merge_to_the_whole_in_order(first, second):
  whole, part = _survey(*first, *second), _survey(*first)
  part.merge_bytes(_survey(*second).to_bytes())
  for name, values in whole.state().items():
    np.testing.assert_allclose(part.state()[name], values, atol=1e-12, err_msg=name)
  assert part.result()['mistaken'] == whole.result()['mistaken']


def test_the_pq_of_an_image_is_that_of_the_image_alone():
  found = _image([[1, 1, 1, 2]], [3, 9], [[1, 1, 1, 0]], [3])
  empty = _image([[0, 0]], [], [[0, 0]], [])
  survey = _survey(found, empty)
  metric = panoptic_quality.PanopticQuality(CATEGORIES)
  metric.update(*found)
  assert survey.image_pq[0] == pytest.approx(metric.result()['All']['pq']) == 0.5
  assert math.isnan(survey.image_pq[1])
  assert survey.image_false_negatives == [1, 0]


def test_sizes_are_of_the_ground_truth_and_of_false_positives_their_own():
  small, large = 32**2 - 1, 32**2
  truth = _strip((1, large), (2, small), (0, 500))
  survey = _survey(_image(truth, [3, 3], _strip((1, large - 20), (0, 20 + small - 100), (2, 600)),
                          [3, 5]))
  bins = np.searchsorted(segment_survey.SIZE_LIMITS, [small, large, 600], side='right')
  assert bins[1] == bins[0] + 1
  assert survey.true_positives[0, bins[1]] == 1
  assert survey.false_negatives[0, bins[0]] == 1
  # Mostly in void: ignored, not false.
  assert survey.false_positives.sum() == 0
  sizes = survey.result()['sizes']
  assert sizes['Things']['pq'][bins[1]] == pytest.approx((large - 20) / large)
  assert sizes['Things']['pq'][bins[0]] == 0 and sizes['Things']['fn'][bins[0]] == 1
  assert sizes['Stuff']['pq'] == [None] * 8
  survey = _survey(_image(_strip((1, 5000)), [9], _strip((1, 4000), (2, 1000)), [9, 5]))
  assert survey.false_positives[1, bins[0]] == 1


def test_the_limits_of_coco_are_among_the_sizes():
  assert {32**2, 96**2} < set(segment_survey.SIZE_LIMITS)
  assert list(segment_survey.SIZE_LIMITS) == sorted(segment_survey.SIZE_LIMITS)


def test_a_right_place_with_the_wrong_class_is_a_mistake():
  truth = _strip((1, 10), (2, 10), (3, 10))
  guess = _strip((1, 8), (0, 2), (2, 5), (0, 5), (3, 10))
  survey = _survey(_image(truth, [3, 3, 9], guess, [5, 5, 9]))
  # The second guess covers only half.
  assert survey.result()['mistaken'] == [
      {'ground_truth': 3, 'prediction': 5, 'segments': 1, 'share': 0.5}]
  losses = survey.result()['per_class'][3]['losses']
  assert losses == {'imprecise': 0, 'wrong_class': 0.5, 'missed': 0.5, 'invented': 0}
  losses = survey.result()['per_class'][5]['losses']
  assert losses == {'imprecise': 0, 'wrong_class': 0.5, 'missed': 0, 'invented': 0.5}


def test_confusion_is_in_shares_of_the_true_class():
  truth = _strip((1, 10), (2, 10), (0, 7))
  guess = _strip((1, 5), (2, 2), (0, 3), (3, 17))
  survey = _survey(_image(truth, [3, 5], guess, [3, 9, 5]))
  np.testing.assert_array_equal(survey.pixels, [[5, 0, 2, 3], [0, 10, 0, 0], [0, 0, 0, 0]])
  confusion = survey.confusion(10)
  assert confusion.category_ids == (3, 9)
  np.testing.assert_allclose(confusion.shares, [[0.5, 0.2, 0, 0.3], [0, 0, 0, 0]])
  assert survey.confusion(1).category_ids == ()


def test_other_classes_are_summed_up():
  truth = _strip((1, 10), (2, 10))
  guess = _strip((2, 4), (3, 1), (1, 5), (1, 10))
  confusion = _survey(_image(truth, [3, 5], guess, [3, 5, 9])).confusion(2)
  assert confusion.category_ids == (3, 5)
  np.testing.assert_allclose(confusion.shares, [[0.5, 0.4, 0.1, 0], [1, 0, 0, 0]])


def test_crowds_are_no_segments_but_their_pixels_count():
  image = _image(_strip((1, 10), (2, 4)), [3, 9], _strip((1, 10), (2, 4)), [5, 9], crowds={1})
  survey = _survey(image)
  assert survey.false_negatives.sum() == 0 and survey.result()['mistaken'] == []
  assert survey.pixels[0, 1] == 10


def test_nothing_at_all_has_no_scores():
  result = _survey().result()
  assert result['All']['pq'] is None and result['mistaken'] == [] and result['per_class'] == {}
  assert _survey().confusion(5).category_ids == ()


def test_unknown_categories_are_refused_and_nothing_is_counted():
  survey = _survey()
  with pytest.raises(ValueError, match='category 77'):
    survey.update(segment_survey.compare(*_image([[1, 2]], [3, 77], [[1, 1]], [3])))
  assert not survey.state()['pixels'].any() and survey.image_pq == []
  with pytest.raises(ValueError, match='different categories'):
    survey.merge(segment_survey.SegmentSurvey(CATEGORIES[:1]))


@pytest.mark.parity
@pytest.mark.parametrize('name', ['real_strong', 'many_60', 'half_iou', 'void_crowd', 'fuzz_tiny',
                                  'split_stuff', 'things_only', 'wrong_classes'])
def test_scores_equal_the_references(name):
  folder = shared.path('parity', 'evaluation', 'pq', name)
  files = panoptic_files.pairs(folder / 'gt.json', folder / 'pred.json')
  survey = segment_survey.SegmentSurvey(files.ground_truth.categories)
  for image in files.images:
    truth, guess = image.read_maps()
    survey.update(segment_survey.compare(truth, image.ground_truth.segments, guess,
                                         image.prediction.segments))
  expected = json.loads((folder / 'expected.json').read_text())['panopticapi']
  result = survey.result()
  for category, scores in expected['per_class'].items():
    found = result['per_class'][int(category)]
    assert [found[key] for key in ('tp', 'fp', 'fn')] == [
        scores[key] for key in ('tp', 'fp', 'fn')]
    assert found['pq'] == pytest.approx(scores['pq'], abs=1e-9)
  if 'All' in expected:
    assert result['All']['pq'] == pytest.approx(expected['All']['pq'], abs=1e-9)
