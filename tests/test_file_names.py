"""Names written by other systems are found if only one file fits."""

import unicodedata

import pytest

from deeplab_tf import file_names

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, 'straße_ü.png') for form in ('NFC', 'NFD'))


@pytest.fixture(name='folder')
def _folder(tmp_path):
  folder = tmp_path / 'train'
  for name in ('a.JPG', 'cam0/b.png', 'cam1/b.png', 'Ab.png', 'aB.png', COMPOSED, 'cam0/' +
               DECOMPOSED, '._c.png'):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b'')
  return str(folder)


@pytest.mark.parametrize('name, path', [
    ('a.JPG', 'a.JPG'), ('a.jpg', 'a.JPG'), ('./a.jpg', 'a.JPG'), ('cam0\\b.png', 'cam0/b.png'),
    ('Cam0\\B.PNG', 'cam0/b.png'), ('train\\a.jpg', 'a.JPG'), ('train/a.JPG', 'a.JPG'),
    ('C:\\data\\Train\\cam1\\b.png', 'cam1/b.png'), ('Ab.png', 'Ab.png'), ('ab.png', None),
    (DECOMPOSED, COMPOSED), ('cam0/' + COMPOSED, 'cam0/' + DECOMPOSED), ('b.png', None),
    ('cam2/b.png', None), ('c.png', None), ('', None)])
def test_a_name_is_found_where_one_file_fits(folder, name, path):
  assert file_names.resolve(folder, [name]) == {name: path}


def test_a_file_belongs_to_the_name_that_it_has(folder):
  assert file_names.resolve(folder, ['a.jpg', 'a.JPG']) == {'a.jpg': None, 'a.JPG': 'a.JPG'}
  assert file_names.resolve(folder, ['a.jpg', 'A.Jpg']) == {'a.jpg': None, 'A.Jpg': None}


@pytest.mark.parametrize('name, hint', [
    ('a.png', ' Did you mean "a.JPG"?'), ('ab.png', ' Did you mean "Ab.png"?'),
    ('cam0/a.jpg', ' Did you mean "a.JPG"?'), ('cam0/c.png', ' Did you mean "cam0/b.png"?'),
    ('unlike_all_others', '')])
def test_the_nearest_name_is_shown(folder, name, hint):
  assert file_names.nearest(folder, name) == hint


def test_stems_have_no_folders_and_composed_letters():
  assert file_names.stem('x/' + DECOMPOSED) == COMPOSED[:-4]
  assert file_names.stem('train\\a.b.jpg') == 'a.b'
