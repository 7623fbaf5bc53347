"""Which files of a folder are data, and which an operating system left there."""

import os

import pytest

from deeplab_tf import listing

_HIDDEN = ('._a.png', '.DS_Store', '.hidden.png', 'Thumbs.db', 'thumbs.db', 'desktop.ini')


@pytest.fixture(name='folder')
def _folder(tmp_path):
  for part in ('.', 'b', 'b/c', '.git', '__MACOSX', '@eaDir'):
    (tmp_path / part).mkdir(exist_ok=True)
    for name in ('a.png', 'Z.JPG', 'notes.txt', *_HIDDEN):
      (tmp_path / part / name).write_bytes(b'')
  return tmp_path


@pytest.mark.parametrize('name', _HIDDEN)
def test_files_of_operating_systems_are_hidden(name):
  assert listing.is_hidden(name)
  assert listing.is_left_by_system(name) == (name != '.hidden.png')


def test_files_of_a_folder_have_an_extension_in_any_case(folder):
  assert listing.files(folder, ('.jpg', '.png')) == ['Z.JPG', 'a.png']
  assert listing.files(folder) == ['Z.JPG', 'a.png', 'notes.txt']


def test_a_folder_named_like_an_image_is_no_file_and_a_broken_link_is_one(tmp_path):
  (tmp_path / 'folder.png').mkdir()
  (tmp_path / 'link.png').symlink_to(tmp_path / 'gone.png')
  assert listing.files(tmp_path, ('.png',)) == ['link.png']
  assert listing.folders(tmp_path) == ['folder.png']


def test_hidden_folders_are_not_looked_into(folder):
  assert listing.folders(folder) == ['b']
  assert listing.files_below(folder, ('.jpg', '.png')) == [
      'Z.JPG', 'a.png', 'b/Z.JPG', 'b/a.png', 'b/c/Z.JPG', 'b/c/a.png']


def test_a_folder_that_is_hidden_itself_may_be_asked_for(folder):
  assert listing.files(folder / '.git', ('.png',)) == ['a.png']
  assert listing.files_below(folder / '.git', ('.png',)) == ['a.png']


def test_linked_folders_are_followed_and_circles_end(tmp_path):
  (tmp_path / 'images').mkdir()
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'a.png').write_bytes(b'')
  os.symlink(tmp_path / 'other', tmp_path / 'images' / 'linked')
  os.symlink(tmp_path / 'images', tmp_path / 'other' / 'back')
  assert listing.files_below(tmp_path / 'images') == ['linked/a.png']


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    listing.files_below(tmp_path / 'gone')
