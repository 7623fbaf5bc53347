"""Paths in command line flags."""

import os

import pytest

from deeplab_tf import arguments
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import UsageError


def _parse(*argv):
  parser = arguments.Parser('program', 'Does it.')
  parser.add_checkpoint()
  return parser.parse_args(argv).checkpoint


def test_a_tilde_is_the_home_folder_unless_something_is_called_so(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  monkeypatch.chdir(tmp_path)
  assert _parse('--checkpoint=~/runs/a') == '/home/me/runs/a'
  assert _parse('--checkpoint=a~/b') == 'a~/b'
  (tmp_path / '~').mkdir()
  assert _parse('--checkpoint=~') == '~'


@pytest.mark.parametrize('name', ['-x', 'lr=[0.1]', 'two words', '#1', '100%', '"q"', 'a/'])
def test_other_characters_stay(name):
  assert _parse(f'--checkpoint={name}') == name


def test_what_is_no_path_is_refused():
  with pytest.raises(UsageError, match='--checkpoint.*is empty'):
    _parse('--checkpoint=')
  with pytest.raises(UsageError, match='--checkpoint.*is not UTF-8'):
    _parse('--checkpoint=' + os.fsdecode(b'Gr\xf6\xdfe'))


def test_an_output_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(atomic_file.os, 'access', lambda path, mode: False)
  with pytest.raises(UsageError, match=f'/out cannot be written to: no permission to write to '
                     f'{tmp_path},'):
    arguments.check_output_dir(str(tmp_path / 'out'))


def test_where_a_new_file_would_be_made_counts(tmp_path):
  assert atomic_file.why_not_writable(tmp_path / 'a' / 'b') is None
  (tmp_path / 'file').touch()
  assert atomic_file.why_not_writable(tmp_path / 'file') is None
  assert atomic_file.why_not_writable(tmp_path / 'file' / 'b') == f'{tmp_path}/file is not a folder'
