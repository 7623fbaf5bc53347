"""Masks at points and on grids: both forms of targets against numpy and PyTorch's sampling."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf import mask_values
from deeplab_tf.structures import MaskTargets, OverlappingMaskTargets

BATCH, HEIGHT, WIDTH, MASKS = 2, 7, 10, 11
RNG = np.random.default_rng(0)


def overlapping(masks, classes=None):
  """Returns OverlappingMaskTargets of bool [batch, masks, height, width]."""
  if classes is None:
    classes = np.zeros(masks.shape[:2], np.int32)
  return OverlappingMaskTargets(mask_values.pack(masks.transpose(0, 2, 3, 1)),
                                tf.constant(classes))


def partition(ids, classes=None):
  """Returns MaskTargets of int [batch, height, width]."""
  if classes is None:
    classes = np.zeros((len(ids), MASKS), np.int32)
  ids = tf.constant(ids, tf.int32)
  return MaskTargets(ids, tf.ones_like(ids, tf.float32), ids, tf.constant(classes),
                     tf.zeros(classes.shape, tf.bool))


def as_partition_and_bits(classes=None):
  """Returns the same masks in both forms and as bool [batch, masks, height, width]."""
  ids = RNG.integers(-1, MASKS - 2, (BATCH, HEIGHT, WIDTH))  # The last two masks are empty.
  masks = ids[:, None] == np.arange(MASKS)[:, None, None]
  return partition(ids, classes), overlapping(masks, classes), masks


def sampled(mask, points) -> np.ndarray:
  """PyTorch's point sampling of one map, by its definition: zero outside, half-pixel centers."""
  padded = np.pad(mask.astype(np.float64), 1)
  values = []
  for x, y in points:
    column, row = x * mask.shape[1] - 0.5, y * mask.shape[0] - 0.5
    left, top = int(np.floor(column)), int(np.floor(row))
    values.append(sum(padded[top + i + 1, left + j + 1] * (1 - abs(row - top - i))
                      * (1 - abs(column - left - j)) for i in (0, 1) for j in (0, 1)))
  return np.array(values)


def points_of(*shape):
  """Random points, the first four in the corners of the map."""
  points = RNG.random((*shape, 2)).astype(np.float32)
  points[..., :4, :] = [[0, 0], [1, 0], [0, 1], [1, 1]]
  return points


def test_masks_are_packed_as_numpy_packs_them():
  masks = RNG.random((BATCH, HEIGHT, WIDTH, MASKS)) < 0.5
  bits = mask_values.pack(masks)
  np.testing.assert_array_equal(bits, np.packbits(masks, axis=-1, bitorder='little'))
  assert bits.dtype == tf.uint8
  np.testing.assert_array_equal(mask_values.unpack(bits, MASKS), masks)


