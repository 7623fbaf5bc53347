"""The mask approximation loss against equation 13 in plain numpy."""

import numpy as np
import tensorflow as tf

from deeplab_tf.losses import mask_approximation


def _plain(points, matching, mask_ids):
  """Equation 13 for one image, mask by mask."""
  height, width = mask_ids.shape
  extremes = centers = 0.
  matched = [(mask, query) for mask, query in enumerate(matching) if query >= 0]
  for mask, query in matched:
    rows, columns = np.nonzero(mask_ids == mask)
    for axis, places in ((0, rows / max(height - 1, 1)), (1, columns / max(width - 1, 1))):
      own = points[query, :, axis]
      extremes += abs(own.min() - places.min()) + abs(own.max() - places.max())
      centers += abs(own.mean() - places.mean())
  k = len(matched)
  return extremes / (4 * k) + centers / (2 * k) if k else 0.


def _scene(seed=0, height=9, width=12, masks=6, queries=7):
  rng = np.random.default_rng(seed)
  mask_ids = rng.integers(-1, masks, (2, height, width)).astype(np.int32)
  mask_ids[:, :5][mask_ids[:, :5] == 2] = 0
  matching = np.stack([rng.permutation(queries)[:masks] for _ in range(2)]).astype(np.int32)
  matching[0, 1], matching[1, 3:5] = -1, -1
  points = rng.uniform(size=(2, queries, 8, 2)).astype(np.float32)
  return points, matching, mask_ids


def _extents(mask_ids, masks=6):
  return mask_approximation.extents(tf.constant(mask_ids), masks)


def test_it_is_equation_13():
  for seed in range(3):
    points, matching, mask_ids = _scene(seed)
    found = mask_approximation.loss(tf.constant(points), tf.constant(matching),
                                    _extents(mask_ids))
    np.testing.assert_allclose(
        found, [_plain(*scene) for scene in zip(points, matching, mask_ids)], rtol=1e-5)


def test_without_masks_it_is_0_and_has_a_gradient():
  points, matching, mask_ids = (tf.constant(x) for x in _scene())
  with tf.GradientTape() as tape:
    tape.watch(points)
    losses = mask_approximation.loss(points, -tf.ones_like(matching), _extents(mask_ids))
  np.testing.assert_array_equal(losses, [0, 0])
  np.testing.assert_array_equal(tape.gradient(losses, points), np.zeros(points.shape))


def test_points_on_extremes_with_the_mean_have_no_loss():
  mask_ids = np.full((1, 11, 21), -1, np.int32)
  mask_ids[0, 2:6, 5:16] = 0
  extremes = np.array([[[0.2, 0.25], [0.5, 0.75], [0.35, 0.5]]], np.float32)
  found = mask_approximation.loss(tf.constant(extremes[None]), tf.constant([[0]]),
                                  _extents(mask_ids, 1))
  np.testing.assert_allclose(found, [0], atol=1e-6)


def test_a_step_along_the_gradient_moves_points_to_the_mask():
  points, matching, mask_ids = (tf.constant(x) for x in _scene())
  losses = []
  for _ in range(200):
    with tf.GradientTape() as tape:
      tape.watch(points)
      loss = tf.reduce_sum(mask_approximation.loss(points, matching, _extents(mask_ids)))
    points -= 0.1 * tape.gradient(loss, points)
    losses.append(float(loss))
  assert losses[-1] < 0.2 * losses[0]


def test_extents():
  mask_ids = np.full((1, 5, 9), -1, np.int32)
  mask_ids[0, 1:4, 2] = 1
  least, greatest, mean = _extents(mask_ids, 3)
  np.testing.assert_allclose(least[0], [[0, 0], [0.25, 0.25], [0, 0]])
  np.testing.assert_allclose(greatest[0], [[0, 0], [0.75, 0.25], [0, 0]])
  np.testing.assert_allclose(mean[0], [[0, 0], [0.5, 0.25], [0, 0]])
