"""The image that a file name belongs to."""

import unicodedata

import pytest

from deeplab_tf import image_names

CAMERAS = ('cam0/000001.jpg', 'cam1/000001.jpg')


@pytest.mark.parametrize('name, names, expected', [
    ('cam1/000001.jpg', CAMERAS, (1,)),
    ('cam1/000001.png', CAMERAS, (1,)),  # Predictions are PNGs.
    ('/data/val/cam1/000001.jpg', CAMERAS, (1,)),
    ('CAM1\\000001.JPG', CAMERAS, (1,)),
    ('./cam0//000001.jpg', CAMERAS, (0,)),
    ('000001.jpg', CAMERAS, (0, 1)),
    ('cam2/000001.jpg', CAMERAS, (0, 1)),
    ('000002.jpg', CAMERAS, ()),
    ('1.jpg', ('0001.jpg',), ()),
    ('a/scene.png', ('val/scene.jpg',), (0,)),
    ('a.jpg', ('b/a.jpg', 'a.jpg'), (1,)),  # The whole path before its end.
    ('x.jpg', ('x.png', 'x.jpg'), (1,)),
    ('x', ('x.png', 'x.jpg'), (0, 1)),
    ('Img.PNG', ('img.jpg', 'Img.jpg'), (1,)),
    ('IMG.JPG', ('img.jpg',), (0,)),
    ('frame.2', ('frame.1', 'frame.2'), (1,)),  # No extension of an image.
    ('frame.2', ('frame.1.jpg', 'frame.2.jpg'), (1,)),
    ('c_0_1_leftImg8bit.png', ('c_0_0_gtFine_leftImg8bit.png', 'c_0_1_gtFine_leftImg8bit.png'),
     (1,)),
    ('c/c_0_1_leftImg8bit.png', ('c_0_1_gtFine_panoptic.png',), (0,)),
    ('_leftImg8bit.png', ('_gtFine.png',), ()),
])
def test_the_whole_path_comes_first_and_the_stem_last(name, names, expected):
  assert image_names.NameIndex(names).find(name) == expected


def test_accents_are_one_letter_or_two():
  names = [unicodedata.normalize('NFD', name) for name in ('caf\u00e9/\u00fcber.jpg', 'b.jpg')]
  assert names[0] != 'caf\u00e9/\u00fcber.jpg'
  assert image_names.NameIndex(names).find('caf\u00e9/\u00fcber.png') == (0,)


def test_a_name_that_another_fits_better_stays_alone():
  pairing = image_names.pair(('cam0/1.jpg', 'cam1/1.jpg'), ('cam0/1.png',))
  assert pairing.found == (0, None) and not pairing.ambiguous and not pairing.others


def test_two_names_for_one_are_ambiguous():
  pairing = image_names.pair(('cam0/1.jpg', 'cam1/1.jpg', '2.jpg'), ('1.png', 'x/2.png'))
  assert pairing.found == (None, None, 1) and pairing.others == {0: (0, 1)}
  assert not pairing.is_complete
  pairing = image_names.pair(('1.png', '2.png'), ('cam0/1.jpg', 'cam1/1.jpg', '2.jpg'))
  assert pairing.found == (None, 2) and pairing.ambiguous == {0: (0, 1)}


def test_many_pairs_need_no_time_that_grows_with_their_square():
  names = [f'cam{index}/image.jpg' for index in range(5000)]
  others = [name.replace('jpg', 'png') for name in names[::-1]]
  assert image_names.pair(names, others).found == tuple(range(4999, -1, -1))


def test_ids_of_both_types_have_an_order():
  assert sorted(['b', 10, '1', 2, 'a'], key=image_names.id_order) == [2, 10, '1', 'a', 'b']


@pytest.mark.parametrize('image_id, known, other', [
    ('1', [0, 1], 1), (7, ['007'], '007'), ('0007', ['x', '07'], '07'), ('a', ['A'], None),
    (1, [2], None), ('9' * 5000, [1], None)])
def test_ids_that_differ_in_their_type_alone(image_id, known, other):
  assert image_names.other_type(image_id, known) == other


def test_the_hint_names_both_types():
  hint = image_names.type_hint('1', [1])
  assert "the text '1'" in hint and 'the number 1' in hint
  assert image_names.type_hint('x', [1]) == ''
