"""Sizes and windows of training crops: Mask2Former's values, and equal to resizing the whole."""

import json

import hypothesis
import numpy as np
import pytest
import shared
import tensorflow as tf
from hypothesis import strategies
from PIL import Image

from deeplab_tf.data import catalog
from deeplab_tf.data.augmentation import options, panoptic, placement, transforms

INFO = catalog.built_in('shapes')
sizes = strategies.tuples(strategies.integers(1, 40), strategies.integers(1, 40))
seeds = strategies.integers(0, 2**31 - 1)


def numbered(height, width):
  """An image whose colors tell each pixel's place, and the same as a label from 1 on."""
  label = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
  return tf.repeat(tf.cast(label[..., None], tf.float32), 3, -1), tf.constant(label)


def crop(size, crop_size, seed, flip=False):
  """The crop of a numbered image, void being 0."""
  made = options.Augmentation(crop_size, flip=flip)
  image, label = numbered(*size)
  place = panoptic.draw_placement(label, made, INFO, tf.constant([seed, 1], tf.int64))
  resized = panoptic.resize(image, place, made)
  image, label = panoptic.crop(resized, label, place, made, 0)
  return image.numpy()[..., 0], label.numpy()


# --- Windows ----------------------------------------------------------------------------------


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(sizes, sizes, seeds)
def test_crop_is_a_window_with_image_and_label_together(size, crop_size, seed):
  image, label = crop(size, crop_size, seed)
  assert image.shape == label.shape == crop_size
  inside = label > 0
  np.testing.assert_array_equal(image[inside], label[inside])
  np.testing.assert_array_equal(image[~inside], 127.5)
  assert inside.sum() == min(size[0], crop_size[0]) * min(size[1], crop_size[1])
  y, x = np.nonzero(inside)
  rows, columns = (label[inside] - 1) // size[1], (label[inside] - 1) % size[1]
  assert len(set(rows - y)) == len(set(columns - x)) == 1


def test_crops_reach_every_place_and_small_images_stay_off_the_last_one():
  tops = {int(np.nonzero(crop((3, 6), (6, 4), seed)[1])[0].min()) for seed in range(60)}
  # As in DeepLab2 the offset is below crop - size = 3, so the image never touches the bottom.
  assert tops == {0, 1, 2}
  assert {int(crop((1, 6), (1, 4), seed)[1][0, 0]) for seed in range(60)} == {1, 2, 3}


def test_half_of_the_crops_are_the_mirror_image_of_what_they_would_be():
  flipped = 0
  for seed in range(60):
    plain, mirrored = (crop((3, 5), (4, 7), seed, flip) for flip in (False, True))
    change = not np.array_equal(plain[1], mirrored[1])
    flipped += change
    for one, other in zip(plain, mirrored):
      np.testing.assert_array_equal(other, one[:, ::-1] if change else one)
  assert 15 < flipped < 45


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(sizes, sizes, sizes, sizes, strategies.booleans(), seeds)
def test_a_window_equals_that_of_the_whole_resized_twice(size, first, second, kept, flip, seed):
  kept = np.minimum(kept, second)
  start = np.random.default_rng(seed).integers(0, np.array(second) - kept + 1)
  place = placement.Placement(
      *(tf.constant(x, tf.int32)
        for x in (size, first, (0, 0), first, second, start, kept, (0, 0))),
      tf.constant(flip))
  made = options.Augmentation(tuple(kept), min_size=(1, 1), scale=(0.5, 2.0, 0.0), flip=True)
  image, label = numbered(*size)
  whole = transforms.resize(*transforms.resize(image, label, first), second)
  expected = [x.numpy()[start[0]:, start[1]:][:kept[0], :kept[1]] for x in whole]
  if flip:
    expected = [x[:, ::-1] for x in expected]
  found = panoptic.crop(
      panoptic.resize(image, place, made), label, place, made, INFO.void_label)
  for one, other in zip(found, expected):
    np.testing.assert_array_equal(one, other)


# --- Mask2Former ------------------------------------------------------------------------------


