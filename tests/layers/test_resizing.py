"""Bilinear resizing by either rule: plain numpy, TensorFlow's kernels, gradients, XLA."""

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.layers.resizing import interpolation_matrix, resize_bilinear, upsample_nearest
from deeplab_tf.postprocessing.resize_back import resize_nearest

# (source, target) heights and widths: up, down, one axis each way, odd, single pixels.
SIZES = [((5, 7), (20, 28)), ((20, 28), (5, 7)), ((9, 4), (3, 11)), ((7, 9), (11, 13)),
         ((6, 6), (6, 6)), ((1, 5), (4, 1)), ((8, 1), (1, 6)), ((33, 41), (17, 21))]
RULES = ['aligned', 'half_pixel']


def _positions(source, target, rule):
  if rule == 'half_pixel':
    return [(i + 0.5) * source / target - 0.5 for i in range(target)]
  return [i * (source - 1) / (target - 1) if target > 1 else 0.0 for i in range(target)]


def _plain(x, size, rule):
  """The definition, one axis after the other; x [height, width, channels]."""
  for axis, target in enumerate(size):
    source, rows = x.shape[axis], []
    for position in _positions(source, target, rule):
      below = int(np.floor(position))
      share = position - below
      low, high = (np.take(x, min(max(n, 0), source - 1), axis) for n in (below, below + 1))
      rows.append((1 - share) * low + share * high)
    x = np.stack(rows, axis)
  return x


def _map(size, channels=3, batch=2):
  return np.random.default_rng(0).normal(size=(batch, *size, channels)).astype(np.float32)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('source, target', SIZES)
def test_resizing_is_the_plain_definition(source, target, channels, rule):
  x = _map(source, channels)
  found = resize_bilinear(tf.constant(x), target, rule)
  assert found.shape == (2, *target, channels) and found.dtype == tf.float32
  np.testing.assert_allclose(found, [_plain(image, target, rule) for image in x], atol=1e-5)


@pytest.mark.parametrize('source, target', SIZES)
def test_half_pixel_centers_are_tensorflows_without_antialiasing(source, target):
  x = _map(source)
  expected = tf.image.resize(x, target, method='bilinear', antialias=False)
  np.testing.assert_allclose(resize_bilinear(tf.constant(x), target, 'half_pixel'), expected,
                             atol=1e-5)


def test_corners_are_aligned_by_default():
  x = _map((5, 7))
  expected = tf.compat.v1.image.resize_bilinear(x, (12, 4), align_corners=True)
  np.testing.assert_allclose(resize_bilinear(tf.constant(x), (12, 4)), expected, atol=1e-5)


@pytest.mark.parametrize('rule', RULES)
def test_sizes_known_when_the_graph_runs_give_the_same(rule):
  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([2], tf.int32)],
               autograph=False)
  def resize(x, size):
    return resize_bilinear(x, (size[0], size[1]), rule)

  for source, target in SIZES:
    x = _map(source)
    np.testing.assert_allclose(resize(x, target), resize_bilinear(tf.constant(x), target, rule),
                               atol=1e-5)


@pytest.mark.parametrize('source, target', SIZES)
def test_the_gradient_of_half_pixel_centers_is_tensorflows(source, target):
  x = tf.constant(_map(source))
  weights = tf.constant(_map(target))
  gradients = []
  for resize in (lambda: resize_bilinear(x, target, 'half_pixel'),
                 lambda: tf.image.resize(x, target, method='bilinear', antialias=False)):
    with tf.GradientTape() as tape:
      tape.watch(x)
      total = tf.reduce_sum(resize() * weights)
    gradients.append(tape.gradient(total, x))
  np.testing.assert_allclose(*gradients, atol=2e-5)


def test_half_pixel_centers_compile():
  x = tf.constant(_map((7, 9)))
  compiled = tf.function(lambda x: resize_bilinear(x, (11, 4), 'half_pixel'), jit_compile=True)
  np.testing.assert_allclose(compiled(x), resize_bilinear(x, (11, 4), 'half_pixel'), atol=1e-5)


