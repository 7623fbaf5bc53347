"""Files that operating systems leave in folders are ignored by everything that lists a folder."""

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import build
from deeplab_tf.scoring import semantic_files

HIDDEN = ('._a.png', '._a.jpg', '.DS_Store', 'Thumbs.db', 'desktop.ini', '._a_leftImg8bit.png',
          '._b_gtFine_instanceIds.png')


def save(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def litter(root):
  """Leaves hidden files in all folders, and hidden folders."""
  for folder in [root, *(path for path in root.rglob('*') if path.is_dir())]:
    for name in HIDDEN:
      (folder / name).write_bytes(b'\0\5\26\7')
    (folder / '__MACOSX').mkdir()
    (folder / '__MACOSX' / 'x.png').write_bytes(b'\0\5\26\7')


def rgb():
  return np.full((6, 8, 3), 100, np.uint8)


def label_folders(root):
  for name in ('a', 'b'):
    save(root / 'images' / f'{name}.jpg', rgb())
    save(root / 'labels' / f'{name}.png', np.ones((6, 8), np.uint8))
  config = root.parent / 'mine.textproto'
  config.write_text(
      f'model_options {{ max_deeplab {{}} }} train_dataset_options {{ dataset: "label_folders" '
      f'crop_size: [33, 33] label_folders {{ image_dir: "{root}/images" label_dir: "{root}/labels" '
      'encoding: SEMANTIC categories { id: 1 name: "road" } } }')
  return ['--dataset=label_folders', f'--config_file={config}']


def image_folders(root):
  for name in ('cat', 'dog'):
    save(root / name / 'a.jpg', rgb())
  return ['--dataset=image_folders', f'--root={root}']


def coco(root):
  for name in ('1', '2'):
    save(root / 'test2017' / f'{name}.jpg', rgb())
  return ['--dataset=coco_panoptic', f'--root={root}', '--split=test']


def cityscapes(root):
  for name in ('b_0_1', 'b_0_2'):
    save(root / f'leftImg8bit/train/b/{name}_leftImg8bit.png', rgb())
    save(root / f'gtFine/train/b/{name}_gtFine_instanceIds.png', np.full((6, 8), 7, np.uint8))
  return ['--dataset=cityscapes_panoptic', f'--root={root}']


def ade20k(root):
  for name in ('a', 'b'):
    save(root / f'images/training/{name}.jpg', rgb())
    save(root / f'annotations/training/{name}.png', np.ones((6, 8), np.uint8))
    save(root / f'annotations_instance/training/{name}.png', np.zeros((6, 8, 3), np.uint8))
  return ['--dataset=ade20k_panoptic', f'--root={root}']


def vistas(root):
  for name in ('a', 'b'):
    save(root / f'training/images/{name}.jpg', rgb())
    save(root / f'training/instances/{name}.png', np.zeros((6, 8), np.uint8))
  return ['--dataset=mapillary_vistas', f'--root={root}']


@pytest.mark.parametrize('make', [label_folders, image_folders, coco, cityscapes, ade20k, vistas])
def test_no_data_set_takes_them_for_data(tmp_path, capsys, make):
  arguments = make(tmp_path / 'root')
  litter(tmp_path / 'root')
  if not any(argument.startswith('--split') for argument in arguments):
    arguments.append('--split=train')
  assert cli.run(build.main, [*arguments, '--dry_run']) == 0, capsys.readouterr()
  output = capsys.readouterr().out
  assert output.startswith('images: 2,') and output.endswith('problems: 0\n')
  assert cli.run(build.main, [*arguments, f'--output_dir={tmp_path}/records']) == 0
  assert capsys.readouterr().out.startswith('2 images in 1 files')


def test_semantic_scores_pass_over_them(tmp_path):
  for folder in ('truth', 'guesses'):
    save(tmp_path / folder / 'city' / 'a.png', np.ones((6, 8), np.uint8))
  save(tmp_path / 'guesses' / 'city' / 'b.PNG', np.ones((6, 8), np.uint8))
  save(tmp_path / 'truth' / 'city' / 'b.png', np.ones((6, 8), np.uint8))
  litter(tmp_path / 'truth')
  score = semantic_files.label_png_score(tmp_path / 'truth', tmp_path / 'guesses', 3)
  assert score.metric.result()['miou_union'] == 1
