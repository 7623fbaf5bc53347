"""Colors of classes and instances."""

import itertools

import numpy as np
import pytest

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.visualization import palette


def _smallest_difference(colors):
  labs = np.array([palette._to_lab(color) for color in colors])
  return min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2))


WITHOUT_TABLE = ('coco_format', 'coco_instance_format', 'label_folders', *catalog.TFDS)


@pytest.mark.parametrize('name', [n for n in catalog.names() if n not in WITHOUT_TABLE])
def test_classes_of_a_data_set_have_distinct_colors(name):
  info = catalog.built_in(name)
  colors = palette.class_colors(info)
  assert set(colors) == set(info.class_ids)
  assert len(set(colors.values())) == len(colors)
  assert _smallest_difference(colors.values()) > 0.02
  assert all(max(color) >= 70 for color in colors.values())


def test_bright_official_colors_are_kept():
  info = catalog.built_in('cityscapes_panoptic')
  person = next(c for c in info.categories if c.name == 'person')
  assert palette.class_colors(info)[person.class_id] == person.color == (220, 20, 60)


def test_missing_and_equal_colors_are_replaced():
  info = DatasetInfo(
      'x', (Category(1, 1, 'a', True, (140, 140, 140)),
            Category(2, 2, 'b', True, (140, 140, 140)),
            Category(3, 3, 'c', True, None)), 4, 0, 256)
  colors = palette.class_colors(info)
  assert colors[1] == (140, 140, 140)
  assert _smallest_difference(colors.values()) > 0.05


def test_any_number_of_classes_has_colors():
  info = DatasetInfo(
      'x', tuple(Category(k, k, str(k), True, None) for k in range(1, 601)), 601, 0, 256)
  assert len(set(palette.class_colors(info).values())) > 590


@pytest.mark.parametrize('color', [(220, 20, 60), (0, 0, 142), (250, 250, 30), (128, 128, 128)])
def test_instances_are_shades_near_the_class_and_apart_from_each_other(color):
  shades = [palette.instance_color(color, instance) for instance in range(1, 13)]
  assert shades[0] == color
  assert len(set(shades)) == len(shades)
  base = palette._to_lab(color)
  assert max(np.linalg.norm(palette._to_lab(shade) - base) for shade in shades) < 0.32
  following = [np.linalg.norm(palette._to_lab(a) - palette._to_lab(b))
               for a, b in zip(shades, shades[1:])]
  assert min(following) > 0.025


def test_label_colors_tell_void_things_and_crowds_apart():
  info = catalog.built_in('shapes')
  label = np.array([[0, 256, 257, 258, 7 * 256]], np.int32)
  found = palette.label_colors(label, info)
  assert found.isvoid.tolist() == [True, False, False, False, False]
  assert found.iscrowd.tolist() == [False, True, False, False, False]
  assert found.isthing.tolist() == [False, True, True, True, False]
  assert found.colors[0].tolist() == [0, 0, 0]
  assert len({tuple(color) for color in found.colors[2:].tolist()}) == 3
