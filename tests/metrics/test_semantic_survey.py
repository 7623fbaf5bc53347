"""Scores of single images, and the confusion of classes."""

import math

import numpy as np
import pytest

from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.mean_iou import MeanIoU
from deeplab_tf.metrics.semantic_survey import SemanticSurvey

CLASSES = (2, 4, 9)


def _images(count=6):
  rng = np.random.default_rng(0)
  return [(rng.choice([2, 4, 9, 255], (5, 7)), rng.choice([2, 4, 9, 1], (5, 7)))
          for _ in range(count)]


def test_each_image_has_the_scores_that_it_has_alone():
  survey, together = SemanticSurvey(CLASSES, 255), MeanIoU(CLASSES, 255)
  for number, image in enumerate(_images()):
    alone = MeanIoU(CLASSES, 255)
    for metric in (survey, together, alone):
      metric.update(*image)
    assert survey.image_miou[number] == pytest.approx(alone.result()['miou'])
    assert survey.image_accuracy[number] == pytest.approx(alone.result()['pixel_accuracy'])
  assert survey.result() == together.result() and survey.ignored == together.ignored > 0
  assert survey.image_classes == [3] * 6


def test_an_image_without_labels_has_no_score():
  survey = SemanticSurvey(CLASSES, 255)
  survey.update(np.full((2, 2), 255), np.full((2, 2), 4))
  assert math.isnan(survey.image_miou[0]) and math.isnan(survey.image_accuracy[0])
  assert survey.image_classes == [0] and survey.ignored == 4


@pytest.mark.parametrize('in_bytes', [False, True])
def test_merging_gives_the_same_survey(in_bytes):
  whole, first, second = (SemanticSurvey(CLASSES, 255) for _ in range(3))
  for number, image in enumerate(_images()):
    whole.update(*image)
    (first if number < 2 else second).update(*image)
  first.merge_bytes(second.to_bytes()) if in_bytes else first.merge(second)
  for name, values in whole.state().items():
    np.testing.assert_array_equal(first.state()[name], values, err_msg=name)


TABLE = np.array([[6, 3, 0, 1], [0, 20, 0, 0], [5, 0, 5, 0], [0, 0, 0, 0]])
IDS = (7, 8, 11, 12)


def test_confused_classes_with_the_rest_in_two_columns():
  found = confusion.most_confused(IDS, np.insert(TABLE, 3, 0, axis=1), 2)
  assert found.category_ids == (7, 11)
  np.testing.assert_allclose(found.shares, [[0.6, 0, 0.3, 0.1], [0.5, 0.5, 0, 0]])
  assert confusion.most_confused(IDS, np.eye(4, 5, dtype=int), 9).category_ids == ()


def test_pairs_are_sorted_by_pixels():
  assert confusion.pairs(IDS, np.insert(TABLE, 3, 0, axis=1)) == [
      {'ground_truth': 11, 'prediction': 7, 'pixels': 5, 'share': 0.5},
      {'ground_truth': 7, 'prediction': 8, 'pixels': 3, 'share': 0.3}]
