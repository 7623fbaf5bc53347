"""Files by the names that a JSON states."""

import unicodedata

import pytest

from deeplab_tf.metrics.stated_files import StatedFiles

ACCENT = 'caf\u00e9.png'


@pytest.mark.parametrize('stated, there', [
    ('a/b.png', 'a/b.png'), ('a\\b.png', 'a/b.png'), ('a/B.PNG', 'a/b.png'),
    ('.\\a\\b.png', 'a/b.png'), (unicodedata.normalize('NFD', ACCENT), ACCENT),
    (ACCENT, unicodedata.normalize('NFD', ACCENT))])
def test_other_spellings_are_found(tmp_path, stated, there):
  (tmp_path / there).parent.mkdir(exist_ok=True)
  (tmp_path / there).touch()
  (tmp_path / 'z.png').touch()
  assert StatedFiles(tmp_path).find(stated) == tmp_path / there


def test_a_spelling_of_several_files_is_no_guess(tmp_path):
  for name in ('b.png', 'B.png'):
    (tmp_path / name).touch()
  if len(list(tmp_path.iterdir())) < 2:
    pytest.skip('the file system knows no capitals')
  files = StatedFiles(tmp_path)
  assert files.find('b.png') == tmp_path / 'b.png' and files.find('b.PNG') is None
  assert files.near('b.PNG') == '; near that name is B.png, b.png'


def test_near_names_are_shown(tmp_path):
  (tmp_path / 'city').mkdir()
  (tmp_path / 'city' / 'a_gtFine_panoptic.png').touch()
  files = StatedFiles(tmp_path)
  assert files.find('a_leftImg8bit.png') is None
  assert files.near('a_leftImg8bit.png') == '; near that name is city/a_gtFine_panoptic.png'
  assert files.near('b.png') == '' and StatedFiles(tmp_path / 'none').find('b.png') is None
