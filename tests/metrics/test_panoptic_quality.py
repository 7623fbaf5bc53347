"""Panoptic quality against panopticapi's recorded numbers and on small cases worked out by hand."""

import json

import numpy as np
import pytest
import shared

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.formats.coco_panoptic import Segment
from deeplab_tf.metrics import panoptic_quality
from deeplab_tf.scoring import panoptic_files

SETS = ('cityscapes_style', 'empty_predictions', 'fuzz_tiny', 'half_iou', 'many_60',
        'real_identity', 'real_mild', 'real_strong', 'split_stuff', 'synth_480x640',
        'things_only', 'void_crowd', 'wrong_classes')
THING, STUFF, OTHER_THING = 7, 11, 20
INFO = DatasetInfo(
    'made_up',
    (Category(0, STUFF, 'ground', False, (90, 90, 90)),
     Category(1, THING, 'box', True, (200, 40, 40)),
     Category(2, OTHER_THING, 'ball', True, (40, 40, 200))),
    num_classes=3, ignore_label=255, label_divisor=1000)


def _folder(name):
  return shared.path('parity', 'evaluation', 'pq', name)


def _score(folder):
  return panoptic_files.panoptic_score(folder / 'gt.json', folder / 'pred.json')


def _counts(metric, category_id):
  index = metric.category_ids.index(category_id)
  return (int(metric.true_positives[index]), int(metric.false_positives[index]),
          int(metric.false_negatives[index]))


def _row(*runs):
  """A map of one row from (value, length) pairs."""
  return np.concatenate([np.full(length, value, np.int32) for value, length in runs])[None]


def _update(truth, truth_segments, prediction, prediction_segments):
  metric = panoptic_quality.PanopticQuality(INFO.categories)
  metric.update(truth, truth_segments, prediction, prediction_segments)
  return metric


@pytest.mark.parity
@pytest.mark.parametrize('definition, key', [('panopticapi', 'panopticapi'),
                                             ('boundary', 'boundary_pq')])
@pytest.mark.parametrize('name', SETS)
def test_equals_the_reference(name, definition, key):
  folder = _folder(name)
  expected = json.loads((folder / 'expected.json').read_text())[key]
  metric = panoptic_files.panoptic_score(folder / 'gt.json', folder / 'pred.json',
                                         definition=definition).metric
  result = metric.result()
  for group in ('All', 'Things', 'Stuff'):
    reference = expected.get(group) or {'pq': None, 'sq': None, 'rq': None, 'n': 0}
    assert result[group]['n'] == (reference.get('n') or 0)
    for score in ('pq', 'sq', 'rq'):
      if reference.get(score) is None:
        assert result[group][score] is None
      else:
        assert result[group][score] == pytest.approx(reference[score], abs=1e-9, rel=0)
  assert {str(category) for category in result['per_class']} == set(expected['per_class'])
  for category, scores in result['per_class'].items():
    reference = expected['per_class'][str(category)]
    assert [scores[count] for count in ('tp', 'fp', 'fn')] == [
        reference[count] for count in ('tp', 'fp', 'fn')]
    iou_sum = metric.iou_sum[metric.category_ids.index(category)]
    assert iou_sum == pytest.approx(reference['iou_sum'], abs=1e-9, rel=0)
    for score in {'pq', 'sq', 'rq'} & set(reference):
      assert scores[score] == pytest.approx(reference[score], abs=1e-9, rel=0)


@pytest.mark.parity
@pytest.mark.parametrize('name, words', [
    ('json_id_not_in_png', ('image 1', 'bad_0.png', 'segment 5', 'category 1', 'no pixel')),
    ('no_prediction_for_image', ('no prediction for image 1', 'pred.json', 'gt.json')),
    ('png_id_not_in_json', ('image 1', 'bad_0.png', 'segment 5871948', 'not listed')),
    ('unknown_category', ('image 1', 'segment 2217543', 'category 12', 'pred.json')),
])
def test_refuses_what_panopticapi_refuses(name, words):
  with pytest.raises(ValueError) as error:
    _score(_folder('refused') / name)
  assert '\n' not in str(error.value)
  for word in words:
    assert word in str(error.value)


