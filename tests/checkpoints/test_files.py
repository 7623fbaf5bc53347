"""Only complete checkpoints are used, whatever an interrupted save or a bad disk has left."""

import os
import random
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.checkpoints import files, restore

DATA = 'data-00000-of-00001'


def _save(folder, *steps, max_to_keep=10):
  checkpoint = tf.train.Checkpoint(model=_model(0), name=tf.Variable(['a', 'b']),
                                   step=tf.Variable(0, dtype=tf.int64))
  manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep)
  for step in steps:
    checkpoint.step.assign(step)
    manager.save(step)
  return f'{folder}/ckpt-{steps[-1]}'


def _model(step):
  model = tf.Module()
  model.kernel = tf.Variable(tf.random.stateless_normal([30, 40], [step, 0]))
  model.bias = tf.Variable(tf.zeros([40]))
  return model


def _names(folder):
  return sorted(os.listdir(folder))


def _change(path, change):
  content = bytearray(path.read_bytes())
  path.write_bytes(change(content))


def _flip(content, position):
  content[position] ^= 1 << position % 8
  return bytes(content)


# === Which are whole ===


def test_a_saved_checkpoint_is_whole(tmp_path):
  assert files.corruption(_save(tmp_path, 4)) is None


@pytest.mark.parametrize('part', ['index', DATA])
def test_a_checkpoint_cut_anywhere_is_not_whole(part, tmp_path):
  prefix = _save(tmp_path, 4)
  path = tmp_path / f'ckpt-4.{part}'
  content = path.read_bytes()
  for end in [*range(0, len(content), len(content) // 23), len(content) - 1]:
    path.write_bytes(content[:end])
    reason = files.corruption(prefix)
    assert reason and '\n' not in reason, end


@pytest.mark.parametrize('part', ['index', DATA])
def test_a_checkpoint_with_a_wrong_bit_is_not_whole(part, tmp_path):
  prefix = _save(tmp_path, 4)
  path = tmp_path / f'ckpt-4.{part}'
  content = path.read_bytes()
  # The end of an index is a footer of fixed length, in part unused.
  end = len(content) - (60 if part == 'index' else 0)
  for position in random.Random(1).sample(range(end), 40):
    path.write_bytes(_flip(bytearray(content), position))
    reason = files.corruption(prefix)
    assert reason and '\n' not in reason, position


def test_no_bit_of_an_index_footer_changes_what_is_read(tmp_path):
  prefix = _save(tmp_path, 4)
  path = tmp_path / 'ckpt-4.index'
  content = path.read_bytes()
  expected = restore.read_variable(prefix, 'kernel')
  for position in range(len(content) - 60, len(content)):
    path.write_bytes(_flip(bytearray(content), position))
    if files.corruption(prefix) is None:
      np.testing.assert_array_equal(restore.read_variable(prefix, 'kernel'), expected)


def test_the_reason_names_what_is_missing(tmp_path):
  prefix = _save(tmp_path, 4)
  os.remove(f'{prefix}.{DATA}')
  assert 'ckpt-4.data' in files.corruption(prefix)
  os.remove(f'{prefix}.index')
  assert files.corruption(prefix) == 'its index file is missing'


def test_a_mixture_of_two_saves_of_a_step_is_not_whole(tmp_path):
  # The data file is renamed into place before the index is written.
  prefix = _save(tmp_path / 'a', 4)
  tf.train.Checkpoint(model=_model(1)).write(str(tmp_path / 'b'))
  shutil.copy(tmp_path / f'b.{DATA}', f'{prefix}.{DATA}')
  assert files.corruption(prefix)


def test_the_newest_whole_one_is_found_and_corrupt_ones_are_told(tmp_path):
  prefix = _save(tmp_path, 4, 8, 10, 12)
  warnings = []
  assert files.newest_whole(str(tmp_path), warnings.append) == prefix
  assert not warnings
  _change(tmp_path / 'ckpt-12.index', lambda content: content[:100])
  _change(tmp_path / f'ckpt-10.{DATA}', lambda content: _flip(content, 70))
  assert files.newest_whole(str(tmp_path), warnings.append) == f'{tmp_path}/ckpt-8'
  assert len(warnings) == 2 and not any('\n' in line for line in warnings)
  assert f'{tmp_path}/ckpt-12 is not whole (' in warnings[0]
  assert f'{tmp_path}/ckpt-10 is not whole (model/kernel' in warnings[1]
  assert all(f'using the one before, {tmp_path}/ckpt-8' in line for line in warnings)


@pytest.mark.parametrize('state', [
    None, b'', b'garbage \xff {', b'model_checkpoint_path: "ckpt-4"'])
def test_the_file_of_names_is_not_needed(state, tmp_path):
  prefix = _save(tmp_path, 4, 10)
  os.remove(tmp_path / 'checkpoint')
  if state is not None:
    (tmp_path / 'checkpoint').write_bytes(state)
  assert files.newest_whole(str(tmp_path)) == prefix
  assert restore.find_checkpoint(tmp_path) == prefix


def test_without_a_whole_checkpoint_one_line_tells_what_to_do(tmp_path):
  assert files.newest_whole(str(tmp_path)) is None
  assert files.newest_whole(str(tmp_path / 'nothing')) is None
  _save(tmp_path, 4, 10)
  for step in (4, 10):
    _change(tmp_path / f'ckpt-{step}.{DATA}', lambda content: content[:-1])
  wanted = 'none of its 2 checkpoints.*ckpt-10.*move its ckpt'
  with pytest.raises(ValueError, match=wanted) as error:
    files.newest_whole(str(tmp_path))
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='none of its 2 checkpoints'):
    restore.find_checkpoint(tmp_path)


def test_find_checkpoint_warns_on_standard_error(tmp_path, capsys):
  _save(tmp_path, 4, 10)
  (tmp_path / 'ckpt-10.index').write_bytes(b'')
  assert restore.find_checkpoint(tmp_path) == f'{tmp_path}/ckpt-4'
  output = capsys.readouterr()
  assert not output.out
  assert output.err.startswith('WARNING: ') and output.err.count('\n') == 1


# === What is left over ===


def _leave_what_a_killed_save_leaves(folder):
  """Files of saves of steps 12 to 14 that were killed at one place each."""
  (folder / 'ckpt-12_temp').mkdir()
  (folder / 'ckpt-12_temp' / f'part-00000-of-00001.{DATA}.tempstate123').write_bytes(b'abc')
  (folder / 'ckpt-13_temp').mkdir()
  (folder / 'ckpt-13_temp' / 'part-00000-of-00001.index').write_bytes(b'abc')
  (folder / f'ckpt-13.{DATA}').write_bytes(b'abc')
  (folder / f'ckpt-14.{DATA}').write_bytes(b'abc')
  (folder / f'checkpoint.tmp{"0a" * 16}').write_bytes(b'abc')
  (folder / '.ckpt-10.ab_12cde').mkdir()
  return ['.ckpt-10.ab_12cde', f'checkpoint.tmp{"0a" * 16}', 'ckpt-12_temp', f'ckpt-13.{DATA}',
          'ckpt-13_temp', f'ckpt-14.{DATA}']


def test_what_a_killed_save_left_is_passed_over_and_removed(tmp_path):
  prefix = _save(tmp_path, 4, 10)
  for name in ('config.textproto', 'events.1', 'ckpt.notes', 'my_temp'):
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / 'eval_temp').mkdir()
  before = _names(tmp_path)
  left = _leave_what_a_killed_save_leaves(tmp_path)
  warnings = []
  assert files.newest_whole(str(tmp_path), warnings.append) == prefix
  assert not warnings
  assert files.remove_leftovers(str(tmp_path)) == left
  assert _names(tmp_path) == before
  assert files.remove_leftovers(str(tmp_path / 'nothing')) == []


