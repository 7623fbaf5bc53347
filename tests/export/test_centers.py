"""The SavedModel of a center model computes the same as the Python model, at any size."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_centers

import deeplab_tf
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module


def _images(batch, height, width):
  coarse = np.random.default_rng(0).uniform(0, 255, (batch, 5, 6, 3))
  return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


@pytest.mark.parametrize('overrides', [
    (), pytest.param(('clear: "eval_dataset_options.crop_size"',), marks=pytest.mark.slow),
    (tiny_centers.SEMANTIC, 'evaluator_options { add_flipped_images: true }')],
    ids=['cropped', 'own size', 'semantic, mirrored'])
def test_maps_and_segments_of_any_image(tmp_path, overrides):
  config = deeplab_tf.load_config(tiny_centers.write_config(tmp_path), overrides)
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  module = serving_module.build(config, info, model)
  saved_model.export_saved_model(module, config, info, tmp_path / 'exported')
  loaded = deeplab_tf.Segmenter.from_saved_model(tmp_path / 'exported')
  predict = tf.saved_model.load(str(tmp_path / 'exported')).signatures['serving_default']
  for size in ((60, 70), (65, 81)):
    images = _images(2, *size)
    outputs = predict(images=tf.constant(images))
    expected = module.predict(images)
    for name, value in outputs.items():
      np.testing.assert_array_equal(value, expected[name], err_msg=name)
    has_branch = model.instance_decoder is not None
    assert outputs['segment_ids'].shape == [2, 20 + 3 if has_branch else 9]
    assert outputs['panoptic_map'].shape == [2, *size]
    found = loaded(images[0])
    listed = outputs['segment_ids'][0].numpy()
    assert {s.id for s in found.segments} == set(listed[listed >= 0]) != set()
    assert found.overlay().shape == (*size, 3)