@pytest.mark.parity
def test_names_the_missing_folder_of_pngs():
  with pytest.raises(FileNotFoundError, match='pred: there is no such folder'):
    _score(_folder('refused') / 'no_png')


@pytest.mark.parity
def test_label_maps_give_the_score_of_files():
  # In this set no image has two crowd segments of one class, which a label map cannot hold.
  folder = _folder('synth_480x640')
  truth = coco_panoptic.load_ground_truth(folder / 'gt.json')
  guesses = {a.image_id: a for a in coco_panoptic.load_predictions(
      folder / 'pred.json').annotations}
  info = catalog.built_in('coco_panoptic')
  metric = panoptic_quality.PanopticQuality(info.categories)
  for annotation in truth.annotations:
    guess = guesses[annotation.image_id]
    metric.update_from_label_maps(
        _label_map(folder / 'gt' / annotation.file_name, annotation.segments, info),
        _label_map(folder / 'pred' / guess.file_name, guess.segments, info), info)
  from_files = _score(folder).metric.result()
  from_maps = metric.result()
  for group in ('All', 'Things', 'Stuff'):
    assert from_maps[group] == pytest.approx(from_files[group], abs=1e-12)
  assert from_maps['per_class'].keys() == from_files['per_class'].keys()


def _label_map(png, segments, info):
  ids = coco_panoptic.read_panoptic_png(png)
  class_of = {category.category_id: category for category in info.categories}
  label = np.full(ids.shape, info.void_label, np.int32)
  seen = {}
  for segment in segments:
    category = class_of[segment.category_id]
    number = 0
    if category.isthing and not segment.iscrowd:
      number = seen[segment.category_id] = seen.get(segment.category_id, 0) + 1
    label[ids == segment.id] = category.class_id * info.label_divisor + number
  return label


def test_an_overlap_of_exactly_one_half_is_no_match():
  # Intersection 4, union 8, then 5 of 9.
  truth, segments = _row((1, 6), (0, 0), (2, 6)), [Segment(1, THING), Segment(2, STUFF)]
  half = _update(truth, segments, _row((2, 2), (1, 4), (1, 2), (2, 4)),
                 [Segment(1, THING), Segment(2, STUFF)])
  assert _counts(half, THING) == (0, 1, 1)
  more = _update(truth, segments, _row((2, 1), (1, 5), (1, 3), (2, 3)),
                 [Segment(1, THING), Segment(2, STUFF)])
  assert _counts(more, THING) == (1, 0, 0)
  assert more.iou_sum[more.category_ids.index(THING)] == pytest.approx(5 / 9)


def test_void_pixels_leave_the_union_of_a_match():
  metric = _update(_row((1, 6), (0, 4)), [Segment(1, THING)], _row((9, 10)), [Segment(9, THING)])
  assert _counts(metric, THING) == (1, 0, 0)
  assert metric.result()['All']['pq'] == 1.0


@pytest.mark.parametrize('void, false_positives', [(5, 1), (6, 0)])
def test_a_prediction_mostly_in_void_is_no_false_positive(void, false_positives):
  metric = _update(_row((0, void), (1, 10 - void)), [Segment(1, STUFF)], _row((9, 10)),
                   [Segment(9, THING)])
  assert _counts(metric, THING) == (0, false_positives, 0)
  assert _counts(metric, STUFF) == (0, 0, 1)


