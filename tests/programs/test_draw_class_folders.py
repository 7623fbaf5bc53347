"""scripts/draw_class_folders.py, run as a user runs it."""

import importlib.util
import itertools

import numpy as np
import programs
import pytest
from PIL import Image

import deeplab_tf
from deeplab_tf.data import catalog
from deeplab_tf.data.sources import _shape_scenes

PROGRAM = 'scripts/draw_class_folders.py'
_SPEC = importlib.util.spec_from_file_location('draw_class_folders', programs.ROOT / PROGRAM)
draw_class_folders = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(draw_class_folders)


def test_folders_are_a_data_set_of_images_with_classes(tmp_path):
  folder = tmp_path / 'drawn'
  done = programs.run(PROGRAM, f'--output_dir={folder}', '--train_images=3', '--val_images=1')
  assert done.stdout.startswith('6 classes, 3 images of each to train and 1 to evaluate')
  config = deeplab_tf.load_config(
      programs.ROOT / 'configs' / 'shapes' / 'axial_resnet_s.textproto', [
          f'train_dataset_options {{ image_folders {{ image_dir: "{folder}/train" }} }}'
          f'eval_dataset_options {{ image_folders {{ image_dir: "{folder}/val" }} }}'])
  for options in (config.train_dataset_options, config.eval_dataset_options):
    assert catalog.from_options(options).class_names == tuple(sorted(_shape_scenes.THINGS))
  images = [np.asarray(Image.open(path)) for path in sorted(folder.glob('*/*/*.png'))]
  assert len(images) == 24 and {image.shape for image in images} == {(64, 64, 3)}
  assert len({image.tobytes() for image in images}) == 24
  error = programs.error_line(PROGRAM, f'--output_dir={folder}')
  assert 'drawn already exists; give a new folder' in error


@pytest.mark.parametrize('error,code', [(KeyboardInterrupt, 130), (PermissionError, 2)])
@pytest.mark.parametrize('is_there', [False, True])
def test_what_is_stopped_half_way_leaves_nothing(tmp_path, monkeypatch, error, code, is_there):
  folder = tmp_path / 'drawn'
  if is_there:
    folder.mkdir()
  objects = draw_class_folders._objects

  def stopped(split):
    yield from itertools.islice(objects(split), 9 if split == 'val' else None)
    raise error

  flags = [f'--output_dir={folder}/', '--train_images=1', '--val_images=5']
  with monkeypatch.context() as patch:
    patch.setattr(draw_class_folders, '_objects', stopped)
    assert draw_class_folders.main(flags) == code
  assert not list(tmp_path.glob('*/*')) and not list(tmp_path.glob('.*'))
  assert draw_class_folders.main(flags) == 0
  assert [path.name for path in tmp_path.iterdir()] == ['drawn']
  assert sorted(path.name for path in folder.iterdir()) == ['train', 'val']
  assert len(list(folder.glob('*/*/*.png'))) == 36
  (tmp_path / 'made').mkdir()
  assert folder.stat().st_mode == (tmp_path / 'made').stat().st_mode


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
  (tmp_path / 'file').write_text('')
  assert draw_class_folders.main([f'--output_dir={tmp_path}/file/drawn']) == 2
  assert 'file/drawn cannot be created: Not a directory' in capsys.readouterr().err

  def read_only(**_):
    raise OSError(30, 'Read-only file system')

  monkeypatch.setattr(draw_class_folders.tempfile, 'TemporaryDirectory', read_only)
  assert draw_class_folders.main([f'--output_dir={tmp_path}/drawn']) == 2
  assert 'drawn: cannot be written beside it (Read-only' in capsys.readouterr().err
