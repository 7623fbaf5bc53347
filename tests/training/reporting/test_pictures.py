"""Pictures of samples show their four parts and have a limited size."""

import numpy as np
import pytest

from deeplab_tf.data import catalog
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.training.evaluator import Sample
from deeplab_tf.training.reporting import pictures
from deeplab_tf.visualization import draw


def _sample(times=1, name='val_0'):
  image, label = (x.repeat(times, 0).repeat(times, 1) for x in _shape_scenes.generate('val', 0))
  return Sample(name, image, label, np.zeros_like(label))


def _share(picture, color):
  return np.mean(np.abs(picture.astype(int) - color).max(-1) < 60)


@pytest.mark.parametrize('times', [1, 8])
def test_small_images_are_enlarged_and_large_ones_are_not_kept_whole(times):
  sample = _sample(times)
  picture = pictures.side_by_side(sample, catalog.built_in('shapes'))
  assert picture.dtype == np.uint8
  assert 400 <= picture.shape[0] <= 1200
  assert 400 <= picture.shape[1] <= 1200


def test_errors_show_beside_what_caused_them():
  info = catalog.built_in('shapes')
  sample = _sample()
  missed, correct = draw.ERROR_COLORS['missed'], draw.ERROR_COLORS['correct']
  bad = pictures.side_by_side(sample, info)
  good = pictures.side_by_side(sample._replace(prediction=sample.ground_truth), info)
  corner = np.s_[bad.shape[0] // 2:-80, bad.shape[1] // 2 + 8:]
  assert _share(bad[corner], missed) > 0.8
  assert _share(good[corner], correct) > 0.8
  # The input is the same in both.
  half = np.s_[:bad.shape[0] // 3, :bad.shape[1] // 2 - 8]
  np.testing.assert_array_equal(bad[half], good[half])


def test_a_long_name_ends_where_its_part_does():
  info = catalog.built_in('shapes')
  short, long = (pictures.side_by_side(_sample(name=name), info) for name in ('a', 'a' * 300))
  middle = short.shape[1] // 2
  np.testing.assert_array_equal(short[:, middle:], long[:, middle:])
