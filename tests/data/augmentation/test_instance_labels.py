"""Masks that may overlap are resized, cropped, mirrored, padded and pasted like label maps."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import targets
from deeplab_tf.data.augmentation import instance_copy_paste, options, panoptic
from deeplab_tf.user_errors import UserError

CATEGORIES = tuple(Category(i, i, f'class {i}', True, (i, i, i)) for i in (1, 2, 3))
MAPS = DatasetInfo('maps', CATEGORIES, 4, 0, 256)
MASKS = DatasetInfo('masks', CATEGORIES, 4, 0, 256, masks_overlap=True)
AUGMENTATIONS = {
    'large scale jittering': options.Augmentation((65, 97), flip=True, jitter=(0.1, 2.0)),
    'shorter side': options.Augmentation((65, 97), flip=True, shorter_sides=(40, 80, 150),
                                         max_longer_side=180),
    'crop first': options.Augmentation((65, 97), flip=True, shorter_sides=(40, 60),
                                       crop_first=options.CropFirst(1.0, (50, 80), 30, 60)),
    'deeplab2': options.Augmentation((65, 97), flip=True, scale=(0.5, 2.0, 0.25)),
    'crop': options.Augmentation((33, 40)),
}


def random_label(masks, classes=None, crowds=None):
  count = masks.shape[-1]
  classes = np.arange(count) % 3 + 1 if classes is None else classes
  return structures.InstanceLabel(
      tf.constant(np.packbits(masks, axis=-1, bitorder='little')),
      tf.constant(classes, tf.int32),
      tf.constant(np.zeros(count, bool) if crowds is None else crowds),
      tf.constant(masks.sum((0, 1)), tf.float32))


def masks_of(label):
  bits = np.unpackbits(np.asarray(label.mask_bits), axis=-1, bitorder='little').astype(bool)
  return bits[..., :len(label.class_ids)]


def rectangles(random, height, width, count):
  masks = np.zeros((height, width, count), bool)
  for i in range(count):
    top, left = random.integers(height), random.integers(width)
    masks[top:top + random.integers(5, 40), left:left + random.integers(5, 40), i] = True
  return masks


@pytest.mark.parametrize('name', AUGMENTATIONS)
@pytest.mark.parametrize('count', [0, 1, 8, 13])
def test_each_mask_moves_like_a_label_map_of_its_own(name, count):
  random = np.random.default_rng(count)
  masks = rectangles(random, 70, 90, count)
  image = tf.constant(random.integers(0, 256, (70, 90, 3)), tf.uint8)
  augmentation = AUGMENTATIONS[name]
  for seed in ([3, 4], [5, 6], [7, 8]):
    seed = tf.constant(seed, tf.int64)
    moved_image, moved = panoptic.augment(
        structures.LabeledImage(image, random_label(masks), tf.constant('')), augmentation, MASKS,
        seed)
    assert moved.mask_bits.shape == (*augmentation.crop_size, -(-count // 8))
    for i in range(count):
      label_map = np.where(masks[..., i], 257, 0).astype(np.int32)
      expected_image, expected = panoptic.augment(
          structures.LabeledImage(image, tf.constant(label_map), tf.constant('')), augmentation,
          MAPS, seed)
      np.testing.assert_array_equal(masks_of(moved)[..., i], expected == 257)
      np.testing.assert_array_equal(moved_image, expected_image)


def test_targets_are_the_masks_without_crowds():
  random = np.random.default_rng(1)
  masks = rectangles(random, 24, 32, 11)
  masks[..., 3] = False
  crowds = np.arange(11) == 5
  classes = np.array([1, 3, 2, 1, 2, 3, 3, -1, 1, 2, 3])
  made = targets.overlapping_mask_targets(random_label(masks, classes, crowds), MASKS, 20)
  assert made.mask_bits.shape == (24, 32, 3) and made.mask_classes.shape == (24,)
  expected = np.full(24, -1)
  expected[:11] = classes - 1
  expected[[5, 7]] = -1
  np.testing.assert_array_equal(made.mask_classes, expected)
  bits = np.unpackbits(made.mask_bits.numpy(), axis=-1, bitorder='little')
  np.testing.assert_array_equal(bits[..., :11], masks)
  assert not bits[..., 11:].any()


def test_more_instances_than_rows_are_an_error_with_advice():
  label = random_label(np.ones((4, 4, 9), bool))
  with pytest.raises((tf.errors.OpError, UserError), match='picture: 9 instances in one image, '
                     'more than max_thing_id 8; raise max_thing_id'):
    targets.overlapping_mask_targets(label, MASKS, 8, tf.constant('picture'))


@pytest.mark.parametrize('counts', [(0, 3), (3, 0), (5, 6), (8, 9), (30, 30)])
@pytest.mark.parametrize('option', ['none', 'random', 'all'])
def test_pasted_instances_cover_the_masks_below_them(counts, option):
  random = np.random.default_rng(sum(counts))
  samples = []
  for count in counts:
    masks = rectangles(random, 40, 50, count)
    crowds = np.arange(count) == 2
    samples.append((tf.constant(random.uniform(0, 255, (40, 50, 3)), tf.float32),
                    random_label(masks, crowds=crowds)))
  image, label = instance_copy_paste.paste(*samples, option=option, max_instances=40,
                                           seed=tf.constant([1, 2]))
  (first_image, first), (second_image, second) = samples
  below, above, result = masks_of(first), masks_of(second), masks_of(label)
  rows = 8 * first.mask_bits.shape[-1]
  pasted = [i for i in range(len(label.class_ids) - rows) if label.class_ids[rows + i] >= 0]
  allowed = [i for i in range(counts[1]) if i != 2 and rows + 8 * (i // 8 + 1) <= 40]
  if option == 'random':
    assert set(pasted) <= set(allowed)
  else:
    assert pasted == (allowed if option == 'all' else [])
  cover = above[..., pasted].any(-1)
  np.testing.assert_array_equal(image, np.where(cover[..., None], second_image, first_image))
  np.testing.assert_array_equal(result[..., :counts[0]], below & ~cover[..., None])
  for i in pasted:
    np.testing.assert_array_equal(result[..., rows + i], above[..., i])
    assert label.class_ids[rows + i] == second.class_ids[i]
  np.testing.assert_array_equal(label.class_ids[:counts[0]], first.class_ids)
  np.testing.assert_array_equal(label.is_crowd[:counts[0]], first.is_crowd)
  assert len(label.class_ids) == len(label.is_crowd) == len(label.areas)
  assert (np.asarray(label.class_ids[counts[0]:rows]) == -1).all()
