"""Folders and prefixes may have any name: brackets in paths are not patterns."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from odd_paths import NAMES, as_nobody

from deeplab_tf.checkpoints import convert, files, literal_paths, restore
from deeplab_tf.export import saved_model
from deeplab_tf.training import checkpointing
from deeplab_tf.user_errors import HostError


def _state(value):
  model = tf.Module()
  model.kernel = tf.Variable(tf.fill([3], float(value)))
  return {'model': model, 'global_step': tf.Variable(value, dtype=tf.int64)}


def _train(folder, *steps):
  """Saves at some steps, keeps two; the model's kernel is the step."""
  items = _state(0)
  manager = checkpointing.make_manager(checkpointing.make_checkpoint(items), str(folder), 2,
                                       checkpointing.latest(str(folder)))
  for step in steps:
    items['global_step'].assign(step)
    items['model'].kernel.assign(tf.fill([3], float(step)))
    manager.save(step)
  return manager


@pytest.mark.parametrize('name', NAMES)
def test_checkpoints_of_a_folder_are_saved_removed_found_and_read(name, tmp_path):
  folder = tmp_path / name
  manager = _train(folder, 1, 2, 3)
  assert manager.newest == f'{folder}/ckpt-3'
  manager = _train(folder, 4)  # Started again, it counts the two that are there.
  assert sorted(p.stem for p in folder.glob('*.index')) == ['ckpt-3', 'ckpt-4']
  assert sorted(p.stem for p in folder.glob('*.data-*')) == ['ckpt-3', 'ckpt-4']
  assert files.corruption(f'{folder}/ckpt-3') is None
  assert restore.find_checkpoint(str(folder)) == f'{folder}/ckpt-4'
  assert restore.read_step(f'{folder}/ckpt-4') == 4
  model = _state(0)['model']
  restore.load_checkpoint(model, str(folder))
  np.testing.assert_array_equal(model.kernel, [4, 4, 4])
  copy = files.copy_checkpoint(f'{folder}/ckpt-3', f'{folder}/best [x]')
  assert restore.read_variable(copy, 'kernel').tolist() == [3, 3, 3]
  items = _state(0)
  checkpointing.restore_training(checkpointing.make_checkpoint(items), f'{folder}/ckpt-4',
                                 tf.distribute.get_strategy())
  assert int(items['global_step']) == 4


def test_a_folder_that_is_a_pattern_leaves_those_that_match_it_alone(tmp_path):
  _train(tmp_path / 'run1', 1, 2)
  _train(tmp_path / 'run[2]', 1, 2)
  _train(tmp_path / 'run*', 1, 2, 3, 4)
  for other in ('run1', 'run[2]'):
    assert restore.find_checkpoint(str(tmp_path / other)) == f'{tmp_path}/{other}/ckpt-2'
    assert files.corruption(f'{tmp_path}/{other}/ckpt-1') is None


@pytest.mark.parametrize('name', [*NAMES, 'x' * 230])
def test_a_converted_checkpoint_may_have_any_name(name, tmp_path):
  model = _state(5)['model']
  prefix = convert.save_checkpoint(model, str(tmp_path / 'to [x]' / name))
  assert prefix == f'{tmp_path}/to [x]/{name}'
  other = _state(0)['model']
  restore.load_checkpoint(other, prefix)
  np.testing.assert_array_equal(other.kernel, [5, 5, 5])
  # The folder alone names it, by the file `checkpoint`.
  assert restore.find_checkpoint(f'{tmp_path}/to [x]') == prefix
  assert restore.read_step(prefix) == 0  # No training wrote it.


