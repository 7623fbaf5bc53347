"""Values of maps at points and the choice of uncertain points: PyTorch's definition in numpy."""

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.losses import point_sampling

RNG = np.random.default_rng(0)


def _ops(name):
  arrays = np.load(shared.path('parity', 'mask2former', 'ops.npz'))
  return {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{name}/')}


def sampled(maps, points) -> np.ndarray:
  """Samples [height, width, channels] by definition: zero outside, half-pixel centers."""
  padded = np.pad(maps.astype(np.float64), [[1, 1], [1, 1], [0, 0]])
  values = []
  for x, y in points:
    column, row = x * maps.shape[1] - 0.5, y * maps.shape[0] - 0.5
    left, top = int(np.floor(column)), int(np.floor(row))
    values.append(sum(padded[top + i + 1, left + j + 1] * (1 - abs(row - top - i))
                      * (1 - abs(column - left - j)) for i in (0, 1) for j in (0, 1)))
  return np.array(values)


@pytest.mark.parametrize('size', [(7, 10), (1, 5), (1, 1)])
@pytest.mark.parametrize('jit_compile', [False, True])
def test_values_are_bilinear_and_zero_outside(size, jit_compile):
  maps = RNG.normal(size=(2, *size, 3)).astype(np.float32)
  points = RNG.random((2, 30, 2)).astype(np.float32)
  points[:, :4] = [[0, 0], [1, 0], [0, 1], [1, 1]]
  sample = tf.function(point_sampling.sample, jit_compile=jit_compile, autograph=False)
  found = sample(tf.constant(maps), tf.constant(points))
  for image in range(2):
    np.testing.assert_allclose(found[image], sampled(maps[image], points[image]), atol=3e-6)


def test_a_map_of_ones_is_a_quarter_in_its_corners():
  points = tf.constant([[[0., 0.], [1., 1.], [0.5, 0.], [0.5, 0.5]]])
  found = point_sampling.sample(tf.ones([1, 4, 6, 1]), points)
  np.testing.assert_allclose(found[0, :, 0], [0.25, 0.25, 0.5, 1.0], atol=1e-6)


def test_each_map_is_sampled_at_its_own_points():
  maps = RNG.normal(size=(2, 3, 5, 8)).astype(np.float32)
  points = RNG.random((2, 3, 6, 2)).astype(np.float32)
  found = point_sampling.sample_each(tf.constant(maps), tf.constant(points))
  assert found.shape == (2, 3, 6)
  for image in range(2):
    for mask in range(3):
      expected = sampled(maps[image, mask, ..., np.newaxis], points[image, mask])[:, 0]
      np.testing.assert_allclose(found[image, mask], expected, atol=3e-6)


@pytest.mark.parity
@pytest.mark.parametrize('jit_compile', [False, True])
def test_values_and_gradients_equal_the_reference(jit_compile):
  case = _ops('point_sample')

  @tf.function(jit_compile=jit_compile, autograph=False)
  def run(maps, points, upstream):
    with tf.GradientTape() as tape:
      tape.watch((maps, points))
      values = point_sampling.sample(maps, points)
    return values, *tape.gradient(values, (maps, points), upstream)

  values, to_maps, to_points = run(
      tf.constant(case['input_nchw'].transpose(0, 2, 3, 1)), tf.constant(case['points_xy']),
      tf.constant(case['grad_output'].transpose(0, 2, 1)))
  np.testing.assert_allclose(values, case['output_ncp'].transpose(0, 2, 1), atol=1e-5)
  np.testing.assert_allclose(to_maps, case['grad_input'].transpose(0, 2, 3, 1), atol=1e-5)
  np.testing.assert_allclose(to_points, case['grad_points'], atol=1e-4)


@pytest.mark.parity
def test_uncertain_points_equal_the_reference():
  case = _ops('uncertain_points')
  found = point_sampling.uncertain_points(
      tf.constant(case['logits_n1hw'][:, 0]), tf.constant(case['random_oversampled']),
      tf.constant(case['random_rest']), int(case['num_points']))
  # The order of points has no meaning.
  for own, expected in zip(found.numpy(), case['output']):
    assert sorted(map(tuple, own)) == sorted(map(tuple, expected))


def test_the_points_nearest_to_a_logit_of_0_are_selected():
  maps = RNG.normal(size=(2, 6, 7)).astype(np.float32)
  drawn, others = (RNG.random((2, count, 2)).astype(np.float32) for count in (20, 3))
  found = point_sampling.uncertain_points(*map(tf.constant, (maps, drawn, others)), 8).numpy()
  for image in range(2):
    logits = sampled(maps[image, ..., np.newaxis], drawn[image])[:, 0]
    expected = drawn[image][np.argsort(np.abs(logits))[:5]]
    np.testing.assert_array_equal(found[image, :5], expected)
    np.testing.assert_array_equal(found[image, 5:], others[image])


def test_all_points_may_be_uncertain_or_none():
  maps, drawn = tf.ones([1, 3, 3]), tf.constant(RNG.random((1, 9, 2)), tf.float32)
  none = point_sampling.uncertain_points(maps, drawn, drawn[:, :4], 4)
  np.testing.assert_array_equal(none, drawn[:, :4])
  assert point_sampling.uncertain_points(maps, drawn, drawn[:, :0], 4).shape == (1, 4, 2)


def test_no_gradient_flows_through_the_choice():
  maps, drawn = tf.Variable(tf.ones([1, 3, 3])), tf.Variable(tf.ones([1, 9, 2]) / 3)
  with tf.GradientTape() as tape:
    total = tf.reduce_sum(point_sampling.uncertain_points(maps, drawn, drawn[:, :2], 6))
  assert tape.gradient(total, [maps, drawn]) == [None, None]
