"""Pictures of batches, and the label maps recovered from their targets."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from deeplab_tf.data import catalog
from deeplab_tf.data import targets as targets_lib
from deeplab_tf.data.image_normalization import SYMMETRIC
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.structures import PanopticPrediction
from deeplab_tf.training.reporting import summaries
from deeplab_tf.training.reporting.batch_pictures import BatchPictures, label_map


@pytest.mark.parametrize('make', [
    lambda label, info: targets_lib.mask_targets(label, info, max_things=16),
    lambda label, info: targets_lib.center_targets(label, info, sigma=8.0)],
                         ids=['mask', 'center'])
def test_the_label_map_of_targets_has_the_segments_of_the_annotation(make):
  info = catalog.built_in('shapes')
  for index in range(10):
    label = _shape_scenes.generate('train', index)[1]
    made = make(tf.constant(label), info)
    actual = label_map(tf.nest.map_structure(lambda x: x.numpy(), made), info)
    void = (label == 0) | np.asarray(targets_lib.is_crowd(tf.constant(label), info))
    np.testing.assert_array_equal(actual == info.void_label, void)
    np.testing.assert_array_equal((actual // 256)[~void], (label // 256)[~void])
    pairs = set(zip(label[~void], actual[~void]))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_the_first_images_of_a_batch_become_pictures(tmp_path):
  info = catalog.built_in('shapes')
  images, labels = zip(*(_shape_scenes.generate('train', index) for index in range(3)))
  images = tf.cast(tf.stack(images), tf.float32) / 127.5 - 1
  targets = tf.nest.map_structure(
      lambda *x: tf.stack(x),
      *(targets_lib.mask_targets(tf.constant(label), info, max_things=16) for label in labels))

  def predict(images):
    panoptic_map = tf.zeros(images.shape[:3], tf.int32)
    return PanopticPrediction(panoptic_map, *[None] * 5)

  writer = summaries.Writer(tmp_path, summaries.TRAIN)
  BatchPictures(predict, info, writer, 2, SYMMETRIC).draw(images, targets, step=5)
  assert tiny_runs.read_scalars(tmp_path / summaries.TRAIN) == {
      'pictures/00': {5: None}, 'pictures/01': {5: None}}
