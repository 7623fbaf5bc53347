"""The script that draws folders of classes, as a user runs it."""

import numpy as np
import programs
from PIL import Image

import deeplab_tf
from deeplab_tf.data import catalog, shapes

PROGRAM = 'scripts/draw_class_folders.py'


def test_folders_are_a_data_set_of_images_with_classes(tmp_path):
  folder = tmp_path / 'drawn'
  done = programs.run(PROGRAM, f'--output_dir={folder}', '--train_images=3', '--val_images=1')
  assert done.stdout.startswith('6 classes, 3 images of each to train and 1 to evaluate')
  config = deeplab_tf.load_config(
      programs.ROOT / 'configs' / 'shapes' / 'axial_resnet_s.textproto', [
          f'train_dataset_options {{ image_folders {{ image_dir: "{folder}/train" }} }}'
          f'eval_dataset_options {{ image_folders {{ image_dir: "{folder}/val" }} }}'])
  for options in (config.train_dataset_options, config.eval_dataset_options):
    assert catalog.from_options(options).class_names == tuple(sorted(shapes.THINGS))
  images = [np.asarray(Image.open(path)) for path in sorted(folder.glob('*/*/*.png'))]
  assert len(images) == 24 and {image.shape for image in images} == {(64, 64, 3)}
  assert len({image.tobytes() for image in images}) == 24
  error = programs.error_line(PROGRAM, f'--output_dir={folder}')
  assert 'drawn is there already; give a new folder' in error
