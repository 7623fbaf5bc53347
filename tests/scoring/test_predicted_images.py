"""Names, files and ids of the images to predict."""

import json

import pytest

from deeplab_tf.scoring import predicted_images
from deeplab_tf.user_errors import MissingFileError, UsageError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def _make(tmp_path, *names):
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()


def _named(*paths, ground_truth=None, output_dir='out'):
  """File name -> output and id."""
  if ground_truth is not None:
    with open('gt.json', 'w', encoding='utf-8') as file:
      json.dump({'images': [{'id': image_id, 'file_name': name}
                            for name, image_id in ground_truth.items()]}, file)
  found = predicted_images.find(paths, output_dir)
  images = predicted_images.name(found, output_dir,
                                 None if ground_truth is None else 'gt.json')
  return {image.file_name: (image.output, image.image_id) for image in images}


def test_the_number_or_the_name_of_a_file_is_its_id(tmp_path):
  _make(tmp_path, 'val/000000000139.jpg', 'val/b.JPG', 'val/notes.txt', 'val/._b.JPG',
        'val/.hidden/c.png', 'val/city/city_000001_000019_leftImg8bit.png',
        'val/20190101123456789012.png')
  assert _named('val') == {
      '000000000139.jpg': ('000000000139', 139), 'b.JPG': ('b', 'b'),
      '20190101123456789012.png': ('20190101123456789012', '20190101123456789012'),
      'city/city_000001_000019_leftImg8bit.png': (
          'city/city_000001_000019_leftImg8bit', 'city_000001_000019')}


def test_ids_that_would_be_one_are_whole_names(tmp_path):
  _make(tmp_path, 'a/007.png', 'a/7.jpg', 'a/8.jpg')
  assert _named('a') == {'007.png': ('007', '007'), '7.jpg': ('7', '7'), '8.jpg': ('8', 8)}
  _make(tmp_path, 'b/x.png', 'b/x.jpg', 'b/y.jpg', 'b/c/y.jpg')
  assert _named('b') == {'x.png': ('x_2', 'x.png'), 'x.jpg': ('x', 'x.jpg'),
                         'y.jpg': ('y', 'y'), 'c/y.jpg': ('c/y', 'c/y')}


def test_folders_are_searched_with_those_inside(tmp_path):
  _make(tmp_path, 'val/cam0/000001.jpg', 'val/cam1/000001.jpg')
  expected = {'cam0/000001.jpg': ('cam0/000001', 'cam0/000001'),
              'cam1/000001.jpg': ('cam1/000001', 'cam1/000001')}
  assert _named('val') == expected
  # One by one they have the same names.
  assert _named('val/cam0', 'val/cam1') == expected
  assert _named('val/cam0/000001.jpg', 'val/cam1') == expected
  assert _named('val/cam0') == {'000001.jpg': ('000001', 1)}


def test_what_was_written_is_no_image(tmp_path):
  _make(tmp_path, 'val/a.jpg', 'val/out/a.png', 'val/out/deeper/b.png', 'val/old/predictions.json',
        'val/old/a.png', 'val/old/deeper/b.png', 'val/fine/c.png')
  assert set(_named('val', output_dir='val/out')) == {'a.jpg', 'fine/c.png'}
  with pytest.raises(UsageError, match='would be overwritten'):
    _named('val', output_dir='val')
  _make(tmp_path, 'b.jpg', 'val/sub/b.png', 'sub/b.png')
  with pytest.raises(UsageError, match=r'holds .*b\.png, which would be overwritten'):
    _named('val/sub', 'sub', output_dir='val/..//')


def test_an_image_is_taken_once(tmp_path):
  _make(tmp_path, 'val/cam0/1.jpg')
  assert len(_named('val', 'val/cam0', 'val/cam0/1.jpg', './val/cam0/1.jpg')) == 1


def test_ids_of_a_ground_truth_are_found_by_the_whole_path_first(tmp_path):
  _make(tmp_path, 'val/cam0/1.jpg', 'val/cam1/1.jpg', 'val/c_0_1_leftImg8bit.png')
  truth = {'cam1\\1.JPG': 5, 'cam0/1.jpg': '6', 'c_0_1_gtFine_leftImg8bit.png': 'c_0_1'}
  assert {name: image_id for name, (_, image_id) in _named('val', ground_truth=truth).items()} == {
      'cam0/1.jpg': '6', 'cam1/1.jpg': 5, 'c_0_1_leftImg8bit.png': 'c_0_1'}
  assert _named('val/cam1', ground_truth=truth) == {'1.jpg': ('1', 5)}
  # Whatever the folder is called, if the name is clear.
  assert _named('val/cam1', ground_truth={'images/1.png': 'x'}) == {'1.jpg': ('1', 'x')}


@pytest.mark.parametrize('truth, words', [
    ({'2.jpg': 1}, 'cam0/1.jpg: --ground_truth lists no image of this name'),
    ({'cam0/1.jpg': 1}, 'cam1/1.jpg: --ground_truth lists no image of this name'),
    ({'a/1.jpg': 1, 'b/1.jpg': 2}, 'ambiguous: --ground_truth lists a/1.jpg, b/1.jpg'),
    ({'1.jpg': 1}, 'val/cam0/1.jpg, val/cam1/1.jpg fit 1.jpg of --ground_truth equally well'),
    ({}, 'has no list "images"'),
])
def test_a_name_that_is_not_clear_is_no_guess(tmp_path, truth, words):
  _make(tmp_path, 'val/cam0/1.jpg', 'val/cam1/1.jpg')
  with pytest.raises(UsageError) as error:
    _named('val', ground_truth=truth)
  assert words in str(error.value)


def test_wrong_use_is_named(tmp_path):
  with pytest.raises(MissingFileError, match='gone: no such image'):
    _named('gone')
  _make(tmp_path, 'a/notes.txt', 'a/Thumbs.db')
  with pytest.raises(UsageError, match='a: holds no .jpg'):
    _named('a')
  _make(tmp_path, 'b/line\nbreak.png')
  with pytest.raises(UsageError, match='cannot be printed; rename'):
    _named('b')
