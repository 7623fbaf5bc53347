"""Targets of mask and center models, on small label maps."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog, errors, targets
from deeplab_tf.data.sources import _shape_scenes

INFO = DatasetInfo('small', (
    Category(1, 10, 'cat', True, (1, 1, 1)),
    Category(2, 20, 'grass', False, (2, 2, 2)),
    Category(3, 30, 'dog', True, (3, 3, 3)),
    Category(4, 40, 'sky', False, (4, 4, 4))), 5, 0, 10)
# Sky, a dog, two cats, a crowd of cats, void.
LABEL = np.array([[40, 40, 31, 31],
                  [12, 12, 11, 31],
                  [10, 10, 11, 0]], np.int32)


def test_things_take_rows_in_order_of_appearance_and_stuff_has_fixed_rows():
  result = targets.mask_targets(tf.constant(LABEL), INFO, 5)
  np.testing.assert_array_equal(
      result.mask_ids, [[6, 6, 0, 0], [1, 1, 2, 0], [-1, -1, 2, -1]])
  # Class indices: cat 0, grass 1, dog 2, sky 3. Grass has a row although it does not occur.
  np.testing.assert_array_equal(result.mask_classes, [2, 0, 0, -1, -1, 1, 3])
  np.testing.assert_array_equal(result.mask_isthing, [True] * 5 + [False] * 2)
  np.testing.assert_array_equal(result.semantic_map, LABEL // 10)
  assert result.semantic_map.dtype == result.mask_ids.dtype == result.mask_classes.dtype == tf.int32


def test_segments_outside_of_the_crop_are_masks_without_pixels():
  # Void below is padding, as of a crop that the image does not fill.
  cropped = np.concatenate([LABEL[:2, :2], np.zeros((1, 2), np.int32)])
  made = tf.function(lambda label, whole: targets.mask_targets(
      label, INFO, 5, targets.SmallInstances(3, 7.0), whole=whole), autograph=False)
  result = made(tf.constant(cropped), tf.constant(LABEL))
  # The rows of the whole image: a dog and a cat are outside. Grass is not in the image.
  np.testing.assert_array_equal(result.mask_ids, [[6, 6], [1, 1], [-1, -1]])
  np.testing.assert_array_equal(result.mask_classes, [2, 0, 0, -1, -1, -1, 3])
  # Everything else is that of the crop.
  alone = targets.mask_targets(tf.constant(cropped), INFO, 5, targets.SmallInstances(3, 7.0))
  np.testing.assert_array_equal(alone.mask_classes, [0, -1, -1, -1, -1, 1, 3])
  for name in ('semantic_map', 'semantic_weights', 'mask_isthing'):
    np.testing.assert_array_equal(getattr(result, name), getattr(alone, name))
  with pytest.raises(tf.errors.InvalidArgumentError, match='3 thing instances in one image'):
    targets.mask_targets(tf.constant(cropped), INFO, 2, whole=tf.constant(LABEL))


def test_without_a_crop_empty_masks_change_only_the_classes_of_absent_stuff():
  whole = targets.mask_targets(tf.constant(LABEL), INFO, 5, whole=tf.constant(LABEL))
  plain = targets.mask_targets(tf.constant(LABEL), INFO, 5)
  np.testing.assert_array_equal(whole.mask_ids, plain.mask_ids)
  np.testing.assert_array_equal(whole.mask_classes, [2, 0, 0, -1, -1, -1, 3])
  nothing = targets.mask_targets(tf.zeros([2, 2], tf.int32), INFO, 5, whole=tf.constant(LABEL))
  np.testing.assert_array_equal(nothing.mask_classes, whole.mask_classes)
  assert np.all(nothing.mask_ids == -1)


def test_small_instances_weigh_more_and_crowd_and_stuff_do_not():
  small = targets.SmallInstances(3, 7.0)
  weights = targets.mask_targets(tf.constant(LABEL), INFO, 5, small).semantic_weights
  np.testing.assert_array_equal(weights, [[1, 1, 1, 1], [7, 7, 7, 1], [1, 1, 7, 1]])


def test_centers_offsets_and_weights():
  result = targets.center_targets(tf.constant(LABEL), INFO, 1.0)
  # The dog: mean (1/3, 8/3) -> (0, 3); cat 2: (1, 0.5) -> (1, 0), half to even; cat 1: (1.5, 2).
  heatmap = result.center_heatmap[..., 0].numpy()
  assert heatmap[0, 3] == heatmap[1, 0] == heatmap[2, 2] == 1
  assert np.sum(heatmap == 1) == 3
  np.testing.assert_array_equal(result.center_offsets[1, 3], [-1, 0])
  np.testing.assert_array_equal(result.center_offsets[0, 0], [0, 0])
  np.testing.assert_array_equal(result.offset_weights, [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]])
  np.testing.assert_array_equal(result.center_weights, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]])


def test_nothing_labeled():
  empty = tf.zeros([4, 6], tf.int32)
  masks = targets.mask_targets(empty, INFO, 3)
  assert np.all(masks.mask_ids == -1) and np.all(masks.mask_classes[:3] == -1)
  centers = targets.center_targets(empty, INFO, 2.0)
  for value in centers[2:]:
    assert not np.any(value)


def test_more_instances_than_rows_is_an_error_with_the_name():
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    targets.mask_targets(tf.constant(LABEL), INFO, 2, name=tf.constant('photo'))
  assert errors.describe_data_error(error.value) == (
      'photo: 3 thing instances in one image, more than max_thing_id 2; raise max_thing_id')


def test_no_other_error_can_come_before_that_of_too_many_instances():
  """Ops of a graph run in any order that their inputs allow, and padding by -1 rows fails too."""
  graph = tf.function(lambda label: targets.mask_targets(label, INFO, 2)).get_concrete_function(
      tf.TensorSpec([None, None], tf.int32)).graph

  def before(op):
    found, new = set(), [op]
    while new:
      found.update(new)
      new = {i for o in new for i in [*(t.op for t in o.inputs), *o.control_inputs]} - found
    return {o.type for o in found}

  pads = [op for op in graph.get_operations() if op.type == 'PadV2']
  assert pads and all(before(op) & {'If', 'Assert'} for op in pads)


def test_crowds_are_things_without_an_instance_number():
  np.testing.assert_array_equal(targets.is_crowd(tf.constant(LABEL), INFO), LABEL == 10)


def test_static_shapes():
  spec = tf.TensorSpec([9, 7], tf.int32)
  masks = tf.function(lambda x: targets.mask_targets(x, INFO, 5)).get_concrete_function(spec)
  assert [o.shape.as_list() for o in masks.structured_outputs] == [
      [9, 7], [9, 7], [9, 7], [7], [7]]
  centers = tf.function(
      lambda x: targets.center_targets(x, INFO, 2.0)).get_concrete_function(spec)
  assert [o.shape.as_list() for o in centers.structured_outputs] == [
      [9, 7], [9, 7], [9, 7, 1], [9, 7], [9, 7, 2], [9, 7]]


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(strategies.integers(0, 10**6))
def test_masks_say_the_same_as_the_label(index):
  info = catalog.built_in('shapes')
  label = _shape_scenes.generate('train', index)[1]
  result = [value.numpy() for value in targets.mask_targets(tf.constant(label), info, 16)]
  semantic, _, ids, classes, isthing = result
  inside = ids >= 0
  class_ids = np.array(info.class_ids)
  np.testing.assert_array_equal(class_ids[classes[ids[inside]]], semantic[inside])
  outside = (label == 0) | ((label % 256 == 0) & np.isin(semantic, info.thing_class_ids))
  np.testing.assert_array_equal(~inside, outside)
  # One row per segment and one segment per row.
  pairs = np.unique(np.stack([ids[inside], label[inside]]), axis=1)
  assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
  np.testing.assert_array_equal(isthing[ids[inside]], label[inside] % 256 > 0)