@pytest.mark.parametrize('rule', RULES)
def test_weights_are_a_mean_of_neighbors(rule):
  # Post-processing bounds an interpolated maximum by this.
  for source, target in ((5, 50), (50, 5), (1, 3), (33, 129)):
    weights = interpolation_matrix(source, target, rule).numpy()
    assert (weights >= 0).all() and ((weights > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_a_rule_that_does_not_exist_is_named():
  with pytest.raises(ValueError, match='rule is "centered": allowed are aligned, half_pixel'):
    resize_bilinear(tf.zeros([1, 2, 2, 1]), (3, 3), 'centered')


@pytest.mark.parity
def test_half_pixel_centers_are_pytorchs():
  with np.load(shared.path('parity', 'mask2former', 'ops.npz')) as recorded:
    x = recorded['resize_bilinear_half_pixel/input_nchw'].transpose(0, 2, 3, 1)
    for name in ('up', 'down', 'odd'):
      expected = recorded[f'resize_bilinear_half_pixel/{name}'].transpose(0, 2, 3, 1)
      found = resize_bilinear(tf.constant(x), expected.shape[1:3], 'half_pixel')
      np.testing.assert_allclose(found, expected, atol=1e-6)


# --- Nearest ----------------------------------------------------------------------------------


@pytest.mark.parametrize('source, target', SIZES)
def test_nearest_with_half_pixel_centers_is_the_pixel_that_holds_the_center(source, target):
  x = np.arange(np.prod(source)).reshape(source)
  rows, columns = ([int((i + 0.5) * n / m) for i in range(m)] for n, m in zip(source, target))
  np.testing.assert_array_equal(resize_nearest(tf.constant(x), target, 'half_pixel'),
                                x[np.ix_(rows, columns)])


# (source, target) heights and widths; the first three are doubled, up to one row or column.
UPSAMPLED = [((5, 7), (10, 14)), ((5, 7), (9, 13)), ((1, 6), (1, 12)), ((3, 4), (7, 10)),
             ((8, 3), (5, 3)), ((7, 9), (31, 100))]


def _copied(x, size):
  """The definition: index floor(i * source / target) of each axis."""
  rows, columns = ([i * n // m for i in range(m)] for n, m in zip(x.shape[1:3], size))
  return x[:, rows][:, :, columns]


@pytest.mark.parametrize('source, target', UPSAMPLED)
def test_nearest_upsampling_copies_pixels(source, target):
  x = _map(source)
  found = upsample_nearest(tf.constant(x), target)
  assert found.shape == (2, *target, 3)
  np.testing.assert_array_equal(found, _copied(x, target))
  half = upsample_nearest(tf.constant(x, tf.bfloat16), target)
  np.testing.assert_array_equal(half, tf.cast(found, tf.bfloat16))
  run = tf.function(lambda x, n: upsample_nearest(x, (n[0], n[1])), autograph=False,
                    input_signature=[tf.TensorSpec([None] * 3 + [3]), tf.TensorSpec([2], tf.int32)])
  np.testing.assert_array_equal(run(x, target), found)


@pytest.mark.parametrize('source, target', UPSAMPLED)
def test_the_gradient_of_nearest_upsampling_is_a_sum_over_copies(source, target):
  x, weights = tf.constant(_map(source)), _map(target)
  for compiled in (False, True):
    run = tf.function(lambda x: tf.gradients(
        tf.reduce_sum(upsample_nearest(x, target) * weights), x)[0], jit_compile=compiled)
    expected = np.zeros(x.shape)
    index = np.arange(np.prod(source)).reshape(1, *source, 1)
    np.add.at(expected.reshape(2, -1, 3), (slice(None), _copied(index, target)[0, ..., 0]), weights)
    np.testing.assert_allclose(run(x), expected, atol=1e-5)


@pytest.mark.parity
def test_nearest_upsampling_is_pytorchs():
  with np.load(shared.path('parity', 'mask2former', 'ops.npz')) as recorded:
    case = 'resize_nearest_asymmetric/'
    x = recorded[f'{case}input_nchw'].transpose(0, 2, 3, 1)
    outputs = [name for name in recorded if name.startswith(case) and 'input' not in name]
    for name in outputs:
      expected = recorded[name].transpose(0, 2, 3, 1)
      np.testing.assert_array_equal(upsample_nearest(tf.constant(x), expected.shape[1:3]), expected)
    assert outputs