def recorded(key):
  cases = json.loads(shared.path('parity', 'mask2former', 'preprocess.json').read_text())[key]
  assert cases
  return cases


@pytest.mark.parity
def test_jittered_sizes_equal_mask2former():
  for case in recorded('lsj_resize_scale_target_1024'):
    found = placement.jittered_size(
        tf.constant(case['in_hw']), tf.constant(case['scale'], tf.float64), (1024, 1024))
    np.testing.assert_array_equal(found, case['out_hw'], err_msg=str(case))


@pytest.mark.parity
def test_jittered_windows_equal_mask2former():
  for case in recorded('lsj_fixed_crop_offset'):
    size = tf.constant(case['in_hw'])
    found = placement.jittered_start(size, (1024, 1024), tf.constant(case['u'], tf.float64))
    np.testing.assert_array_equal(found, [case['y0'], case['x0']], err_msg=str(case))
    padding = np.maximum(1024 - np.array(case['in_hw']), 0)
    np.testing.assert_array_equal(padding, [case['pad_bottom'], case['pad_right']])


@pytest.mark.parity
def test_sizes_by_the_shorter_side_equal_mask2former():
  for case in recorded('resize_shortest_edge'):
    found = placement.shorter_side_size(
        tf.constant(case['in_hw']), tf.constant(case['short']), case['max'])
    np.testing.assert_array_equal(found, case['out_hw'], err_msg=str(case))


def whole_placement(before, after, start=(0, 0), kept=None):
  return placement.Placement(
      *(tf.constant(x, tf.int32)
        for x in (before, before, (0, 0), before, after, start, kept or after, (0, 0))),
      tf.constant(False))


@pytest.mark.parity
@pytest.mark.parametrize('size', [(24, 34), (60, 86), (37, 80)])
def test_pixels_equal_pillow(size):
  arrays = np.load(shared.path('parity', 'mask2former', 'preprocess.npz'))
  made = options.Augmentation(size, jitter=(1.0, 1.0))
  place = whole_placement(arrays['labels'].shape, size)
  image = panoptic.resize(tf.constant(arrays['image']), place, made).numpy()
  name = f'{size[0]}x{size[1]}'
  # Pillow rounds once more, between the two axes.
  difference = np.abs(image - arrays[f'image_pil_bilinear_{name}'])
  assert difference.max() <= 1 and difference.mean() < 0.2
  label = placement.take_label(tf.constant(arrays['labels'], tf.int32), place, True)
  np.testing.assert_array_equal(label, arrays[f'labels_pil_nearest_{name}'])


@pytest.mark.parametrize('after', [(95, 130), (40, 31), (14, 22)])
def test_a_window_equals_that_of_the_whole_with_antialiasing(after):
  image = tf.constant(np.random.default_rng(0).integers(0, 256, (29, 44, 3)), tf.uint8)
  made = options.Augmentation((6, 8), jitter=(1.0, 1.0))
  expected = tf.round(tf.image.resize(image, after, antialias=True)).numpy()
  for start in ((0, 0), (3, 11), (after[0] - 6, after[1] - 8)):
    place = whole_placement((29, 44), after, start, (6, 8))
    found = panoptic.resize(image, place, made).numpy()
    difference = np.abs(found - expected[start[0]:, start[1]:][:6, :8])
    # The same function of a place; places are rounded differently, and then the values.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_large_scale_jitter_fits_the_image_and_fills_up_at_the_end():
  made = options.Augmentation((30, 30), jitter=(0.1, 2.0), flip=True)
  label = tf.ones([20, 40], tf.int32)
  found = set()
  for number in range(60):
    place = panoptic.draw_placement(label, made, INFO, tf.constant([3, number], tf.int64))
    height, width = place.scaled.numpy()
    assert 3 <= width <= 60 and abs(height - width / 2) <= 0.5
    np.testing.assert_array_equal(place.offset, 0)
    np.testing.assert_array_equal(place.kept, np.minimum(place.scaled, 30))
    assert np.all(place.start.numpy() + place.kept <= place.scaled)
    found.add(int(width))
  assert min(found) < 12 and max(found) > 50 and len(found) > 30