@pytest.mark.parametrize('masks', [1, 8, 9])
def test_masks_of_images_of_unknown_size_are_packed(masks):
  values = RNG.random((3, 5, masks)) < 0.5

  @tf.function(input_signature=[tf.TensorSpec([None, None, masks], tf.bool)])
  def there_and_back(values):
    bits = mask_values.pack(values)
    assert bits.shape.as_list() == [None, None, (masks + 7) // 8]
    return mask_values.unpack(bits, masks)

  np.testing.assert_array_equal(there_and_back(values), values)


@pytest.mark.parametrize('own_points', [False, True])
def test_values_at_points_of_masks_that_overlap(own_points):
  masks = RNG.random((BATCH, MASKS, HEIGHT, WIDTH)) < 0.5
  points = points_of(BATCH, MASKS, 20) if own_points else points_of(BATCH, 20)
  found = mask_values.at_points(overlapping(masks), tf.constant(points))
  assert found.shape == (BATCH, MASKS, 20)
  for image in range(BATCH):
    for mask in range(MASKS):
      own = points[image, mask] if own_points else points[image]
      np.testing.assert_allclose(found[image, mask], sampled(masks[image, mask], own), atol=2e-6)


def test_values_at_points_of_some_masks():
  rows = RNG.integers(0, MASKS, (BATCH, 4))
  points = tf.constant(points_of(BATCH, 4, 20))
  for targets in as_partition_and_bits()[:2]:
    found = mask_values.at_points(targets, points, tf.constant(rows, tf.int32))
    assert found.shape == (BATCH, 4, 20)
    for i in range(4):
      of_all = mask_values.at_points(targets, points[:, i])
      np.testing.assert_array_equal(found[:, i], of_all.numpy()[range(BATCH), rows[:, i]])


def test_a_mask_that_reaches_the_border_fades_out_there():
  points = tf.constant([[[0.0, 0.0], [0.5, 0.0], [0.5 / WIDTH, 0.5 / HEIGHT], [0.5, 0.5]]])
  full = overlapping(np.ones((1, 1, HEIGHT, WIDTH), bool))
  np.testing.assert_allclose(mask_values.at_points(full, points)[0, 0], [0.25, 0.5, 1, 1],
                             atol=1e-6)


@pytest.mark.parametrize('own_points', [False, True])
def test_both_forms_have_equal_values_at_points(own_points):
  whole, bits, masks = as_partition_and_bits()
  points = points_of(BATCH, MASKS, 30) if own_points else points_of(BATCH, 30)
  found = mask_values.at_points(whole, tf.constant(points))
  np.testing.assert_array_equal(found, mask_values.at_points(bits, tf.constant(points)))
  own = points[1, 3] if own_points else points[1]
  np.testing.assert_allclose(found[1, 3], sampled(masks[1, 3], own), atol=2e-6)


def test_no_gradient_flows_to_the_points():
  points = tf.Variable(points_of(BATCH, 5))
  with tf.GradientTape() as tape:
    value = tf.reduce_sum(mask_values.at_points(as_partition_and_bits()[0], points))
  assert tape.gradient(value, points) is None


@pytest.mark.parametrize('size', [(HEIGHT, WIDTH), (3, 4), (5, 10), (1, 1), (14, 23)])
def test_both_forms_are_resized_like_images(size):
  whole, bits, masks = as_partition_and_bits()
  expected = tf.image.resize(masks.transpose(0, 2, 3, 1).astype(np.float32), size, 'bilinear')
  for targets in (whole, bits):
    np.testing.assert_allclose(mask_values.on_grid(targets, *size), expected, atol=1e-5)
  several = RNG.random((BATCH, MASKS, HEIGHT, WIDTH)) < 0.5
  expected = tf.image.resize(several.transpose(0, 2, 3, 1).astype(np.float32), size, 'bilinear')
  np.testing.assert_allclose(mask_values.on_grid(overlapping(several), *size), expected, atol=1e-5)


@pytest.mark.parametrize('size', [(HEIGHT, WIDTH), (3, 4), (4, 9)])
def test_a_coarser_grid_has_the_values_of_the_points_at_its_centers(size):
  masks = RNG.random((BATCH, MASKS, HEIGHT, WIDTH)) < 0.5
  targets = overlapping(masks)
  y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in size], indexing='ij')
  centers = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
  at_centers = mask_values.at_points(targets, tf.constant([centers] * BATCH))
  grid = tf.reshape(mask_values.on_grid(targets, *size), [BATCH, -1, MASKS])
  np.testing.assert_allclose(at_centers, tf.transpose(grid, [0, 2, 1]), atol=1e-5)


