"""Segmenter: from one image to its panoptic result."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A config, the prefix of a checkpoint and a SavedModel of it."""
  folder = tmp_path_factory.mktemp('segmenter')
  config = deeplab_tf.load_config(tiny.write_config(folder))
  keras.utils.set_random_seed(1)
  model = deeplab_tf.build_model(config)
  prefix = convert.save_checkpoint(model, str(folder / 'ckpt-0'))
  module = serving_module.build(config, catalog.from_config(config), model)
  directory = folder / 'saved_model'
  saved_model.export_saved_model(module, config, catalog.from_config(config), directory)
  return config, prefix, directory


@pytest.fixture(scope='module')
def segmenter(trained):
  return deeplab_tf.Segmenter.from_saved_model(trained[2])


def _image(height=100, width=130):
  coarse = np.random.default_rng(0).uniform(0, 255, (5, 6, 3))
  return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def test_a_result_has_the_map_the_segments_and_the_overlay(segmenter):
  image = _image()
  result = segmenter(image)
  assert result.panoptic_map.dtype == np.int32 and result.panoptic_map.shape == (100, 130)
  info = segmenter.dataset_info
  labels = set(np.unique(result.panoptic_map).tolist()) - {info.void_label}
  assert len(labels) >= 2 and {segment.id for segment in result.segments} == labels
  for segment in result.segments:
    assert segment.area == np.sum(result.panoptic_map == segment.id)
    category = info.by_class_id[segment.class_id]
    assert segment.id // info.label_divisor == segment.class_id
    assert (segment.category_id, segment.isthing) == (category.category_id, category.isthing)
    assert 0 <= segment.score <= 1
  areas = [segment.area for segment in result.segments]
  assert areas == sorted(areas, reverse=True)
  overlay = result.overlay()
  assert overlay.dtype == np.uint8 and overlay.shape == image.shape and (overlay != image).any()


def test_checkpoint_and_saved_model_agree(trained, segmenter):
  config, prefix, _ = trained
  other = deeplab_tf.Segmenter.from_checkpoint(config, prefix)
  one, two = segmenter(_image()), other(_image())
  np.testing.assert_array_equal(one.panoptic_map, two.panoptic_map)
  assert [s._replace(score=0) for s in one.segments] == [s._replace(score=0) for s in two.segments]
  np.testing.assert_allclose([s.score for s in one.segments], [s.score for s in two.segments],
                             atol=1e-5)


def test_images_of_many_sizes_go_through_one_segmenter(segmenter):
  for height, width in ((1, 1), (7, 200), (65, 81), (300, 20)):
    assert segmenter(_image(height, width)).panoptic_map.shape == (height, width)


@pytest.mark.parametrize('image, message', [
    (np.zeros((4, 4, 3), np.float32), 'dtype float32.*uint8.*multiply values'),
    (np.zeros((4, 4), np.uint8), r'shape \[4, 4\].*convert it'),
    (np.zeros((4, 4, 4), np.uint8), r'shape \[4, 4, 4\].*convert it'),
    (np.zeros((1, 4, 4, 3), np.uint8), r'shape \[1, 4, 4, 3\].*one by one'),
    (np.zeros((0, 4, 3), np.uint8), 'empty'),
    ('photo.jpg', 'dtype <U9'),
])
def test_what_is_no_image_is_one_line(segmenter, image, message):
  with pytest.raises(ValueError, match=message) as error:
    segmenter(image)
  assert '\n' not in str(error.value)


def test_a_folder_that_is_no_export_is_one_line(trained, tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no saved_model.pb'):
    deeplab_tf.Segmenter.from_saved_model(tmp_path)
  foreign = tf.Module()
  foreign.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec([])])
  tf.saved_model.save(foreign, str(tmp_path / 'foreign'))
  with pytest.raises(ValueError, match='not one of trainer/export.py'):
    deeplab_tf.Segmenter.from_saved_model(tmp_path / 'foreign')
  (tmp_path / 'foreign' / 'saved_model.pb').write_bytes(b'broken')
  extra = tmp_path / 'foreign' / 'assets.extra'
  extra.mkdir()
  source = trained[2] / 'assets.extra' / 'dataset.json'
  (extra / 'dataset.json').write_bytes(source.read_bytes())
  with pytest.raises(ValueError, match='TensorFlow cannot read.*another copy') as error:
    deeplab_tf.Segmenter.from_saved_model(tmp_path / 'foreign')
  assert '\n' not in str(error.value)
