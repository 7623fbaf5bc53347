"""Mask2Former's criterion at whole masks and with the focal loss: MaskFormer's, and table 5."""

import graphs
import numpy as np
import pytest
import tensorflow as tf
import tiny_mask2former
from scipy import optimize

from deeplab_tf import mask_values, structures
from deeplab_tf.config import load_config
from deeplab_tf.layers import randomness
from deeplab_tf.losses import mask_comparison
from deeplab_tf.losses.mask2former import ComparisonOptions, Mask2FormerCriterion, Points
from deeplab_tf.losses.mask_comparison import Focal
from deeplab_tf.models import mask2former
from deeplab_tf.structures import MaskTargets, OverlappingMaskTargets
from deeplab_tf.user_errors import ConfigError

SOLVERS = ('scipy', 'native')
QUERIES, CLASSES, MASKS, POINTS = 7, 5, 6, 20
WEIGHTS = {'class_loss': 1.0, 'mask_loss': 20.0, 'dice_loss': 1.0}
MASKFORMER = ComparisonOptions('masks', 'masks', focal=Focal(0.25, 2.0))
# Mask logits are 6x5.
SIZES = {'4 times': (24, 20), 'larger': (31, 27), 'smaller': (10, 7), 'fewer pixels': (5, 4)}


def _masks(size=(24, 20), overlapping=False, images=2):
  """Returns bool [images, masks, *size] and classes; the last image has no masks."""
  rng = np.random.default_rng(0)
  ids = rng.integers(-1, MASKS, (images, 8, 7))
  ids = ids[:, np.arange(size[0]) * 8 // size[0]][:, :, np.arange(size[1]) * 7 // size[1]]
  masks = ids[:, None] == np.arange(MASKS)[:, None, None]
  if overlapping:
    masks[:, 1] |= masks[:, 2] | masks[:, 3]
  classes = rng.integers(0, CLASSES, (images, MASKS)).astype(np.int32)
  classes[0, 4] = -1
  classes[-1] = -1
  return masks, classes


def _targets(masks, classes, overlapping=False):
  if overlapping:
    return OverlappingMaskTargets(mask_values.pack(masks.transpose(0, 2, 3, 1)),
                                  tf.constant(classes))
  ids = np.where(masks.any(1), masks.argmax(1), -1)
  ids = tf.constant(ids, tf.int32)
  return MaskTargets(ids, tf.ones_like(ids, tf.float32), ids, tf.constant(classes),
                     tf.zeros(classes.shape, tf.bool))


def _outputs(layers=2, queries=QUERIES, images=2):
  rng = np.random.default_rng(1)
  return structures.join_layers([
      {'class_logits': tf.constant(rng.normal(size=(images, queries, CLASSES + 1)), tf.float32),
       'mask_logits': tf.constant(3 * rng.normal(size=(images, 6, 5, queries)), tf.float32)}
      for _ in range(layers)])


def _criterion(comparison, queries=QUERIES, solver='scipy'):
  return Mask2FormerCriterion(queries, class_weight=1.0, mask_weight=20.0, dice_weight=1.0,
                              comparison=comparison, solver=solver)


# === Plain numpy ===


def _bilinear(maps, size):
  """Resizes [h, w] with half-pixel centers, border pixels repeated, by definition."""
  for axis in (0, 1):
    position = (np.arange(size[axis]) + 0.5) * maps.shape[0] / size[axis] - 0.5
    position = np.clip(position, 0, maps.shape[0] - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(maps.shape[0])))
    maps = (weights @ maps.astype(np.float64)).T
  return maps


def _nearest(mask, size):
  rows, columns = ([int(i * n / m) for i in range(m)] for n, m in zip(mask.shape, size))
  return mask[rows][:, columns].astype(np.float64)


def _sampled(maps, points):
  """Samples [h, w] at points by definition: zero outside, half-pixel centers."""
  height, width = maps.shape
  weights_y = np.maximum(0, 1 - np.abs(points[:, 1:] * height - np.arange(height) - 0.5))
  weights_x = np.maximum(0, 1 - np.abs(points[:, :1] * width - np.arange(width) - 0.5))
  return np.einsum('py,px,yx->p', weights_y, weights_x, maps.astype(np.float64))


