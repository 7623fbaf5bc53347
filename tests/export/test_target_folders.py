"""Where an export may be written."""

import os
import pathlib

import pytest
import tensorflow as tf

from deeplab_tf.export import saved_model
from deeplab_tf.user_errors import HostError, UsageError


def test_an_export_without_a_name_does_not_take_the_place_of_the_current_folder(
    tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UsageError, match='has no name'), saved_model.whole_folder('', 'main'):
    pass
  assert os.listdir(tmp_path) == ['file']


def test_a_link_to_a_folder_stays_a_link(tmp_path):
  (tmp_path / 'disk').mkdir()
  (tmp_path / 'disk' / 'main').write_text('old')
  (tmp_path / 'link').symlink_to(tmp_path / 'disk')
  with saved_model.whole_folder(f'{tmp_path}/link/', 'main') as folder:
    pathlib.Path(folder, 'main').write_text('new')
  assert (tmp_path / 'link').is_symlink() and (tmp_path / 'disk' / 'main').read_text() == 'new'
  assert sorted(os.listdir(tmp_path)) == ['disk', 'link']


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, monkeypatch):
  monkeypatch.setattr(saved_model.atomic_file.os, 'access', lambda path, mode: False)
  with pytest.raises(UsageError, match='/out cannot be written to: no permission to write to '):
    saved_model.check_target(str(tmp_path / 'out'), 'main')


def test_what_tensorflow_cannot_write_is_told_and_leaves_nothing(tmp_path):
  target, wanted = str(tmp_path / 'out'), r'/out cannot be written \(no space left\)'
  with pytest.raises(HostError, match=wanted), saved_model.whole_folder(target, 'main'):
    raise tf.errors.ResourceExhaustedError(None, None, 'no space left')
  assert not os.listdir(tmp_path)


def test_a_name_as_long_as_names_may_be(tmp_path):
  target = tmp_path / ('x' * 255)
  with saved_model.whole_folder(str(target), 'main') as folder:
    pathlib.Path(folder, 'main').touch()
  assert os.listdir(target) == ['main']