def test_a_manager_saves_over_what_a_killed_save_left(tmp_path):
  _save(tmp_path, 4, 10)
  _leave_what_a_killed_save_leaves(tmp_path)
  assert files.corruption(_save(tmp_path, 12, 13)) is None
  assert files.corruption(f'{tmp_path}/ckpt-12') is None


# === Writing ===


def test_a_copy_is_whole_and_alone_in_its_folder(tmp_path):
  _save(tmp_path, 4, 10)
  best = tmp_path / 'best'
  assert files.copy_checkpoint(f'{tmp_path}/ckpt-10', str(best)) == f'{best}/ckpt-10'
  # A better one of a lower step, after a restart.
  copy = files.copy_checkpoint(f'{tmp_path}/ckpt-4', str(best))
  assert files.corruption(copy) is None
  assert _names(best) == ['checkpoint', f'ckpt-4.{DATA}', 'ckpt-4.index']
  assert tf.train.latest_checkpoint(str(best)) == copy == restore.find_checkpoint(best)
  assert os.stat(f'{copy}.{DATA}').st_ino == os.stat(f'{tmp_path}/ckpt-4.{DATA}').st_ino
  assert files.newest_whole(str(tmp_path)) == f'{tmp_path}/ckpt-10'


def test_a_copy_outlives_its_source_and_a_new_save_of_its_step(tmp_path):
  prefix = _save(tmp_path, 4)
  copy = files.copy_checkpoint(prefix, str(tmp_path / 'best'))
  value = restore.read_variable(copy, 'kernel')
  other = tf.train.Checkpoint(model=_model(1), more=tf.Variable(tf.zeros([100])))
  other.write(prefix)
  assert files.corruption(prefix) is None and files.corruption(copy) is None
  np.testing.assert_array_equal(restore.read_variable(copy, 'kernel'), value)
  # And the new save replaces the copy of the same step.
  files.copy_checkpoint(prefix, str(tmp_path / 'best'))
  assert files.corruption(copy) is None
  assert (restore.read_variable(copy, 'kernel') != value).any()
  files.copy_checkpoint(prefix, str(tmp_path / 'best'))
  for name in os.listdir(tmp_path):
    if name.startswith('ckpt-4'):
      os.remove(tmp_path / name)
  assert files.corruption(copy) is None