def _mask_terms(logits, labels, focal):
  """Returns pixel loss and dice loss of one pair."""
  p, t = 1 / (1 + np.exp(-logits.ravel())), labels.ravel()
  inside, outside = -np.log(p), -np.log(1 - p)
  if focal:
    inside = focal.alpha * (1 - p)**focal.gamma * inside
    outside = (1 - focal.alpha) * p**focal.gamma * outside
  pixel_loss = (t * inside + (1 - t) * outside).mean()
  return pixel_loss, 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def _in_matching(options, points, image, logits, mask):
  if options.matching_at == 'masks':
    return logits, _nearest(mask, logits.shape)
  if not options.num_points:
    return logits, _bilinear(mask, logits.shape)
  return tuple(_sampled(x, points.matching[image]) for x in (logits, mask))


def _in_loss(options, points, pair, logits, mask):
  if options.loss_at == 'masks':
    return _bilinear(logits, mask.shape), mask.astype(np.float64)
  if not options.num_points:
    return logits, _bilinear(mask, logits.shape)
  drawn, others = (x[pair] for x in (points.drawn, points.others))
  order = np.argsort(np.abs(_sampled(logits, drawn)))[:options.num_points - len(others)]
  at = np.concatenate([drawn[order], others])
  return _sampled(logits, at), _sampled(mask, at)


def _numpy_losses(layer, masks, classes, options, points=None):
  """The weighted terms of one prediction, and the matched (image, query, mask)."""
  sums, weight_sum, pairs = dict.fromkeys(WEIGHTS, 0.0), 0.0, []
  for image, own_masks in enumerate(masks):
    logits = layer['class_logits'].numpy()[image].astype(np.float64)
    maps = layer['mask_logits'].numpy()[image].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    used = np.flatnonzero((classes[image] >= 0) & own_masks.any((1, 2)))
    costs = np.zeros((QUERIES, len(used)))
    for query in range(QUERIES):
      for column, mask in enumerate(used):
        pixel_loss, dice = _mask_terms(*_in_matching(
            options, points, image, maps[..., query], own_masks[mask]), options.focal)
        costs[query, column] = WEIGHTS['mask_loss'] * pixel_loss + WEIGHTS['dice_loss'] * dice
        costs[query, column] -= WEIGHTS['class_loss'] * probabilities[query, classes[image, mask]]
    labels = np.full(QUERIES, CLASSES)
    found = sorted(zip(*optimize.linear_sum_assignment(costs)), key=lambda pair: pair[1])
    for row, (query, column) in enumerate(found):
      labels[query] = classes[image, used[column]]
      pixel_loss, dice = _mask_terms(*_in_loss(
          options, points, (image, row), maps[..., query], own_masks[used[column]]), options.focal)
      sums['mask_loss'] += pixel_loss
      sums['dice_loss'] += dice
      pairs.append((image, query, used[column]))
    weights = np.where(labels == CLASSES, 0.1, 1.0)
    sums['class_loss'] -= (weights * np.log(probabilities[np.arange(QUERIES), labels])).sum()
    weight_sum += weights.sum()
  divisors = {'class_loss': weight_sum, 'mask_loss': len(pairs), 'dice_loss': len(pairs)}
  return {name: WEIGHTS[name] * total / divisors[name] for name, total in sums.items()}, pairs


def _assert_losses(result, outputs, masks, classes, options, points=(None, None)):
  layers = structures.split_layers(outputs)
  assert len(result.losses) == 3 * len(layers)
  for suffix, layer, own in zip(('_0', ''), layers, points):
    for name, value in _numpy_losses(layer, masks, classes, options, own)[0].items():
      np.testing.assert_allclose(result.losses[name + suffix], value, rtol=2e-5,
                                 err_msg=name + suffix)
  np.testing.assert_allclose(result.total, sum(result.losses.values()), rtol=1e-6)