def test_only_the_crowd_of_the_same_class_excuses_and_is_never_missed():
  truth = [Segment(1, THING, iscrowd=True), Segment(2, STUFF)]
  row = _row((1, 10), (2, 4))
  same = _update(row, truth, _row((9, 10), (0, 4)), [Segment(9, THING)])
  assert _counts(same, THING) == (0, 0, 0)
  other = _update(row, truth, _row((9, 10), (0, 4)), [Segment(9, OTHER_THING)])
  assert _counts(other, OTHER_THING) == (0, 1, 0)
  assert _counts(other, THING) == (0, 0, 0)


def test_of_two_crowds_of_a_class_the_last_listed_counts():
  row, guess = _row((1, 10), (2, 4)), _row((9, 10), (0, 4))
  first_last = [Segment(2, THING, True), Segment(1, THING, True)]
  assert _counts(_update(row, first_last, guess, [Segment(9, THING)]), THING) == (0, 0, 0)
  assert _counts(_update(row, first_last[::-1], guess, [Segment(9, THING)]), THING) == (0, 1, 0)


def test_a_stated_area_is_used_and_reported_when_wrong():
  metric = panoptic_quality.PanopticQuality(INFO.categories)
  right = metric.update(_row((1, 10)), [Segment(1, THING, area=10)], _row((5, 10)),
                        [Segment(5, THING)])
  assert right == ()
  wrong = metric.update(_row((1, 10)), [Segment(1, THING, area=5)], _row((5, 10)),
                        [Segment(5, THING)])
  assert wrong == (1,)
  assert metric.iou_sum[metric.category_ids.index(THING)] == pytest.approx(1 + 2)


def test_a_truth_listed_but_not_drawn_is_missed_and_an_unlisted_id_belongs_to_nothing():
  metric = _update(_row((3, 10)), [Segment(1, THING)], _row((5, 10)), [Segment(5, THING)])
  assert _counts(metric, THING) == (0, 1, 1)


def test_merging_equals_one_accumulator():
  rng = np.random.default_rng(0)
  together = panoptic_quality.PanopticQuality(INFO.categories)
  parts = [panoptic_quality.PanopticQuality(INFO.categories) for _ in range(2)]
  for index in range(8):
    truth = _blocks(rng)
    guess = np.where(rng.random(truth.shape) < 0.2, _blocks(rng), truth)
    together.update_from_label_maps(truth, guess, INFO)
    parts[index % 2].update_from_label_maps(truth, guess, INFO)
  parts[0].merge(parts[1])
  assert parts[0].result()['All'] == pytest.approx(together.result()['All'])
  assert _counts(parts[0], THING) == _counts(together, THING)
  parts[0].reset()
  assert parts[0].result()['All']['n'] == 0
  with pytest.raises(ValueError, match='different categories'):
    parts[0].merge(panoptic_quality.PanopticQuality(INFO.categories[:1]))
  with pytest.raises(ValueError, match='different definitions'):
    parts[0].merge(panoptic_quality.PanopticQuality(INFO.categories, dilation_ratio=0.02))


def _blocks(rng):
  small = rng.choice(np.array([0, 1000, 1001, 1002, 2001, 255000], np.int32), (3, 4))
  return small.repeat(5, axis=0).repeat(4, axis=1)


def test_label_maps_know_void_crowd_and_the_label_zero():
  # Class 0 with instance 0 is the label 0, and a stuff class, not void.
  truth = _row((0, 6), (1000, 6), (255000, 6), (1001, 6))
  guess = _row((0, 6), (1001, 6), (2001, 6), (1002, 5), (255000, 1))
  metric = panoptic_quality.PanopticQuality(INFO.categories)
  metric.update_from_label_maps(truth, guess, INFO)
  assert _counts(metric, STUFF) == (1, 0, 0)
  assert _counts(metric, THING) == (1, 0, 0)  # The first box lies in the crowd.
  assert _counts(metric, OTHER_THING) == (0, 0, 0)  # In void.
  assert metric.result()['Things']['pq'] == pytest.approx(5 / 6)


