"""Which prediction belongs to which image, and the messages where two files contradict."""

import pytest

from deeplab_tf.scoring import image_pairs
from deeplab_tf.scoring.image_pairs import ListedImage
from deeplab_tf.user_errors import DataError


def _assign(images, predictions):
  return image_pairs.assign([ListedImage(*image) for image in images],
                            [ListedImage(*prediction) for prediction in predictions],
                            'gt.json', 'pred.json')


def test_equal_ids_and_names_need_no_word():
  found = _assign([(2, 'val/b.jpg'), (1, 'val/a.jpg')], [(1, 'a.png'), (2, 'b.png'), (3, 'c.png')])
  assert found == ((1, 0), (), '')


@pytest.mark.parametrize('images, predictions', [
    ([(1, 'a.jpg')], [(1,)]), ([(1,)], [(1, 'a.jpg')]), ([(1, None, 'x.png')], [(1, 'y.jpg')]),
    ([(1, 'cam0/1.jpg'), (2, 'cam1/1.jpg')], [(1, '1.jpg'), (2, '1.jpg')])])
def test_what_is_not_stated_contradicts_nothing(images, predictions):
  assert _assign(images, predictions) == (tuple(range(len(images))), (), '')


def test_names_decide_where_ids_contradict_them():
  found = _assign([(3, '1.jpg'), (1, '2.jpg'), (2, '3.jpg')],
                  [(1, '1.jpg'), (2, '2.jpg'), (3, '3.jpg')])
  assert found.positions == (0, 1, 2)
  (line,) = found.warnings
  assert 'of 3 images contradict' in line and 'paired by file name' in line
  assert 'image 3 is 3.jpg here and 1.jpg in gt.json, where 3.jpg has the id 2' in line


def test_a_name_that_fits_another_prediction_better_is_a_contradiction():
  found = _assign([(1, 'x/1.jpg')], [(1, '1.jpg'), (2, 'x/1.jpg')])
  assert found.positions == (1,)
  assert 'which is the name of the prediction 2 here, while that of this id is named 1.jpg' in (
      found.warnings[0])


def test_a_contradiction_that_names_do_not_solve_is_refused():
  with pytest.raises(DataError, match=r'image 1 is b.jpg here .*; by name, image 1 \(a.jpg\) has '
                     'no prediction; predict with --ground_truth=gt.json'):
    _assign([(1, 'a.jpg'), (2, 'b.jpg')], [(1, 'b.jpg'), (2, 'c.jpg')])
  with pytest.raises(DataError, match=r'ambiguous name: it may be x/a.png, y/a.png of'):
    _assign([(1, 'a.jpg'), (2, 'b.jpg')], [(1, 'b.png'), (2, 'x/a.png'), (3, 'y/a.png')])


def test_names_pair_where_ids_are_of_another_kind():
  found = _assign([('0000', '0000.jpg'), ('0001', '0001.jpg')], [(1, '0001.jpg'), (0, '0000.jpg')])
  assert found.positions == (1, 0)
  assert "0 here is '0000' there" in found.warnings[0]
  # Of predictions without a list of images, and of Cityscapes.
  found = _assign([('a_0_1', 'a_0_1_gtFine_leftImg8bit.png')],
                  [(7, None, 'a/a_0_1_leftImg8bit.png')])
  assert found.positions == (0,)


def test_the_whole_path_is_the_name():
  cameras = [(1, 'cam0/1.jpg'), (2, 'cam1/1.jpg')]
  assert _assign(cameras, [('p', 'cam1/1.jpg'), ('q', 'cam0/1.jpg')]).positions == (1, 0)
  found = _assign(cameras, [('p', '1.jpg'), ('q', 'x/1.jpg')])
  assert found.positions == (None, None)
  assert '--ground_truth=gt.json' in found.hint and 'ambiguous' in found.hint


def test_unlike_names_of_one_id_are_a_warning():
  found = _assign([(1, 'a.jpg'), (2, 'b.jpg')], [(1, 'a.jpg'), (2, 'train_77.jpg')])
  assert found.positions == (0, 1)
  assert '1 images' in found.warnings[0] and 'image 2 is train_77.jpg here and b.jpg' in (
      found.warnings[0])


def test_a_missing_prediction_has_a_hint_where_there_is_one():
  found = _assign([(1, 'a.jpg'), (2, 'b.jpg')], [(1, 'a.jpg')])
  assert found == ((0, None), (), '')
  found = _assign([(1,)], [('1',)])
  assert found.positions == (None,)
  assert "it has the text '1', and the number 1 is asked for" in found.hint
  assert _assign([(1,)], []).positions == (None,) and _assign([], []).positions == ()
