"""Panoptic copy-paste: which segments are pasted, and which labels they get."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import targets
from deeplab_tf.data.augmentation import copy_paste

# Class 1 and 3 are things, 2 is stuff, 0 is unlabeled.
INFO = DatasetInfo('small', tuple(
    Category(i, i, str(i), i % 2 == 1, (i, i, i)) for i in (1, 2, 3)), 4, 0, 10)
PADDING = copy_paste.padding_label(INFO)
# Two instances, an instance of the other class, a crowd, stuff, void, padding.
OTHER = np.array([[11, 12, 31, 10], [20, 0, PADDING, 11]], np.int32)
ONTO = np.full((2, 4), 20, np.int32)
ONTO[0, 0] = 11
RENAMED = np.array([[18, 17, 38, 10], [20, 0, PADDING, 18]], np.int32)


def paste(choice, seed=0, max_things=100, other=OTHER):
  image = tf.zeros([2, 4, 3])
  pasted, label = copy_paste.paste((image, tf.constant(ONTO)), (image + 1.0, tf.constant(other)),
                                   choice=choice, info=INFO, max_things=max_things,
                                   seed=tf.constant([seed, 3]))
  return pasted.numpy(), label.numpy()


@pytest.mark.parametrize('thing, stuff, void', [
    ('all', 'all', 'all'), ('none', 'none', 'none'), ('all', 'none', 'none'),
    ('none', 'all', 'none'), ('none', 'none', 'all')])
def test_all_and_none_of_each_kind(thing, stuff, void):
  image, label = paste(copy_paste.Choice(1.0, thing, stuff, void))
  is_pasted = np.zeros(ONTO.shape, bool)
  is_pasted |= (thing == 'all') & np.isin(OTHER // 10, (1, 3))
  is_pasted |= (stuff == 'all') & (OTHER == 20)
  is_pasted |= (void == 'all') & (OTHER == 0)
  np.testing.assert_array_equal(label, np.where(is_pasted, RENAMED, ONTO))
  np.testing.assert_array_equal(image[..., 0], is_pasted)


def test_padding_is_never_pasted():
  for seed in range(20):
    _, label = paste(copy_paste.Choice(1.0, 'random', 'random', 'random'), seed)
    assert label[1, 2] == 20 and PADDING not in label


def test_random_segments_are_pasted_as_wholes_in_every_number():
  sets = []
  for seed in range(150):
    image, label = paste(copy_paste.Choice(1.0, 'random', 'random', 'random'), seed)
    is_pasted = image[..., 0] == 1
    np.testing.assert_array_equal(label, np.where(is_pasted, RENAMED, ONTO))
    assert is_pasted[0, 0] == is_pasted[1, 3], 'both parts of an instance'
    sets.append(frozenset(OTHER[is_pasted]))
  assert {len(s) for s in sets} == set(range(7))
  for value in set(OTHER.flat) - {PADDING}:
    assert 0.3 < np.mean([value in s for s in sets]) < 0.7


def test_random_is_a_function_of_the_seed():
  choice = copy_paste.Choice(1.0)
  results = [paste(choice, seed)[1].tobytes() for seed in range(10)]
  assert results == [paste(choice, seed)[1].tobytes() for seed in range(10)]
  assert len(set(results)) > 2


@pytest.mark.parametrize('most, kept', [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_no_more_instances_than_there_is_room_for(most, kept):
  _, label = paste(copy_paste.Choice(1.0, 'all', 'none', 'none'), max_things=most)
  assert len({18, 17, 38} & set(label.flat)) == kept
  assert label[0, 3] == 10, 'crowds are no instances'
  result = targets.mask_targets(tf.constant(label), INFO, 4)
  assert np.sum(result.mask_classes.numpy()[:4] >= 0) <= most


def test_the_highest_instance_does_not_become_a_crowd():
  other = np.where(OTHER == 11, 19, OTHER).astype(np.int32)
  _, label = paste(copy_paste.Choice(1.0, 'all', 'none', 'none'), other=other)
  assert label[0, 0] == label[1, 3] == 11