@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('overlapping', [False, True])
@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
def test_losses_of_maskformer_are_the_equations(size, overlapping, solver):
  masks, classes = _masks(size, overlapping)
  outputs = _outputs()
  result = _criterion(MASKFORMER, solver=solver)(outputs, _targets(masks, classes, overlapping))
  _assert_losses(result, outputs, masks, classes, MASKFORMER)


@pytest.mark.parametrize('focal', [None, Focal(0.4, 1.5)], ids=['cross-entropy', 'focal'])
@pytest.mark.parametrize('num_points', [POINTS, 0])
@pytest.mark.parametrize('loss_at', ['points', 'masks'])
@pytest.mark.parametrize('matching_at', ['points', 'masks'])
def test_matching_and_loss_choose_points_or_masks_apart(matching_at, loss_at, num_points, focal):
  options = ComparisonOptions(matching_at, loss_at, num_points, focal=focal)
  masks, classes = _masks()
  outputs, targets = _outputs(), _targets(masks, classes)
  criterion, rng = _criterion(options), np.random.default_rng(2)
  shapes = ([POINTS], [criterion.num_pairs(targets), 60], [criterion.num_pairs(targets), 5])
  points = [Points(*(rng.random((2, *shape, 2)).astype(np.float32) for shape in shapes))
            for _ in range(2)]
  given = [Points(*map(tf.constant, own)) for own in points]
  result = criterion.losses_at(given, outputs, targets, criterion.normalizers(targets))
  _assert_losses(result, outputs, masks, classes, options, points)


# === Gradients ===


def _gradients(criterion, outputs, targets):
  with tf.GradientTape() as tape, randomness.seeded(tf.constant([3, 5])):
    tape.watch(outputs)
    total = criterion(outputs, targets).total
  return tape.gradient(total, outputs)


@pytest.mark.parametrize('in_graph', [False, True])
@pytest.mark.parametrize('solver', SOLVERS)
def test_gradients_are_those_of_the_equations(solver, in_graph):
  masks, classes = _masks()
  outputs, targets = _outputs(layers=1), _targets(masks, classes)
  _, pairs = _numpy_losses(outputs, masks, classes, MASKFORMER)
  assert len(pairs) == 5
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses, labels = [], np.full((2, QUERIES), CLASSES)
    for image, query, mask in pairs:
      labels[image, query] = classes[image, mask]
      logits = tf.image.resize(outputs['mask_logits'][image, :, :, query:query + 1],
                               masks.shape[2:])[..., 0]
      p, t = tf.sigmoid(logits), tf.constant(masks[image, mask], tf.float32)
      focal = tf.reduce_mean(-0.25 * t * (1 - p)**2 * tf.math.log(p)
                             - 0.75 * (1 - t) * p**2 * tf.math.log(1 - p))
      dice = 1 - (2 * tf.reduce_sum(p * t) + 1) / (tf.reduce_sum(p + t) + 1)
      losses.append(20 * focal + dice)
    weights = tf.where(labels == CLASSES, 0.1, 1.0)
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs['class_logits'])
    total = (tf.add_n(losses) / len(pairs)
             + tf.reduce_sum(weights * nll) / tf.reduce_sum(weights))
  expected = tape.gradient(total, outputs)
  run = tf.function(_gradients, autograph=False) if in_graph else _gradients
  found = run(_criterion(MASKFORMER, solver=solver), outputs, targets)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)
    assert np.abs(value).max() > 1e-3


@pytest.mark.parametrize('focal', [None, Focal(), Focal(0.25, 0.5), Focal(1.0, 0.0)])
def test_extreme_logits_have_finite_losses_and_gradients(focal):
  logits = tf.constant([[-1e4, -200.0, -90.0, 0.0, 90.0, 200.0, 1e4]])
  for label in (0.0, 0.5, 1.0):
    labels = tf.fill(logits.shape, label)
    with tf.GradientTape() as tape:
      tape.watch(logits)
      pixel_loss, dice = mask_comparison.pair_losses(logits, labels, focal)
      total = pixel_loss + dice
    assert np.isfinite(total).all() and np.isfinite(tape.gradient(total, logits)).all()
    compared = mask_comparison.compare(tf.zeros([1, 1, 2]), tf.zeros([1, 1], tf.int32),
                                       logits[..., None], labels[None], focal)
    np.testing.assert_allclose(compared.masks[0, 0, 0], pixel_loss[0], rtol=1e-5)
    np.testing.assert_allclose(compared.dice[0, 0, 0], dice[0], rtol=1e-5)