def test_shorter_sides_are_drawn_from_the_list_and_limited():
  made = options.Augmentation((30, 30), shorter_sides=(10, 20, 40), max_longer_side=50)
  found = {tuple(panoptic.draw_placement(
      tf.ones([12, 24], tf.int32), made, INFO, tf.constant([3, i], tf.int64)).scaled.numpy())
           for i in range(40)}
  assert found == {(10, 20), (20, 40), (25, 50)}


# --- DETR's crop before the resizing ----------------------------------------------------------


CROP_FIRST = options.CropFirst(0.5, (30, 45), 20, 33)
RECIPE = options.Augmentation((90, 90), shorter_sides=(24, 40, 61), max_longer_side=80, flip=True,
                              crop_first=CROP_FIRST)


def by_shorter_side(size, shorter, longest=np.inf):
  """Sizes of an image whose shorter side is resized, as in the released code.

  The order of the products decides about sizes that end in 1/2.
  """
  new = [shorter if side == min(size) else shorter / min(size) * side for side in size]
  factor = min(longest / max(new), 1)
  return tuple(int(side * factor + 0.5) for side in new)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.example((22, 64), 22)  # A size that ends in 1/2.
@hypothesis.given(strategies.tuples(*[strategies.integers(12, 70)] * 2), seeds)
def test_sizes_of_the_first_crop_follow_detrs_recipe(size, seed):
  place = panoptic.draw_placement(tf.ones(size, tf.int32), RECIPE, INFO,
                                  tf.constant([seed, 3], tf.int64))
  source, resized, start, kept, scaled = (tuple(x.numpy().tolist()) for x in place[:5])
  assert source == size
  if kept != size or resized != size:
    assert resized in {by_shorter_side(size, side) for side in CROP_FIRST.shorter_sides}
    for whole, first, length in zip(resized, start, kept):
      assert min(whole, 20) <= length <= min(whole, 33) and 0 <= first <= whole - length
  else:
    assert start == (0, 0)
  assert scaled in {by_shorter_side(kept, side, 80) for side in RECIPE.shorter_sides}
  np.testing.assert_array_equal(place.kept, scaled)
  np.testing.assert_array_equal([place.start, place.offset], 0)


def test_half_of_the_images_are_cropped_first_everywhere_and_of_every_size():
  found = [panoptic.draw_placement(tf.ones([31, 50], tf.int32), RECIPE, INFO,
                                   tf.constant([5, number], tf.int64)) for number in range(200)]
  cropped = [place for place in found if place.resized[0] != 31]
  assert 75 < len(cropped) < 125
  assert {tuple(place.resized.numpy()) for place in cropped} == {(30, 48), (45, 73)}
  rows, columns = np.array([place.first_kept for place in cropped]).T
  assert set(rows) == set(columns) == set(range(20, 34))
  assert np.any(rows < columns) and np.any(rows > columns), 'sides are drawn separately'
  ends = np.array([place.resized - place.first_kept - place.first_start for place in cropped])
  starts = np.array([place.first_start for place in cropped])
  assert (starts.min(0) == 0).all() and (ends.min(0) == 0).all() and (starts.max(0) > 10).all()
  assert {by_shorter_side(place.first_kept.numpy(), side, 80) for place in cropped
          for side in (24, 40, 61)} >= {tuple(place.scaled.numpy()) for place in cropped}


def test_without_it_nothing_changes():
  plain = RECIPE._replace(crop_first=None)
  never = RECIPE._replace(crop_first=CROP_FIRST._replace(probability=0.0))
  for number in range(10):
    key = tf.constant([6, number], tf.int64)
    for one, other in zip(*(panoptic.draw_placement(tf.ones([31, 50], tf.int32), made, INFO, key)
                            for made in (plain, never))):
      np.testing.assert_array_equal(one, other)


def by_nearest(label, size):
  """Pixels whose centers are the nearest, without Pillow's rounding errors."""
  rows, columns = ((2 * np.arange(n) + 1) * before // (2 * n)
                   for n, before in zip(size, label.shape))
  return label[rows][:, columns]


