"""Drawings of instances whose masks may overlap."""

import numpy as np
import pytest
from pycocotools import mask as mask_lib

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.visualization import instances
from deeplab_tf.visualization.instances import ERROR_COLORS, Instances

INFO = DatasetInfo('masks', (Category(1, 7, 'cat', True, (220, 20, 60)),
                             Category(2, 9, 'dog', True, (0, 80, 200))), 3, 0, 256)
SIZE = (120, 160)
IMAGE = np.full((*SIZE, 3), 90, np.uint8)


def _mask(top, left, bottom, right):
  mask = np.zeros(SIZE, np.uint8, 'F')
  mask[top:bottom, left:right] = 1
  return mask_lib.encode(mask)


LARGE, SMALL, OTHER = (10, 10, 70, 70), (30, 30, 50, 50), (80, 100, 110, 150)


def test_the_image_is_kept_outside_of_masks_and_small_ones_are_on_top():
  found = Instances(SIZE, [_mask(*SMALL), _mask(*LARGE)], [1, 2], [0.9, 0.8])
  picture = instances.overlay(IMAGE, found, INFO).astype(int)
  np.testing.assert_array_equal(picture[:9], 90)
  np.testing.assert_array_equal(picture[80:], 90)
  small, large = picture[48, 32], picture[68, 12]
  assert small[0] > small[2] and large[2] > large[0]  # Red inside of blue.
  assert (picture[20:70, 20:70] != 90).any(-1).all()


def test_scores_below_the_threshold_are_not_drawn():
  found = Instances(SIZE, [_mask(*LARGE), _mask(*OTHER)], [1, 2], [0.3, 0.6])
  picture = instances.overlay(IMAGE, found, INFO)
  assert (picture[:75] == 90).all() and (picture[85:105, 105:145] != 90).any()
  assert (instances.overlay(IMAGE, found, INFO, min_score=0.2)[:75] != 90).any()
  # Annotations have no scores, and are drawn in any case.
  assert (instances.overlay(IMAGE, Instances(SIZE, found.masks, [1, 2]), INFO)[:75] != 90).any()


def test_masks_are_drawn_on_an_image_of_another_size():
  found = Instances(SIZE, [_mask(*LARGE)], [1], [0.9])
  picture = instances.overlay(np.full((240, 320, 3), 90, np.uint8), found, INFO)
  assert (picture[40:120, 40:120] != 90).any(-1).all() and (picture[160:] == 90).all()


def test_no_instances_leave_the_image():
  nothing = Instances(SIZE, [], [], [])
  np.testing.assert_array_equal(instances.overlay(IMAGE, nothing, INFO), IMAGE)
  assert instances.error_map(IMAGE, nothing, nothing).shape == IMAGE.shape


def _is(picture, place, name):
  """Whether the color at a place is that of a kind of error over the gray image."""
  return np.abs(picture[place] - (0.3 * 90 + 0.7 * np.array(ERROR_COLORS[name]))).max() < 2


def test_errors_are_told_by_class_and_overlap():
  truth = Instances(SIZE, [_mask(*LARGE), _mask(*OTHER)], [1, 2], (), [False, False])
  found = Instances(SIZE, [_mask(12, 12, 70, 70), _mask(80, 100, 110, 110)], [1, 2], [0.9, 0.8])
  picture = instances.error_map(IMAGE, truth, found).astype(float)
  assert _is(picture, (40, 40), 'correct')
  assert _is(picture, (95, 104), 'false positive') and _is(picture, (95, 140), 'false negative')
  other_class = found._replace(class_ids=[2, 2])
  picture = instances.error_map(IMAGE, truth, other_class).astype(float)
  assert _is(picture, (40, 40), 'false positive')


def test_a_second_prediction_for_an_annotation_is_an_error_unless_it_is_a_crowd():
  twice = Instances(SIZE, [_mask(*LARGE), _mask(12, 12, 66, 66)], [1, 1], [0.8, 0.9])
  for is_crowd in (False, True):
    truth = Instances(SIZE, [_mask(*LARGE)], [1], (), [is_crowd])
    matches = instances._matches(truth, twice)  # pylint: disable=protected-access
    assert matches == ({0: 0, 1: 0} if is_crowd else {1: 0})


@pytest.mark.parametrize('count', [1, 300])
def test_more_instances_than_the_label_divisor_can_be_drawn(count):
  masks = [_mask(i % 100, i % 150, i % 100 + 9, i % 150 + 9) for i in range(count)]
  picture = instances.overlay(IMAGE, Instances(SIZE, masks, [1] * count, [0.9] * count), INFO)
  assert picture.dtype == np.uint8 and (picture != 90).any()