def test_a_label_of_no_class_is_named():
  metric = panoptic_quality.PanopticQuality(INFO.categories)
  with pytest.raises(ValueError, match='prediction: label 9001 is of class 9 '):
    metric.update_from_label_maps(_row((0, 4)), _row((9001, 4)), INFO)
  assert metric.result()['All']['n'] == 0


def test_no_class_at_all_is_not_available_and_no_crash():
  result = panoptic_quality.PanopticQuality(INFO.categories).result()
  assert result['All'] == {'pq': None, 'sq': None, 'rq': None, 'n': 0}
  assert result['per_class'] == {}
  assert 'not available' in panoptic_quality.format_result(result, {})


def test_maps_of_different_size_are_refused():
  with pytest.raises(ValueError, match='1 x 4 pixels and the prediction is 1 x 5 pixels'):
    _update(_row((0, 4)), [], _row((0, 5)), [])


def test_match_puts_every_segment_in_one_place():
  truth = _row((1, 10), (2, 10), (3, 10), (0, 10))
  guess = _row((5, 8), (6, 14), (7, 8), (8, 10))
  truths = [Segment(1, THING), Segment(2, STUFF), Segment(3, THING, iscrowd=True)]
  guesses = [Segment(5, THING), Segment(6, OTHER_THING), Segment(7, THING), Segment(8, STUFF)]
  matching = panoptic_quality.match(truth, truths, guess, guesses)
  assert matching.matches == (panoptic_quality.Match(truths[0], guesses[0], 0.8),)
  assert matching.unmatched_ground_truth == (truths[1],)
  assert matching.unmatched_predictions == (guesses[1],)
  assert matching.ignored_ground_truth == (truths[2],)
  assert matching.ignored_predictions == (guesses[2], guesses[3])
  assert matching.ground_truth_pixels == {0: 10, 1: 10, 2: 10, 3: 10}
  assert matching.prediction_pixels == {5: 8, 6: 14, 7: 8, 8: 10}


def test_boundaries_are_stricter_than_masks():
  truth = np.zeros((60, 60), np.int32)
  truth[10:50, 10:50] = 1
  guess = np.zeros_like(truth)
  guess[11:50, 11:50] = 1
  segments = [Segment(1, THING)]
  by_mask, by_boundary = (
      panoptic_quality.match(truth, segments, guess, segments, ratio).matches[0].iou
      for ratio in (None, 0.05))
  assert by_mask == 39**2 / 40**2
  # Rings 4 pixels thick; they differ by a corner of one pixel on either side.
  inner = (40**2 - 32**2, 39**2 - 31**2)
  both = sum(inner) - np.count_nonzero(_ring(truth) | _ring(guess))
  assert by_boundary == pytest.approx(both / (sum(inner) - both)) and by_boundary < by_mask


def _ring(ids):
  rows, columns = np.nonzero(ids)
  ring = ids.astype(bool)
  ring[rows.min() + 4:rows.max() - 3, columns.min() + 4:columns.max() - 3] = False
  return ring


@pytest.mark.parity
def test_pairs_are_read_image_by_image():
  folder = _folder('real_mild')
  files = panoptic_files.pairs(folder / 'gt.json', folder / 'pred.json')
  assert len(files.images) == 2 and files.class_names[1] == 'person'
  listed = json.loads((folder / 'gt.json').read_text())['images']
  assert [image.image_id for image in files.images] == [entry['id'] for entry in listed]
  assert [image.image_file for image in files.images] == [entry['file_name'] for entry in listed]
  for image in files.images:
    truth, guess = image.read_maps()
    assert truth.shape == guess.shape and truth.dtype == np.int32
    assert {segment.id for segment in image.prediction.segments} == set(guess.ravel()) - {0}


def test_an_unknown_definition_is_refused():
  with pytest.raises(ValueError, match='allowed are panopticapi, boundary, deeplab2'):
    panoptic_files.panoptic_score('gt.json', 'pred.json', definition='pq')