def by_pillow(image, size):
  return np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))


def resized_and_cropped(pixels, place, resize):
  """The recipe in two steps."""
  for size, start, kept in ((place.resized, place.first_start, place.first_kept),
                            (place.scaled, place.start, place.kept)):
    pixels = resize(pixels, tuple(size.numpy().tolist()))
    pixels = pixels[start[0]:, start[1]:][:kept[0], :kept[1]]
  return pixels[:, ::-1] if place.flip else pixels


@pytest.mark.parametrize('crop_size', [(90, 90), (21, 34)], ids=str)
def test_pixels_of_the_first_crop_equal_resizing_twice(crop_size):
  made = RECIPE._replace(crop_size=crop_size, crop_first=CROP_FIRST._replace(probability=1.0))
  label = np.random.default_rng(0).integers(1, 9, (37, 58)).astype(np.int32)
  rows, columns = np.meshgrid(np.arange(37), np.arange(58), indexing='ij')
  # Waves that are long enough to survive a resizing.
  image = np.stack([128 + 100 * np.sin(rows / 9), 128 + 100 * np.cos(columns / 11),
                    128 + 60 * np.sin(rows / 8 + columns / 10)], -1).astype(np.uint8)
  for number in range(8):
    place = panoptic.draw_placement(label, made, INFO, tf.constant([7, number], tf.int64))
    height, width = place.kept.numpy()
    found, found_label = panoptic.crop(panoptic.resize(tf.constant(image), place, made),
                                       tf.constant(label), place, made, 0)
    np.testing.assert_array_equal(found_label[:height, :width],
                                  resized_and_cropped(label, place, by_nearest))
    expected = resized_and_cropped(image, place, by_pillow).astype(np.float32)
    difference = np.abs(found[:height, :width] - expected)
    # The second resizing repeats the border of the crop; here it sees the pixels beyond.
    assert np.median(difference) <= 1 and difference.max() <= 12
    np.testing.assert_array_equal(found[height:], 128.0)
    np.testing.assert_array_equal(found_label[height:], 0)


# --- Crops of several classes -----------------------------------------------------------------


def shares(label, limit, number):
  """The classes and their pixels in a 4x4 crop."""
  made = options.Augmentation((4, 4), max_category_share=limit)
  place = panoptic.draw_placement(
      tf.constant(label), made, INFO, tf.constant([5, number], tf.int64))
  window = placement.take_label(tf.constant(label), place, False).numpy() // 256
  return np.unique(window[window != INFO.ignore_label], return_counts=True)


def test_crops_of_one_class_are_drawn_again():
  label = np.full((4, 60), 256, np.int32)
  label[:, 28:34] = 2 * 256
  plain = [len(shares(label, 1.0, i)[0]) for i in range(30)]
  picky = [shares(label, 0.8, i) for i in range(30)]
  assert np.mean(np.array(plain) == 2) < 0.4 < 0.6 < np.mean([len(c) == 2 for c, _ in picky])
  good = [counts.max() < 0.8 * counts.sum() for c, counts in picky if len(c) == 2]
  # After ten attempts the last one stands.
  assert np.mean(good) > 0.7


def test_unlabeled_pixels_do_not_count():
  label = np.full((4, 8), 256, np.int32)
  label[:3, :4] = INFO.void_label
  label[3, 2:4] = 2 * 256
  # In the leftmost crop the two classes have 2 of 4 labeled pixels each, void has 12 of 16; in
  # all others the first has more than 0.7 of what is labeled.
  found = [list(shares(label, 0.7, i)[1]) for i in range(20)]
  assert found.count([2, 2]) > 12


# --- Nearest neighbors -----------------------------------------------------------------------


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(strategies.integers(1, 3000), strategies.integers(1, 3000))
def test_nearest_is_that_of_tensorflow(before, after):
  row = tf.range(before)[None, :, None, None]
  expected = tf.compat.v1.image.resize(
      row, [after, 1], method='nearest', align_corners=True)[0, :, 0, 0]
  np.testing.assert_array_equal(
      placement.nearest(tf.range(after), before, after, False), expected)