def test_the_focal_loss_of_no_modulation_is_half_the_cross_entropy():
  rng = np.random.default_rng(0)
  logits, labels = tf.constant(rng.normal(size=(3, 50)), tf.float32), rng.random((3, 50))
  losses = [mask_comparison.pair_losses(logits, tf.constant(labels, tf.float32), focal)[0]
            for focal in (None, Focal(0.5, 0.0))]
  np.testing.assert_allclose(losses[1], 0.5 * losses[0], rtol=1e-5)


# === Options, compiled steps, memory ===


def test_options_of_a_config_are_used(tmp_path):
  options = '''trainer_options { loss_options { mask2former_loss { mask_loss: FOCAL
      class_weight: 1 mask_weight: 20 dice_weight: 1 focal_alpha: 0.4 focal_gamma: 1.5
      matching_at: MASKS loss_at: MASKS } } }'''
  config = load_config(tiny_mask2former.write_config(tmp_path), [options])
  queries = config.model_options.mask2former.num_queries
  outputs, targets = _outputs(queries=queries), _targets(*_masks())
  found = mask2former.build_criterion(config, None)(outputs, targets)
  expected = _criterion(ComparisonOptions('masks', 'masks', focal=Focal(0.4, 1.5)), queries)
  np.testing.assert_allclose(found.total, expected(outputs, targets).total, rtol=1e-6)


@pytest.mark.parametrize('option', ['matching_at', 'loss_at'])
def test_an_unknown_comparison_is_refused(option):
  with pytest.raises(ConfigError, match=f'unknown {option} "pixels": use one of points, masks'):
    _criterion(ComparisonOptions(**{option: 'pixels'}))


@pytest.mark.parametrize('solver', SOLVERS)
def test_masks_of_full_size_exist_a_few_at_a_time(solver):
  queries, images, size, masks = 100, 3, 256, 100
  outputs = {'mask_logits': tf.TensorSpec([images, size, size, queries]),
             'class_logits': tf.TensorSpec([images, queries, 134])}
  targets = OverlappingMaskTargets(
      tf.TensorSpec([images, 4 * size, 4 * size, -(-masks // 8)], tf.uint8),
      tf.TensorSpec([images, masks], tf.int32))
  criterion = _criterion(MASKFORMER, queries, solver)
  tensors = list(graphs.tensors(lambda *x: _gradients(criterion, *x), outputs, targets))
  full = [t for t in tensors if t.shape.rank and t.shape.as_list()[1:3] == [1024, 1024]]
  # Beside the bits of the masks themselves.
  assert {t.shape.as_list()[0] for t in full if t.shape.rank == 3} == {4}
  assert not [t for t in tensors if t.elements > images * 1024**2 * 13]
  # No loop keeps tensors for its gradient.
  assert not [t for t in tensors if 'TensorListPushBack' in t.name]


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    MASKFORMER, ComparisonOptions('points', 'masks', POINTS),
    ComparisonOptions('masks', 'points', POINTS), ComparisonOptions('masks', 'points', 0)])
def test_compiled_it_gives_the_same_losses_and_gradients(options):
  outputs, targets = _outputs(), _targets(*_masks())
  criterion = _criterion(options, solver='native')

  def step(outputs, targets):
    with randomness.seeded(tf.constant([3, 5])):
      return criterion(outputs, targets), _gradients(criterion, outputs, targets)

  result, gradients = tf.function(step, jit_compile=True, autograph=False)(outputs, targets)
  expected, expected_gradients = step(outputs, targets)
  for name, loss in expected.losses.items():
    np.testing.assert_allclose(result.losses[name], loss, rtol=1e-5, err_msg=name)
  for name, gradient in expected_gradients.items():
    np.testing.assert_allclose(gradients[name], gradient, atol=2e-6, err_msg=name)
