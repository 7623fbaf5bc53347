"""Averaged scores of Mask2Former: an exported model and an evaluation give the same class maps."""

import os

import numpy as np
import programs
import pytest
import tensorflow as tf
import tiny_mask2former
from PIL import Image

from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.config import load_config
from deeplab_tf.data import catalog
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.metrics.mean_iou import MeanIoU
from deeplab_tf.training import distribution, runs

# Images of 128x160 become 48x60.
OPTIONS = """
task: SEMANTIC
clear: "eval_dataset_options.crop_size"
eval_dataset_options {
  resize_rule: SHORTER_SIDE min_resize_value: 64 max_resize_value: 80 size_divisor: 32 batch_size: 1
}
evaluator_options { eval_scales: 0.75 add_flipped_images: true }
"""


@pytest.fixture(name='setting', scope='module')
def fixture_setting(tmp_path_factory):
  """Returns config, classes, the exported module and the folder of its checkpoint."""
  folder = tmp_path_factory.mktemp('run')
  config = load_config(tiny_mask2former.write_config(folder), [OPTIONS])
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  for variable in model.trainable_variables:  # New masks are flat.
    if variable.shape.rank > 1:
      variable.assign(3 * variable)
  convert.save_checkpoint(model, os.fspath(folder / 'ckpt-0'))
  return config, info, serving_module.build(config, info, model), folder


def _images(height, width):
  return np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)


def test_an_exported_model_averages_images_of_any_size(setting, tmp_path):
  config, info, module, _ = setting
  saved_model.export_saved_model(module, config, info, tmp_path / 'exported')
  predict = tf.saved_model.load(str(tmp_path / 'exported')).signatures['serving_default']
  for size in ((65, 81), (40, 90)):
    images = _images(*size)
    found = predict(images=tf.constant(images))['semantic_map'].numpy()
    assert found.shape == (2, *size) and len(np.unique(found)) > 1
    assert (found == module.predict(images)['semantic_map'].numpy()).mean() > 0.999
    alone = predict(images=tf.constant(images[1:]))['semantic_map'].numpy()
    assert (alone[0] == found[1]).mean() > 0.999
    mirrored = predict(images=tf.constant(images[:, :, ::-1]))['semantic_map'].numpy()
    assert (mirrored[:, :, ::-1] == found).mean() > 0.995


@pytest.mark.slow
def test_an_evaluation_scores_the_maps_of_the_exported_model(setting):
  config, info, module, folder = setting
  result = runs.Run(config, os.fspath(folder), 'eval', distribution.build()).run()
  metric = MeanIoU(info.class_ids, info.ignore_label)
  for index in range(3):
    image, label = _shape_scenes.generate('val', index)
    metric.update(label // info.label_divisor,
                  module.predict(tf.constant(image[None]))['semantic_map'][0].numpy())
  assert result['miou'] == pytest.approx(metric.result()['miou'], abs=2e-3)
  assert result['miou'] > 0


@pytest.mark.slow
def test_predict_averages_by_its_flags(setting, tmp_path):
  config, _, module, folder = setting
  pixels = _images(70, 90)[0]
  Image.fromarray(pixels).save(tmp_path / 'scene.png')
  (tmp_path / 'config.textproto').write_text(
      str(config).replace('eval_scales: 0.75', '').replace('add_flipped_images: true', ''))
  programs.run('evaluation/predict.py', f'--config_file={tmp_path / "config.textproto"}',
               f'--checkpoint={folder / "ckpt-0"}', f'--output_dir={tmp_path / "out"}',
               '--eval_scales=0.75', '--add_flipped_images', tmp_path / 'scene.png')
  found = np.asarray(Image.open(tmp_path / 'out' / 'scene.png'))
  expected = module.predict(tf.constant(pixels[None]))['semantic_map'][0].numpy()
  assert found.shape == expected.shape and np.mean(found == expected) > 0.999
