"""Both assignment solvers, compared with each other and with brute force."""

import itertools

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf import matching

_SOLVERS = ('scipy', 'native')


def _totals(costs, found):
  return [image.astype(np.float64)[queries[queries >= 0], np.flatnonzero(queries >= 0)].sum()
          for image, queries in zip(costs, found)]


def _match(costs, valid, solver):
  found = matching.match(tf.constant(costs, tf.float32), tf.constant(valid), solver)
  assert found.dtype == tf.int32 and found.shape == valid.shape
  return found.numpy()


def _assert_is_matching(found, valid, queries):
  assert not (found[~valid] >= 0).any()
  assert found.min(initial=-1) >= -1 and found.max(initial=-1) < queries
  for image, image_valid in zip(found, valid):
    matched = image[image >= 0]
    assert len(set(matched)) == len(matched) == min(image_valid.sum(), queries)


def _random_costs(kind, rng, shape):
  if kind == 'similarities':
    return -rng.random(shape) ** 3 * rng.random(shape) ** 4
  if kind == 'normal':
    return rng.normal(size=shape) * 10.
  if kind == 'ties':
    return rng.integers(-3, 3, shape)
  if kind == 'equal_queries':
    return np.broadcast_to(rng.normal(size=(shape[0], 1, shape[2])), shape)
  if kind == 'equal_targets':
    return np.broadcast_to(rng.normal(size=(shape[0], shape[1], 1)), shape)
  if kind == 'long_paths':
    return np.broadcast_to(np.outer(np.arange(shape[1]), np.arange(shape[2])) / 10., shape)
  return np.zeros(shape)


@pytest.mark.parametrize('kind', [
    'similarities', 'normal', 'ties', 'equal_queries', 'equal_targets', 'long_paths', 'zeros'])
@pytest.mark.parametrize('shape', [
    (3, 16, 16), (2, 24, 13), (4, 11, 29), (16, 8, 10), (1, 1, 1), (2, 1, 5), (2, 5, 1)])
