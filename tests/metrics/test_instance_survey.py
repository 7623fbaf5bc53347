"""Kinds of errors of instance predictions, on small cases made by hand, and merging."""

import math

import numpy as np
import pytest
from pycocotools import mask as mask_lib

from deeplab_tf.metrics import instance_survey
from deeplab_tf.metrics.instance_average_precision import InstanceAveragePrecision
from deeplab_tf.metrics.instance_survey import KINDS, InstanceSurvey

SIZE = (40, 120)
CAT, DOG = 3, 7


def _box(left, width, top=0, height=10):
  pixels = np.zeros(SIZE, np.uint8, order='F')
  pixels[top:top + height, left:left + width] = 1
  return mask_lib.encode(pixels)


def _truth(category, left, width=10, height=10, **more):
  return {'category_id': category, 'segmentation': _box(left, width, height=height),
          'area': width * height, **more}


def _detection(category, left, score, width=10, height=10):
  return {'category_id': category, 'segmentation': _box(left, width, height=height),
          'score': score}


def _survey(*images, iou_type='segm'):
  survey = InstanceSurvey((CAT, DOG), iou_type)
  for number, (truths, detections) in enumerate(images):
    survey.update(number, SIZE, truths, detections)
  return survey


def _kinds(survey, category):
  row = survey.detections[survey.category_ids.index(category)].sum(axis=1)
  return {kind: int(number) for kind, number in zip(KINDS, row) if number}


@pytest.mark.parametrize('detection, kind', [
    (_detection(CAT, 0, 0.6), 'correct'),
    (_detection(CAT, 3, 0.6), 'correct'),            # IoU 7 / 13.
    (_detection(CAT, 4, 0.6), 'imprecise'),          # IoU 6 / 14.
    (_detection(CAT, 8, 0.6), 'imprecise'),          # IoU 2 / 18, above 0.1.
    (_detection(CAT, 9, 0.6), 'invented'),           # IoU 1 / 19.
    (_detection(CAT, 60, 0.6), 'invented'),
    (_detection(DOG, 1, 0.6), 'wrong_class'),
    (_detection(DOG, 4, 0.6), 'invented'),           # Of another class, and not precise enough.
    (_detection(CAT, 31, 0.6), 'wrong_class'),       # On the dog.
])
def test_one_prediction_is_of_one_kind(detection, kind):
  survey = _survey(([_truth(CAT, 0), _truth(DOG, 30)], [detection]))
  assert _kinds(survey, detection['category_id']) == {kind: 1}
  assert survey.detections.sum() == 1
  assert survey.missed.sum() == (1 if kind == 'correct' else 2)


def test_a_second_prediction_of_an_instance_is_a_duplicate_if_its_score_is_lower():
  survey = _survey(([_truth(CAT, 0)], [_detection(CAT, 1, 0.4), _detection(CAT, 0, 0.9),
                                       _detection(CAT, 3, 0.8)]))
  assert _kinds(survey, CAT) == {'correct': 1, 'duplicate': 2}
  assert [finding.position for finding in survey.false_positives] == [2, 0]
  assert survey.image_correct == [1] and survey.image_wrong == [1] and survey.image_missed == [0]


def test_an_instance_between_two_classes_is_wrong_class_before_imprecise():
  # IoU 1 / 3 with the cat, and 9 / 11 with the dog.
  survey = _survey(([_truth(CAT, 0), _truth(DOG, 6)], [_detection(CAT, 5, 0.7)]))
  assert _kinds(survey, CAT) == {'wrong_class': 1}
  assert survey.mistaken_pairs() == [{'ground_truth': DOG, 'prediction': CAT, 'segments': 1}]


def test_unsure_classification_errors_are_no_pair():
  survey = _survey(([_truth(DOG, 0)], [_detection(CAT, 0, 0.49)]))
  assert _kinds(survey, CAT) == {'wrong_class': 1} and survey.mistaken_pairs() == []


def test_crowds_are_neither_missed_nor_errors():
  survey = _survey(([_truth(CAT, 0, 40, iscrowd=1), _truth(CAT, 60)],
                    [_detection(CAT, 5, 0.9), _detection(CAT, 20, 0.8)]))
  assert survey.detections.sum() == 0 and survey.truths.sum() == 1
  assert survey.missed.sum() == 1 and survey.image_missed == [1]
  # A dog on a crowd of cats is not wrong about a cat.
  survey = _survey(([_truth(CAT, 0, 40, iscrowd=1)], [_detection(DOG, 5, 0.9)]))
  assert _kinds(survey, DOG) == {'invented': 1}


def test_sizes_and_scores_have_bins():
  truths = [_truth(CAT, 0, 32, 32), _truth(CAT, 40, 33, 32), _truth(CAT, 80, 10, area=9217.0)]
  survey = _survey((truths, [_detection(CAT, 110, score) for score in (0, 0.35, 1, 1.5, -2)]))
  assert survey.truths[0].tolist() == survey.missed[0].tolist() == [1, 1, 1]
  assert survey.detections[0, KINDS.index('invented')].tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 0, 2]