@pytest.mark.parametrize('size', [(HEIGHT, WIDTH), (3, 4), (1, 1), (14, 23)])
def test_nearest_values_are_those_of_the_rounded_down_index(size):
  for targets, masks in _both_forms():
    found = mask_values.nearest_on_grid(targets, *size).numpy()
    assert found.shape == (BATCH, *size, MASKS)
    for row, column in np.ndindex(*size):
      source = masks[:, :, row * HEIGHT // size[0], column * WIDTH // size[1]]
      np.testing.assert_array_equal(found[:, row, column], source)


def test_whole_masks_are_those_of_the_image():
  for targets, masks in _both_forms():
    for image, rows in ((0, [9, 0, 10]), (1, [8, 8])):
      found = mask_values.whole(targets, tf.constant(image), tf.constant(rows))
      np.testing.assert_array_equal(found, masks[image, rows])


def _both_forms():
  """Returns both forms of the same masks, and masks that overlap, each with the masks."""
  partition_of_masks, bits, masks = as_partition_and_bits()
  several = RNG.random((BATCH, MASKS, HEIGHT, WIDTH)) < 0.5
  return (partition_of_masks, masks), (bits, masks), (overlapping(several), several)


def test_a_mask_has_a_class_and_a_pixel():
  classes = np.zeros((BATCH, MASKS), np.int32)
  classes[0, 2] = classes[1, 4] = -1
  whole, bits, masks = as_partition_and_bits(classes)
  expected = masks.any((2, 3)) & (classes >= 0)
  assert not expected.all() and expected.any()
  np.testing.assert_array_equal(mask_values.are_masks(whole), expected)
  np.testing.assert_array_equal(mask_values.are_masks(bits), expected)
  for targets in (whole, bits):
    np.testing.assert_array_equal(mask_values.are_masks(targets, keep_empty=True), classes >= 0)


def test_all_functions_compile():
  whole, bits, _ = as_partition_and_bits()
  points, own_points = tf.constant(points_of(BATCH, 6)), tf.constant(points_of(BATCH, MASKS, 6))

  def run(targets):
    return (mask_values.at_points(targets, points), mask_values.at_points(targets, own_points),
            mask_values.on_grid(targets, 3, 4), mask_values.nearest_on_grid(targets, 3, 4),
            mask_values.whole(targets, tf.constant(1), tf.constant([9, 2])),
            mask_values.are_masks(targets))

  for targets in (whole, bits):
    compiled = tf.function(run, jit_compile=True)(targets)
    for found, expected in zip(compiled, run(targets)):
      np.testing.assert_allclose(tf.cast(found, tf.float32), tf.cast(expected, tf.float32),
                                 atol=1e-6)


def test_targets_cross_a_dataset_and_are_batched():
  masks = RNG.random((BATCH, MASKS, HEIGHT, WIDTH)) < 0.5
  targets = overlapping(masks)
  batched = next(iter(tf.data.Dataset.from_tensor_slices(targets).batch(BATCH)))
  assert isinstance(batched, OverlappingMaskTargets)
  np.testing.assert_array_equal(batched.mask_bits, targets.mask_bits)


@pytest.mark.parity
@pytest.mark.parametrize('case', ['two_images', 'more_targets_than_queries'])
def test_matching_costs_of_the_recorded_case(case):
  """The mask and dice costs that Mask2Former's matcher recorded follow from values at points."""
  folder = ('parity', 'mask2former')
  recorded = np.load(shared.path(*folder, 'loss.npz'))
  info = json.loads(shared.path(*folder, 'loss.json').read_text())[case]
  last = info['layers'] - 1
  for image, count in enumerate(info['counts']):
    packed = recorded[f'{case}/target_masks_{image}']
    height, width = info['target_hw']
    masks = np.unpackbits(packed, axis=1)[:, :height * width].reshape(1, count, height, width)
    points = recorded[f'{case}/match_points_{last}_{image}']
    target = mask_values.at_points(overlapping(masks.astype(bool)), tf.constant(points[None]))[0]
    target = target.numpy().astype(np.float64)
    logits = np.stack([sampled(m, points) for m in recorded[f'{case}/pred_masks_{last}'][image]])
    scores = recorded[f'{case}/pred_logits_{last}'][image].astype(np.float64)
    classes = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    class_cost = -classes[:, recorded[f'{case}/target_labels_{image}']]
    mask_cost = (np.logaddexp(0, -logits) @ target.T
                 + np.logaddexp(0, logits) @ (1 - target).T) / len(points)
    probabilities = 1 / (1 + np.exp(-logits))
    dice_cost = 1 - (2 * probabilities @ target.T + 1) / (
        probabilities.sum(1)[:, None] + target.sum(1) + 1)
    expected = recorded[f'{case}/cost_{last}_{image}']
    np.testing.assert_allclose(2 * class_cost + 5 * mask_cost + 5 * dice_cost, expected, rtol=1e-4)
