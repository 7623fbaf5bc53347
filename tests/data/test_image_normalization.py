"""Normalization: its constants, and that training, evaluation and pictures use the config's."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_classification
from training_batches import batches

from deeplab_tf import config as config_lib
from deeplab_tf.data import catalog, image_normalization, pipeline
from deeplab_tf.data import targets as targets_lib
from deeplab_tf.data.image_normalization import IMAGENET, SYMMETRIC
from deeplab_tf.protos import config_pb2
from deeplab_tf.structures import ClassPrediction, EvaluationBatch, PanopticPrediction
from deeplab_tf.training import class_evaluator, evaluator
from deeplab_tf.training.reporting import batch_pictures

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
INFO = catalog.built_in('shapes')
SHAPES = 'dataset: "shapes" max_thing_id: 16 batch_size: 2 shapes { num_images: 3 } '


def _pixels(shape=(4, 5), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def _imagenet(config):
  config.model_options.image_normalization = config.model_options.IMAGENET
  return config


def test_numbers():
  image = _pixels()
  np.testing.assert_array_equal(SYMMETRIC.apply(image), image / np.float32(127.5) - 1)
  np.testing.assert_allclose(IMAGENET.apply(image), (image - MEAN) / STD, rtol=1e-6)
  for each in (SYMMETRIC, IMAGENET):
    assert each.apply(image).dtype == tf.float32
    np.testing.assert_allclose(each.invert(each.apply(image)), image, atol=1e-4)
    assert not each.apply(tf.constant(each.mean_color)).numpy().any()
    graph = tf.function(each.apply)
    assert not graph(tf.constant(each.mean_color)).numpy().any()


def test_the_config_chooses():
  config = config_pb2.ExperimentOptions()
  assert image_normalization.build(config.model_options) is SYMMETRIC
  assert image_normalization.build(_imagenet(config).model_options) is IMAGENET


@pytest.mark.parametrize('text', [
    'crop_size: [97, 129]', 'crop_size: [140, 190]',
    'crop_size: [97, 129] augmentations { large_scale_jitter {} }'])
def test_training_images_are_the_same_pixels(experiment, text):
  config = experiment(SHAPES + text)
  symmetric = batches(config, 2)
  imagenet = batches(_imagenet(config), 2)
  for (one, targets), (other, same_targets) in zip(symmetric, imagenet):
    np.testing.assert_array_equal(targets.mask_ids, same_targets.mask_ids)
    # DeepLab2's padding is 0 in either; Mask2Former's is gray before normalization.
    padded = np.all(one == 0, -1)
    assert padded.any() == (text == 'crop_size: [140, 190]')
    assert not other[padded].any()
    expected = (np.asarray(SYMMETRIC.invert(one)) - MEAN) / STD
    np.testing.assert_allclose(other[~padded], expected[~padded], atol=1e-5)


@pytest.mark.parametrize('sizes', [
    'crop_size: [140, 190]', 'crop_size: [65, 91]',
    'size_divisor: 32 resize_rule: SHORTER_SIDE min_resize_value: 91'])
def test_evaluation_images_are_the_same_pixels_and_padding_is_0(experiment, sizes):
  config = experiment('', SHAPES + sizes)
  symmetric, imagenet = (next(iter(pipeline.eval_dataset(each, INFO)))
                         for each in (config, _imagenet(experiment('', SHAPES + sizes))))
  rows, columns = symmetric.resized_size[0].numpy()
  for batch in (symmetric, imagenet):
    assert not batch.images[:, rows:].numpy().any()
    assert not batch.images[:, :, columns:].numpy().any()
  expected = (np.asarray(SYMMETRIC.invert(symmetric.images)) - MEAN) / STD
  np.testing.assert_allclose(imagenet.images[:, :rows, :columns], expected[:, :rows, :columns],
                             atol=1e-5)


def test_image_classification(tmp_path):
  path = tiny_classification.write_experiment(tmp_path)
  found = []
  for override in ((), ('model_options { image_normalization: IMAGENET }',)):
    config = config_lib.load_config(path, override)
    info = catalog.from_config(config)
    found.append([next(iter(pipeline.train_dataset(config, info, 'class', 0)))[0],
                  next(iter(pipeline.eval_dataset(config, info))).images])
  for symmetric, imagenet in zip(*found):
    np.testing.assert_allclose(imagenet, (SYMMETRIC.invert(symmetric) - MEAN) / STD, atol=1e-5)


# --- Pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize('own', [SYMMETRIC, IMAGENET], ids=['symmetric', 'imagenet'])
def test_pictures_show_the_pixels(own, monkeypatch):
  image = _pixels((6, 8))
  images = tf.pad(own.apply(image), [[0, 2], [0, 1], [0, 0]])[None]
  batch = EvaluationBatch(images, tf.constant([[6, 8]]), tf.constant([[6, 8]]), None, None)
  np.testing.assert_array_equal(evaluator.resized_back(batch, 0, own), image)

  shown = []
  monkeypatch.setattr(batch_pictures, 'side_by_side', lambda sample, info: shown.append(sample))
  writer = type('Writer', (), {'image': lambda *_: None, 'flush': lambda _: None})()
  targets = tf.nest.map_structure(lambda x: x[None], targets_lib.mask_targets(
      tf.zeros([6, 8], tf.int32), INFO, max_things=4))
  batch_pictures.BatchPictures(
      lambda images: PanopticPrediction(tf.zeros(images.shape[:3], tf.int32), *[None] * 5),
      INFO, writer, 1, own).draw(own.apply(image)[None], targets, 1)
  np.testing.assert_array_equal(shown[0].image, image)


@pytest.mark.parametrize('own', [SYMMETRIC, IMAGENET], ids=['symmetric', 'imagenet'])
def test_pictures_of_classes_show_the_pixels(own, monkeypatch):
  monkeypatch.setattr(class_evaluator.pictures, 'captioned', lambda image, *_: image)
  image = _pixels((40, 50))
  info = type('Info', (), {'class_names': ['a', 'b']})()
  of_classes = class_evaluator.ClassEvaluator(
      dataset_info=info, normalization=own, strategy=tf.distribute.get_strategy(), predict=None,
      batches=None, progress=None)
  prediction = ClassPrediction(tf.constant([[0]]), tf.constant([[1.0]]))
  batch = type('Batch', (), {'images': own.apply(image)[None], 'class_index': [0]})()
  np.testing.assert_array_equal(of_classes._picture(batch, prediction, 0), image)