def test_solvers_find_the_same_cost(kind, shape):
  rng = np.random.default_rng(sum(shape))
  # The share of valid targets, from none to all.
  for share in (0., 0.3, 0.8, 1.):
    costs = np.float32(_random_costs(kind, rng, shape))
    valid = rng.random((shape[0], shape[2])) < share
    found = {solver: _match(costs, valid, solver) for solver in _SOLVERS}
    for solver in _SOLVERS:
      _assert_is_matching(found[solver], valid, shape[1])
    np.testing.assert_allclose(
        _totals(costs, found['native']), _totals(costs, found['scipy']), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('solver', _SOLVERS)
@pytest.mark.parametrize('queries, targets', [(5, 3), (4, 4), (3, 5)])
def test_no_matching_costs_less(solver, queries, targets):
  rng = np.random.default_rng(7)
  costs = np.float32(rng.normal(size=(6, queries, targets)))
  found = _match(costs, np.ones((6, targets), bool), solver)
  for image, total in zip(costs, _totals(costs, found)):
    wide = image if queries <= targets else image.T
    best = min(sum(wide[i, j] for i, j in enumerate(order))
               for order in itertools.permutations(range(wide.shape[1]), wide.shape[0]))
    assert total == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize('solver', _SOLVERS)
def test_invalid_targets_take_no_query(solver):
  # The invalid target wants query 0 most.
  costs = np.float32([[[-1., -9.], [0., 0.]]])
  assert _match(costs, np.array([[True, False]]), solver).tolist() == [[0, -1]]


@pytest.mark.parametrize('solver', _SOLVERS)
def test_images_with_fewer_and_more_targets_than_queries_share_a_batch(solver):
  rng = np.random.default_rng(1)
  costs = np.float32(rng.normal(size=(3, 4, 9)))
  valid = np.arange(9) < np.array([[2], [9], [0]])
  found = _match(costs, valid, solver)
  _assert_is_matching(found, valid, 4)
  assert [(image >= 0).sum() for image in found] == [2, 4, 0]


def test_published_size_with_few_targets():
  rng = np.random.default_rng(2)
  costs = np.float32(-rng.random((8, 128, 181)) ** 3)
  valid = np.zeros((8, 181), bool)
  valid[:, rng.choice(181, 20, replace=False)] = True
  np.testing.assert_allclose(
      _totals(costs, _match(costs, valid, 'native')),
      _totals(costs, _match(costs, valid, 'scipy')), rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize('solver', _SOLVERS)
@pytest.mark.parametrize('name', ['hungarian_random', 'hungarian_ties'])
def test_equals_deeplab2(name, solver):
  recorded = np.load(shared.path('parity', 'deeplab2', 'losses', f'{name}.npz'))
  # Theirs has a row per target.
  costs = recorded['weights'].transpose(0, 2, 1)
  found = _match(costs, np.ones(costs.shape[::2], bool), solver)
  np.testing.assert_allclose(_totals(costs, found), recorded['cost'], rtol=1e-5)
  if name == 'hungarian_random':
    assert np.array_equal(found, recorded['assignment'])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('in_graph', [False, True])
def test_scipy_names_the_cost_that_is_not_finite(value, in_graph):
  costs = np.zeros((2, 4, 6), np.float32)
  costs[1, 3, 5] = value
  match = tf.function(matching.match) if in_graph else matching.match
  with pytest.raises(tf.errors.InvalidArgumentError, match=(
      r'matching costs contain NaN or infinity \(costs\[image 1, query 3, target 5\]\)')):
    match(tf.constant(costs), tf.ones([2, 6], tf.bool))


def test_scipy_passes_over_costs_of_invalid_targets():
  costs = np.float32([[[1., np.nan], [0., np.nan]]])
  assert _match(costs, np.array([[True, False]]), 'scipy').tolist() == [[1, -1]]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize('share', [0.1, 1.])
def test_native_ends_with_a_matching_on_anything(value, share):
  rng = np.random.default_rng(3)
  costs = np.float32(rng.normal(size=(3, 9, 12)))
  costs[rng.random(costs.shape) < share] = value
  valid = np.arange(12) < np.array([[5], [9], [12]])
  _assert_is_matching(_match(costs, valid, 'native'), valid, 9)


@pytest.mark.parametrize('shape', [(2, 7, 5), (2, 5, 7)])
def test_native_compiles_inside_a_compiled_step(shape):
  rng = np.random.default_rng(4)
  costs = tf.constant(rng.normal(size=shape), tf.float32)
  valid = tf.constant(rng.random((shape[0], shape[2])) < 0.7)

  @tf.function(jit_compile=True)
  def step(costs, valid):
    with tf.GradientTape() as tape:
      tape.watch(costs)
      found = matching.match(2. * costs, valid, 'native')
      kept = tf.one_hot(found, shape[1], axis=1)
      loss = tf.reduce_sum(costs * kept)
    return found, tape.gradient(loss, costs)

  found, gradient = step(costs, valid)
  assert np.array_equal(found, _match(costs, valid.numpy(), 'native'))
  assert tf.reduce_sum(gradient) == tf.math.count_nonzero(found >= 0, dtype=tf.float32)


def test_native_takes_a_batch_of_unknown_size():
  match = tf.function(
      lambda costs, valid: matching.match(costs, valid, 'native'),
      input_signature=[tf.TensorSpec([None, 6, 4]), tf.TensorSpec([None, 4], tf.bool)])
  for batch in (1, 3):
    costs = np.float32(np.random.default_rng(batch).normal(size=(batch, 6, 4)))
    found = match(tf.constant(costs), tf.ones([batch, 4], tf.bool)).numpy()
    expected = _match(costs, np.ones((batch, 4), bool), 'scipy')
    np.testing.assert_allclose(_totals(costs, found), _totals(costs, expected), rtol=1e-5)


@pytest.mark.parametrize('solver', _SOLVERS)
def test_no_gradient_passes(solver):
  costs = tf.random.normal([1, 3, 2])
  with tf.GradientTape() as tape:
    tape.watch(costs)
    found = tf.cast(matching.match(costs, tf.ones([1, 2], tf.bool), solver), tf.float32)
  assert tape.gradient(found, costs) is None


def test_an_unknown_solver_is_named():
  with pytest.raises(ValueError, match='unknown matching solver "greedy": use one of scipy, nat'):
    matching.match(tf.zeros([1, 1, 1]), tf.ones([1, 1], tf.bool), 'greedy')