def test_findings_are_the_highest_scores_and_the_largest_areas():
  images = [([_truth(CAT, 0, 10 + number)], [_detection(DOG, 60, number / 40)])
            for number in range(20)]
  survey = _survey(*images)
  positives = [(finding.weight, finding.image) for finding in survey.false_positives]
  assert positives == [(number / 40, number) for number in range(19, 7, -1)]
  assert [(finding.weight, finding.image) for finding in survey.false_negatives] == [
      (10 * (10 + number), number) for number in range(19, 7, -1)]


def test_boundary_iou_decides_in_a_boundary_survey():
  # Mask IoU 0.64, while the boundaries of the two squares hardly meet.
  images = ([_truth(CAT, 0, 40, 40)], [_detection(CAT, 4, 0.9, 32, 32)])
  assert _kinds(_survey(images), CAT) == {'correct': 1}
  assert _kinds(_survey(images, iou_type='boundary'), CAT) == {'imprecise': 1}


def _random_images(count, seed=0):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    truths = [_truth(int(rng.choice((CAT, DOG))), int(rng.integers(0, 90)),
                     int(rng.integers(5, 30)), iscrowd=int(rng.random() < 0.15))
              for _ in range(rng.integers(0, 5))]
    detections = [
        _detection(int(rng.choice((CAT, DOG))), int(rng.integers(0, 90)),
                   round(float(rng.random()), 1), int(rng.integers(5, 30)))
        for _ in range(rng.integers(0, 6))]
    detections += [{**truth, 'score': round(float(rng.random()), 1)} for truth in truths
                   if rng.random() < 0.7]
    yield truths, detections


def test_ap_is_that_of_cocoeval_for_all_images_and_for_each():
  images = list(_random_images(12))
  survey = _survey(*images)
  together = InstanceAveragePrecision((CAT, DOG))
  for number, (image, ap) in enumerate(zip(images, survey.image_ap)):
    together.update(number, SIZE, *image)
    alone = InstanceAveragePrecision((CAT, DOG))
    alone.update(number, SIZE, *image)
    expected = alone.result()['AP']
    assert math.isnan(ap) if expected is None else ap == pytest.approx(expected, abs=1e-12)
  assert survey.result() == together.result() and 0 < survey.result()['AP'] < 1
  assert sum(map(math.isnan, survey.image_ap)) < 12


def test_kinds_cover_what_cocoeval_counts():
  survey = _survey(*_random_images(12))
  correct = survey.detections[:, KINDS.index('correct')].sum(axis=1)
  np.testing.assert_array_equal(correct, survey.truths.sum(axis=1) - survey.missed.sum(axis=1))
  assert sum(survey.image_truths) == survey.truths.sum()
  assert sum(survey.image_correct) + sum(survey.image_wrong) == survey.detections[:, :, 5:].sum()
  assert np.add(survey.image_correct, survey.image_missed).tolist() == survey.image_truths


@pytest.mark.parametrize('in_bytes', [False, True])
@pytest.mark.parametrize('cut', [0, 5, 12])
def test_merging_gives_the_same_survey(cut, in_bytes):
  images = list(_random_images(12))
  whole, first = _survey(*images), _survey(*images[:cut])
  second = InstanceSurvey((CAT, DOG))
  for number, image in enumerate(images[cut:], start=cut):
    second.update(number, SIZE, *image)
  first.merge_bytes(second.to_bytes()) if in_bytes else first.merge(second)
  for name, values in whole.state().items():
    np.testing.assert_array_equal(first.state()[name], values, err_msg=name)


def test_curves_average_to_the_scores():
  survey = _survey(*_random_images(12))
  result, curves = survey.result(), survey.precision.curves()
  assert curves.thresholds == pytest.approx(np.linspace(0.5, 0.95, 10))
  assert np.mean(curves.by_size['all']) == pytest.approx(result['AP'])
  assert curves.by_size['all'][0] == pytest.approx(result['AP50'])
  assert curves.by_size['all'][5] == pytest.approx(result['AP75'])
  assert np.mean(curves.by_size['small']) == pytest.approx(result['APs'])
  assert curves.by_size['large'] == [None] * 10 and result['APl'] is None
  for threshold, name in ((0.5, 'AP50'), (0.75, 'AP75')):
    assert len(curves.precision[threshold]) == len(curves.recalls) == 101
    assert np.mean(curves.precision[threshold]) == pytest.approx(result[name])
  assert {category: scores['AP'] for category, scores in curves.per_class.items()
          } == pytest.approx(result['per_class'])
  for name in ('AP50', 'AP75', 'AR100'):
    mean = np.mean([scores[name] for scores in curves.per_class.values()])
    assert mean == pytest.approx(result[name])


def test_nothing_to_find_and_nothing_found():
  survey = _survey(([], []), ([_truth(CAT, 0)], []))
  assert math.isnan(survey.image_ap[0]) and survey.image_ap[1] == 0
  curves = survey.precision.curves()
  assert curves.precision[0.5] == [0.0] * 101
  assert curves.per_class[DOG]['AP'] is None and curves.per_class[CAT]['AP'] == 0
  assert InstanceSurvey((CAT,)).precision.curves().precision[0.75] is None
  assert instance_survey.InstanceSurvey(()).result()['AP'] is None
