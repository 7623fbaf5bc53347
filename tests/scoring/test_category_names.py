"""Categories of predictions compared with those of the ground truth."""

import pytest

from deeplab_tf.formats.coco_panoptic import FileCategory
from deeplab_tf.scoring import category_names
from deeplab_tf.user_errors import DataError

TRUTH = [FileCategory(3, 'car', True), FileCategory(5, 'Traffic Light', True),
         FileCategory(9, 'sky', False)]


def _compare(*stated):
  return category_names.compare('pred.json', [FileCategory(*entry) for entry in stated], 'gt.json',
                                TRUTH)


@pytest.mark.parametrize('stated', [
    (), ((3, 'car', True), (5, 'traffic-light', True), (9, 'sky', False)),
    ((3, None, None), (5, None, None), (9, None, None)),
    ((3, 'car', True), (5, 'traffic light', True), (9, 'sky', False), (11, 'tree', False))])
def test_equal_statements_need_no_word(stated):
  assert _compare(*stated) == ()


def test_another_numbering_is_refused():
  with pytest.raises(DataError, match='category 3 is "sky" here and "car" there, where "sky" is '
                     r'category 9 \(2 of 3 ids contradict\)'):
    _compare((3, 'sky', False), (5, 'traffic light', True), (9, 'car', True))


def test_other_names_are_a_warning_with_examples():
  (line,) = _compare((3, 'automobile', True), (5, 'traffic light', True), (9, 'sky', False))
  assert '1 of 3 categories' in line and '3 is "automobile" here and "car" there' in line


def test_other_kinds_are_a_warning():
  (line,) = _compare((3, 'car', False), (5, 'traffic light', True), (9, 'sky', False))
  assert '3 "car" is stuff here and a thing there' in line


def test_categories_that_cannot_be_predicted_are_named():
  (line,) = _compare((3, 'car', True))
  assert 'does not list 2 of the 3 categories' in line and '5 "Traffic Light", 9 "sky"' in line
  (line,) = _compare((4, 'tree', False))
  assert 'lists none of the categories of gt.json (3 "car"' in line


def test_ids_are_no_names():
  truth = [FileCategory(3, '3', True), FileCategory(9, '9', False)]
  assert category_names.compare('p', [FileCategory(3, 'car', True), FileCategory(9, 'sky', False)],
                                'g', truth) == ()


def test_a_name_that_the_ground_truth_has_twice_proves_nothing():
  truth = [FileCategory(1, 'a', True), FileCategory(2, 'a', True), FileCategory(3, 'b', True)]
  (line,) = category_names.compare('p', [FileCategory(i, 'a', True) for i in (1, 2, 3)], 'g',
                                   truth)
  assert '3 is "a" here and "b" there' in line
