"""Pictures of panoptic maps."""

import numpy as np
import pytest

from deeplab_tf.data import catalog
from deeplab_tf.visualization import draw, palette

INFO = catalog.built_in('shapes')
THING, OTHER_THING, STUFF, OTHER_STUFF = INFO.thing_class_ids[:2] + INFO.stuff_class_ids[:2]


def _label(class_id, instance=0):
  return class_id * INFO.label_divisor + instance


def _scene(height=240, width=320):
  label = np.full((height, width), _label(STUFF), np.int32)
  label[height // 2:] = _label(OTHER_STUFF)
  label[height // 4:3 * height // 4, :width // 3] = _label(THING, 1)
  label[height // 4:3 * height // 4, width // 3:2 * width // 3] = _label(THING, 2)
  label[:height // 6, -width // 6:] = INFO.void_label
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  return image, label


def test_overlay_keeps_size_and_inputs():
  image, label = _scene()
  before = image.copy(), label.copy()
  picture = draw.overlay(image, label, INFO)
  assert picture.shape == image.shape and picture.dtype == np.uint8
  np.testing.assert_array_equal(image, before[0])
  np.testing.assert_array_equal(label, before[1])
  np.testing.assert_array_equal(picture, draw.overlay(image, label, INFO))


def test_alpha_zero_changes_only_outlines_and_void():
  image, label = _scene()
  picture = draw.overlay(image, label, INFO, alpha=0.0, names=False)
  edges = np.zeros(label.shape, bool)
  edges[1:] |= label[1:] != label[:-1]
  edges[:, 1:] |= label[:, 1:] != label[:, :-1]
  void = label == INFO.void_label
  np.testing.assert_array_equal(picture[~edges & ~void], image[~edges & ~void])
  assert (picture[edges].min(axis=1) > 150).all()
  inside = picture[void & ~edges].astype(int)
  assert (np.ptp(inside, axis=1) == 0).all() and inside.max() < 110


def test_void_shows_the_image_where_it_is_not_darkened():
  image, label = _scene()
  picture = draw.overlay(image, label, INFO, names=False, darken_void=False)
  void = label == INFO.void_label
  inside = void & ~draw._edges(label, 3)
  np.testing.assert_array_equal(picture[inside], image[inside])
  usual = draw.overlay(image, label, INFO, names=False)
  np.testing.assert_array_equal(picture[~void], usual[~void])


def test_names_are_written_into_large_segments_only():
  image, label = _scene()
  label[100, 300] = _label(OTHER_THING, 1)
  with_names = draw.overlay(image, label, INFO)
  without = draw.overlay(image, label, INFO, names=False)
  changed = (with_names != without).any(axis=-1)
  assert 200 < changed.sum() < 0.2 * changed.size
  for value in (_label(THING, 1), _label(THING, 2), _label(STUFF), _label(OTHER_STUFF)):
    assert changed[label == value].any()
  assert not changed[label == INFO.void_label].any()
  silent = {int(value): '' for value in np.unique(label)}
  np.testing.assert_array_equal(draw.overlay(image, label, INFO, captions=silent), without)


def test_neighboring_instances_have_different_colors():
  _, label = _scene()
  picture = draw.overlay(np.full(label.shape + (3,), 128, np.uint8), label, INFO, names=False)
  first, second = picture[120, 50].astype(int), picture[120, 150].astype(int)
  assert np.abs(first - second).max() > 20


def test_crowd_is_striped():
  gray = np.full((60, 60, 3), 128, np.uint8)
  crowd = draw.overlay(gray, np.full((60, 60), _label(THING)), INFO, names=False)
  single = draw.overlay(gray, np.full((60, 60), _label(THING, 1)), INFO, names=False)
  assert len(np.unique(crowd.reshape(-1, 3), axis=0)) == 2
  assert len(np.unique(single.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (3, 700), (97, 96), (500, 40), (1300, 900)])
def test_any_size(size):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, size + (3,), dtype=np.uint8)
  label = np.full(size, _label(STUFF), np.int32)
  label[size[0] // 3:] = _label(THING, 3)
  assert draw.overlay(image, label, INFO).shape == image.shape
  assert draw.error_map(label, label, INFO, image).shape == image.shape


def test_all_void_and_unknown_classes_are_drawn():
  image = np.full((120, 120, 3), 200, np.uint8)
  void = draw.overlay(image, np.full((120, 120), INFO.void_label), INFO)
  unknown = draw.overlay(image, np.full((120, 120), 200 * 256 + 3), INFO)
  np.testing.assert_array_equal(void, unknown)


def test_wrong_inputs_are_one_line():
  image, label = _scene()
  with pytest.raises(ValueError, match=r'the image is \[240, 320\] and the map is \[10, 320\]'):
    draw.overlay(image, label[:10], INFO)
  with pytest.raises(ValueError, match='must be uint8'):
    draw.overlay(image.astype(np.float32), label, INFO)


def test_panoptic_to_rgb_is_plain():
  _, label = _scene()
  picture = draw.panoptic_to_rgb(label, INFO)
  colors = palette.class_colors(INFO)
  assert tuple(picture[0, 0]) == colors[STUFF]
  assert tuple(picture[120, 10]) == colors[THING]
  assert picture[label == INFO.void_label].max() == 0
  assert len(np.unique(picture.reshape(-1, 3), axis=0)) == len(np.unique(label))


def test_error_map_names_every_kind_of_error():
  truth = np.repeat([_label(STUFF), _label(THING, 1), _label(THING, 2), _label(OTHER_THING, 1),
                     INFO.void_label, _label(STUFF)], 10)[None].repeat(8, axis=0)
  guess = np.repeat([_label(STUFF), _label(THING, 9), _label(THING, 9), _label(STUFF),
                     _label(THING, 5), INFO.void_label], 10)[None].repeat(8, axis=0)
  truth[:, 20:21] = _label(THING, 1)  # 11 of 20 pixels of the prediction are instance 1.
  picture = draw.error_map(truth.astype(np.int32), guess.astype(np.int32), INFO)
  expected = ['correct', 'correct', 'wrong instance', 'wrong class', 'unlabeled', 'missed']
  for index, kind in enumerate(expected):
    assert tuple(picture[4, 10 * index + 5]) == draw.ERROR_COLORS[kind], kind


def test_enlarge_repeats_whole_pixels():
  label = np.arange(6).reshape(2, 3)
  large = draw.enlarge(label, 5)
  assert large.shape == (6, 9)
  np.testing.assert_array_equal(large[::3, ::3], label)
  assert draw.enlarge(label, 2) is label
