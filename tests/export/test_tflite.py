"""The TensorFlow Lite file computes the same as the Python model."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers

import deeplab_tf
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module, tflite


def _module(folder, overrides=()):
  config = deeplab_tf.load_config(tiny.write_config(folder), overrides)
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  return config, info, serving_module.build(config, info, model)


@pytest.mark.slow
def test_the_interpreter_gives_the_same_maps_without_extra_operations(tmp_path):
  # Not the default normalization, so that one that is left out or another's shows.
  config, info, module = _module(tmp_path, ['model_options { image_normalization: IMAGENET }'])
  tflite.export_tflite(module, config, info, tmp_path / 'lite')
  content = (tmp_path / 'lite' / 'model.tflite').read_bytes()
  assert b'Flex' not in content, 'needs the delegate for TensorFlow operations'
  run = tf.lite.Interpreter(model_content=content).get_signature_runner()
  coarse = np.random.default_rng(0).uniform(0, 255, (1, 5, 6, 3))
  images = tf.cast(tf.image.resize(coarse, (65, 81)), tf.uint8).numpy()
  actual, expected = run(images=images), module.predict(images)
  assert (actual['segment_ids'] >= 0).sum() >= 2, 'the test needs segments'
  # Another order of sums may move a border by a pixel.
  assert np.mean(actual['panoptic_map'] != expected['panoptic_map'].numpy()) < 1e-3
  np.testing.assert_array_equal(actual['segment_classes'], expected['segment_classes'])
  np.testing.assert_allclose(actual['segment_scores'], expected['segment_scores'], atol=1e-4)
  assert DatasetInfo.from_json((tmp_path / 'lite' / 'dataset.json').read_text()) == info


def test_without_a_crop_size_there_is_no_fixed_input(tmp_path):
  config, info, module = _module(tmp_path)
  config.eval_dataset_options.ClearField('crop_size')
  module.augmentation = module.augmentation._replace(crop_size=())
  with pytest.raises(ValueError, match='crop_size is not set: a tflite file has one input size'):
    tflite.export_tflite(module, config, info, tmp_path / 'lite')
  assert not (tmp_path / 'lite').exists()


@pytest.mark.slow
def test_a_centre_model_needs_no_extra_operations_either(tmp_path):
  config = deeplab_tf.load_config(tiny_centers.write_config(tmp_path))
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  module = serving_module.build(config, info, serving_module.build_network(config, info))
  tflite.export_tflite(module, config, info, tmp_path / 'lite')
  content = (tmp_path / 'lite' / 'model.tflite').read_bytes()
  assert b'Flex' not in content
  run = tf.lite.Interpreter(model_content=content).get_signature_runner()
  coarse = np.random.default_rng(0).uniform(0, 255, (1, 5, 6, 3))
  images = tf.cast(tf.image.resize(coarse, tiny_centers.CROP), tf.uint8).numpy()
  actual, expected = run(images=images), module.predict(images)
  assert (actual['segment_ids'] >= 0).sum() >= 2, 'the test needs segments'
  assert np.mean(actual['panoptic_map'] != expected['panoptic_map'].numpy()) < 1e-2
  assert actual['segment_scores'].shape == expected['segment_scores'].shape
