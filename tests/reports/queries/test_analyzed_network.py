"""The query of each pixel, with post-processing that reports it and without."""

import numpy as np
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.data import catalog
from deeplab_tf.postprocessing.mask_transformer import (
  MaskTransformerPostprocessor,
  PixelwiseOptions,
)
from deeplab_tf.reports.queries import analyzed_network

SIZE = (17, 21)


def _outputs(info, queries=12):
  rng = np.random.default_rng(0)
  coarse = rng.normal(size=(1, 5, 6, queries)) * 6
  return {'mask_logits': tf.image.resize(tf.constant(coarse, tf.float32), SIZE),
          'class_logits': tf.constant(rng.normal(size=(1, queries, len(info.class_ids) + 1)) * 4,
                                      tf.float32)}


def test_likely_queries_are_those_of_the_postprocessing():
  info = catalog.built_in('shapes')
  outputs = _outputs(info)
  postprocess = MaskTransformerPostprocessor(info, PixelwiseOptions(0.3, 0.3))
  prediction, maps = postprocess.with_queries(outputs, SIZE)
  np.testing.assert_array_equal(prediction.panoptic_map, postprocess(outputs, SIZE).panoptic_map)
  labeled = prediction.panoptic_map.numpy() != info.void_label
  assert 0.2 < labeled.mean() < 1
  found = analyzed_network.likely_queries(prediction.panoptic_map, outputs, info).numpy()
  np.testing.assert_array_equal(found[labeled], maps.query_map.numpy()[labeled])


def test_maps_are_cut_to_the_image_and_resized_with_aligned_corners():
  image = np.zeros((13, 17, 3), np.uint8)
  found = analyzed_network.AnalyzedImage(image=image, panoptic_map=image[..., 0],
                                         query_map=image[..., 0], query_class=np.zeros(1), raw={},
                                         padded_size=SIZE)
  rows, columns = np.indices((5, 6), dtype=np.float32)
  maps = np.stack([rows, columns], axis=-1)
  full = found.resized(maps)
  assert full.shape == (13, 17, 2)
  np.testing.assert_allclose(full[:, 0, 0], np.arange(13) / 4, atol=1e-5)
  np.testing.assert_allclose(full[0, :, 1], np.arange(17) / 4, atol=1e-5)
  assert found.cut(maps).shape == (4, 5, 2)
  # Beyond the last row inside, 3, which lies on pixel 12, nothing of the padding shows.
  assert found.resized_inside(maps)[..., 0].max() == 3


def test_maps_are_cut_and_resized_with_half_pixel_centers():
  image = np.zeros((16, 20, 3), np.uint8)
  found = analyzed_network.AnalyzedImage(image=image, panoptic_map=image[..., 0],
                                         query_map=image[..., 0], query_class=np.zeros(1), raw={},
                                         padded_size=(24, 32), rule='half_pixel')
  rows, columns = np.indices((3, 4), dtype=np.float32)
  maps = np.stack([rows, columns], axis=-1)
  full = found.resized(maps)
  np.testing.assert_allclose(full[:, 0, 0], np.maximum((np.arange(16) + 0.5) / 8 - 0.5, 0),
                             atol=1e-5)
  np.testing.assert_allclose(full[0, :, 1], np.maximum((np.arange(20) + 0.5) / 8 - 0.5, 0),
                             atol=1e-5)
  assert found.cut(maps).shape == (2, 3, 2)


def test_images_of_any_size_and_normalization_are_shown_as_they_are(tmp_path):
  config = deeplab_tf.load_config(tiny.write_config(tmp_path), [
      'clear: "eval_dataset_options.crop_size" eval_dataset_options { size_divisor: 16 }',
      'model_options { image_normalization: IMAGENET }'])
  prefix = convert.save_checkpoint(deeplab_tf.build_model(config), str(tmp_path / 'ckpt-0'))
  network = analyzed_network.AnalyzedNetwork(config, prefix)
  for size, padded in (((50, 70), (64, 80)), ((37, 53), (48, 64)), ((33, 90), (48, 96))):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = network(image)
    np.testing.assert_array_equal(found.image, image)
    assert found.panoptic_map.shape == found.query_map.shape == size
    assert found.padded_size == padded