@pytest.mark.parametrize('name', NAMES)
def test_a_saved_model_may_lie_in_a_folder_of_any_name(name, tmp_path):
  class Program(tf.Module):

    def __init__(self):
      super().__init__()
      self.weight = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def predict(self, x):
      return {'y': self.weight * x}

  target = tmp_path / name
  module = Program()
  with saved_model.whole_folder(str(target), 'saved_model.pb') as folder:
    tf.saved_model.save(module, literal_paths.folder(folder), {'serving_default': module.predict})
  loaded = tf.saved_model.load(literal_paths.folder(str(target)))
  assert float(loaded.signatures['serving_default'](x=tf.constant(3.0))['y']) == 6
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_harmless_names_stay_as_they_are():
  assert literal_paths.folder('runs/a b/ü#%') == 'runs/a b/ü#%'
  assert literal_paths.prefix('-x/ckpt-1') == '-x/ckpt-1'
  assert literal_paths.prefix('ckpt-1') == 'ckpt-1'


def test_links_go_with_the_process_and_leave_what_they_lead_to(tmp_path):
  (tmp_path / 'a[b]').mkdir()
  (tmp_path / 'a[b]' / 'file').write_text('kept')
  code = ('import sys\nfrom deeplab_tf.checkpoints import literal_paths\n'
          'print(literal_paths.folder(sys.argv[1]))')
  done = subprocess.run([sys.executable, '-c', code, 'a[b]'], capture_output=True, text=True,
                        check=True, cwd=tmp_path, env={**os.environ, 'TMPDIR': str(tmp_path)})
  link = done.stdout.strip()
  assert link.startswith(f'{tmp_path}/deeplab_tf_links_') and not os.path.lexists(link)
  assert [p.name for p in tmp_path.iterdir()] == ['a[b]']
  assert (tmp_path / 'a[b]' / 'file').read_text() == 'kept'


def test_without_a_temporary_folder_the_characters_are_named(tmp_path, monkeypatch):
  monkeypatch.setattr(literal_paths, '_roots', {})
  monkeypatch.setattr(literal_paths.tempfile, 'mkdtemp', _read_only)
  with pytest.raises(HostError, match=r'one of the characters \[ \] \* \? .*Read-only file system'
                     r'.*set TMPDIR'):
    literal_paths.folder(str(tmp_path / 'a[b]'))


def _read_only(**_):
  raise OSError(30, 'Read-only file system')


def test_files_that_may_not_be_read_are_not_called_corrupt(tmp_path):
  _train(tmp_path / 'run', 1, 2)
  for part in (tmp_path / 'run').glob('ckpt-2.*'):
    part.chmod(0)
  code = ('import sys\nfrom deeplab_tf import cli\nfrom deeplab_tf.checkpoints import restore\n'
          'sys.exit(cli.run(lambda _: print(restore.find_checkpoint(sys.argv[1]))))')
  done = as_nobody(sys.executable, '-c', code, str(tmp_path / 'run'))
  assert done.returncode == 2
  assert done.stderr.endswith(f'error: {tmp_path}/run/ckpt-2.index cannot be opened: '
                              'Permission denied\n')
  (tmp_path / 'run').chmod(0)
  done = as_nobody(sys.executable, '-c', code, str(tmp_path / 'run'))
  (tmp_path / 'run').chmod(stat.S_IRWXU)
  assert done.returncode == 2
  assert done.stderr.endswith(f'error: {tmp_path}/run cannot be opened: Permission denied\n')


@pytest.mark.slow
def test_a_saved_model_that_may_not_be_read_is_not_called_corrupt(tmp_path):
  folder = tmp_path / 'model'
  (folder / 'assets.extra').mkdir(parents=True)
  (folder / 'saved_model.pb').write_bytes(b'')
  (folder / 'assets.extra' / 'dataset.json').write_text('{}')
  (folder / 'saved_model.pb').chmod(0)
  code = ('import sys\nfrom deeplab_tf import cli\nimport deeplab_tf\n'
          'sys.exit(cli.run(lambda _: deeplab_tf.Segmenter.from_saved_model(sys.argv[1])))')
  done = as_nobody(sys.executable, '-c', code, str(folder))
  assert done.returncode == 2
  assert done.stderr.endswith(f'error: {folder}/saved_model.pb cannot be opened: '
                              'Permission denied\n')
