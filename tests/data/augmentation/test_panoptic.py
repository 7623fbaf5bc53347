"""Chains of augmentations keep image and label aligned and the meaning of labels."""

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf import structures
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import targets
from deeplab_tf.data.augmentation import color_jitter, copy_paste, options, panoptic

# Classes 1 and 3 are things, 2 and 4 stuff; 0 is unlabeled.
INFO = DatasetInfo('small', tuple(
    Category(i, 10 * i, f'class {i}', i % 2 == 1, (i, i, i)) for i in range(1, 5)),
                   5, 0, 64)
CROWD = 64
# Things, stuff, a crowd, void.
LABELS = (65, 66, 3 * 64 + 1, 67, 4 * 64, 2 * 64, 3 * 64 + 5, CROWD, 0)
CROP = (64, 80)

seeds = strategies.integers(0, 2**31 - 1)
sizes = strategies.tuples(strategies.integers(90, 130), strategies.integers(90, 130))
augmentations = strategies.one_of(
    strategies.builds(
        lambda low, width, step, resize: options.Augmentation(
            CROP, min_size=(resize,) * 2 if resize else (), scale=(low, low + width, step),
            flip=True),
        strategies.floats(0.5, 1.0), strategies.floats(0.1, 1.0), strategies.sampled_from(
            [0.0, 0.25]), strategies.sampled_from([0, 100])),
    strategies.builds(
        lambda low, width: options.Augmentation(CROP, flip=True, jitter=(low, low + width)),
        strategies.floats(0.6, 1.0), strategies.floats(0.0, 1.0)),
    strategies.builds(
        lambda sides, share: options.Augmentation(
            CROP, flip=True, shorter_sides=tuple(sides), max_longer_side=200,
            max_category_share=share),
        strategies.lists(strategies.integers(50, 150), min_size=1, max_size=4),
        strategies.sampled_from([0.6, 1.0])),
    strategies.builds(
        lambda first, side, low: options.Augmentation(
            CROP, flip=True, shorter_sides=(side,), max_longer_side=200,
            crop_first=options.CropFirst(0.7, (first,), low, low + 40)),
        strategies.integers(80, 140), strategies.integers(60, 150), strategies.integers(50, 80)))


def example(size, seed, labels=LABELS):
  """A map of large blocks, and an image whose colors are a function of the label."""
  rng = np.random.default_rng(seed)
  blocks = rng.choice(labels, (3, 3)).astype(np.int32)
  rows, columns = (np.minimum(np.arange(n) * 3 // n, 2) for n in size)
  label = blocks[rows][:, columns]
  return structures.LabeledImage(tf.constant(colors(label), tf.uint8), tf.constant(label),
                                 tf.constant('drawn'))


def colors(label):
  return np.stack([label % 251, label * 7 % 241, 255 - label % 239], -1)


def inner(label, margin=3):
  """Where all pixels around have the same label."""
  same = np.zeros(label.shape, bool)
  center = label[margin:-margin, margin:-margin]
  same[margin:-margin, margin:-margin] = True
  for dy in range(-margin, margin + 1):
    for dx in range(-margin, margin + 1):
      moved = np.roll(label, (dy, dx), (0, 1))[margin:-margin, margin:-margin]
      same[margin:-margin, margin:-margin] &= moved == center
  return same


def padding(image, value):
  """Where an image has the gray of the padding, which no label has as its color."""
  return np.all(image == value, axis=-1)


def gray(made):
  return 128.0 if made.is_mask2former else 127.5


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(augmentations, sizes, seeds)
def test_image_and_label_move_together(made, size, seed):
  drawn, key = example(size, seed), tf.constant([seed, 7], tf.int64)
  image, label = panoptic.augment(drawn, made, INFO, key)
  assert image.shape == (*CROP, 3) and label.shape == CROP
  image, label = image.numpy(), label.numpy()
  void = padding(image, gray(made))
  assert not label[void].any(), 'padding is void'
  assert set(label.flat) <= {*drawn.label.numpy().flat, 0}
  looked_at = inner(np.where(void, -1, label)) & ~void
  np.testing.assert_allclose(image[looked_at], colors(label)[looked_at], atol=1e-3)
  if made.is_mask2former:  # The image is at the top left.
    rows, columns = ~void.all(1), ~void.all(0)
    assert rows[:rows.sum()].all() and columns[:columns.sum()].all()
  again = panoptic.augment(drawn, made, INFO, key)
  np.testing.assert_array_equal(again[0], image)
  np.testing.assert_array_equal(again[1], label)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(augmentations, sizes, seeds, *[strategies.sampled_from(copy_paste.OPTIONS)] * 3)
def test_pasted_segments_bring_their_pixels(made, size, seed, thing, stuff, void):
  made = made._replace(paste=copy_paste.Choice(0.8, thing, stuff, void))
  # Of stuff, crowd and void each is in one of them: where the same met, no border would be seen
  # between blended pixels.
  onto, other = example(size, seed, LABELS[:5]), example(size[::-1], seed + 1, LABELS[5:])
  image, label = panoptic.augment_and_paste(onto, other, made, info=INFO, max_things=128,
                                            seed=tf.constant([seed, 8], tf.int64))
  assert image.shape == (*CROP, 3) and label.shape == CROP
  image, label = image.numpy(), label.numpy()
  # No instance number of the drawings is above 5, so those that are have been pasted.
  original = np.where(label % 64 > 31, label // 64 * 64 + 63 - label % 64, label)
  assert set(original.flat) <= set(LABELS)
  assert thing != 'none' or not np.any(label % 64 > 31)
  outside = padding(image, gray(made))
  assert not label[outside].any()
  looked_at = inner(np.where(outside, -1, label)) & ~outside
  np.testing.assert_allclose(image[looked_at], colors(original)[looked_at], atol=1e-3)


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(sizes, seeds)
def test_a_crowd_never_becomes_an_instance(size, seed):
  made = options.Augmentation(CROP, jitter=(0.6, 1.4), flip=True,
                        paste=copy_paste.Choice(1.0, 'all', 'random', 'all'))
  _, label = panoptic.augment_and_paste(example(size, seed), example(size, seed + 1), made,
                                        info=INFO, max_things=128,
                                        seed=tf.constant([seed, 9], tf.int64))
  masks = targets.mask_targets(label, INFO, 128)
  centers = targets.center_targets(label, INFO, 2.0)
  is_crowd = label.numpy() == CROWD
  assert np.all(masks.mask_ids.numpy()[is_crowd] == -1)
  assert not centers.offset_weights.numpy()[is_crowd].any()
  instances = set(label.numpy()[masks.mask_ids.numpy() >= 0]) - {2 * 64, 4 * 64}
  assert all(value % 64 for value in instances)
  assert np.sum(masks.mask_classes.numpy()[:128] >= 0) == len(instances)


def test_colors_do_not_depend_on_what_else_is_done():
  drawn, key = example((100, 100), 0), tf.constant([1, 2], tf.int64)
  plain = options.Augmentation((100, 100))
  jittered = plain._replace(colors=color_jitter.Strength(1.0))
  before, label = panoptic.augment(drawn, plain, INFO, key)
  after, same_label = panoptic.augment(drawn, jittered, INFO, key)
  np.testing.assert_array_equal(label, same_label)
  assert np.mean(np.abs(before - after)) > 2
  padded = panoptic.augment(drawn, jittered._replace(jitter=(0.5, 0.5)), INFO, key)[0]
  np.testing.assert_array_equal(padded[50:], 128.0)