def test_a_copy_is_made_without_links_too(tmp_path, monkeypatch):
  def no_links(source, target):
    raise OSError('Invalid cross-device link')
  monkeypatch.setattr(os, 'link', no_links)
  copy = files.copy_checkpoint(_save(tmp_path, 4), str(tmp_path / 'best'))
  assert files.corruption(copy) is None
  assert os.stat(f'{copy}.{DATA}').st_ino != os.stat(f'{tmp_path}/ckpt-4.{DATA}').st_ino


@pytest.mark.parametrize('killed_at', [1, 2, 3])
def test_a_killed_copy_is_whole_or_absent(killed_at, tmp_path, monkeypatch):
  _save(tmp_path, 4, 10)
  best = tmp_path / 'best'
  files.copy_checkpoint(f'{tmp_path}/ckpt-4', str(best))
  calls, really = [], os.replace

  def replace(source, target):
    calls.append(target)
    if len(calls) == killed_at:
      raise KeyboardInterrupt
    really(source, target)
  monkeypatch.setattr(os, 'replace', replace)
  monkeypatch.setattr(shutil, 'rmtree', lambda *_, **__: None)  # A killed program tidies nothing.
  with pytest.raises(KeyboardInterrupt):
    files.copy_checkpoint(f'{tmp_path}/ckpt-10', str(best))
  monkeypatch.undo()
  step = 10 if killed_at == 3 else 4
  assert files.newest_whole(str(best)) == f'{best}/ckpt-{step}'
  files.copy_checkpoint(f'{tmp_path}/ckpt-10', str(best))
  assert _names(best) == ['checkpoint', f'ckpt-10.{DATA}', 'ckpt-10.index']


def test_a_copy_needs_a_checkpoint_and_a_folder_of_its_own(tmp_path):
  prefix = _save(tmp_path, 4)
  with pytest.raises(FileNotFoundError, match='ckpt-5: no such checkpoint'):
    files.copy_checkpoint(f'{tmp_path}/ckpt-5', str(tmp_path / 'best'))
  with pytest.raises(ValueError, match='folder of .* itself'):
    files.copy_checkpoint(prefix, f'{tmp_path}/.')
  assert not (tmp_path / 'best').exists()


def test_the_written_state_lets_a_manager_delete_the_old_ones_and_forgets_later_ones(tmp_path):
  _save(tmp_path, 4, 8, 10)
  (tmp_path / 'ckpt-10.index').write_bytes(b'')
  os.remove(tmp_path / 'checkpoint')
  files.write_state(f'{tmp_path}/ckpt-8')
  assert tf.train.latest_checkpoint(str(tmp_path)) == f'{tmp_path}/ckpt-8'
  _save(tmp_path, 9, max_to_keep=2)
  assert [name for name in _names(tmp_path) if name.endswith('.index')] == [
      'ckpt-10.index', 'ckpt-8.index', 'ckpt-9.index']
