"""Mask2Former's criterion: plain numpy, parts of a batch, compiled steps."""

import graphs
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

from deeplab_tf import structures
from deeplab_tf.layers import randomness
from deeplab_tf.losses.mask2former import ComparisonOptions, Mask2FormerCriterion, Points
from deeplab_tf.losses.mask_comparison import Focal
from deeplab_tf.structures import MaskTargets
from deeplab_tf.user_errors import ConfigError

SOLVERS = ('scipy', 'native')
QUERIES, CLASSES = 7, 5


def _criterion(queries, **options):
  """Returns a criterion; options are its arguments and those of ComparisonOptions."""
  own = {name: options.pop(name) for name in ComparisonOptions._fields if name in options}
  return Mask2FormerCriterion(queries, comparison=ComparisonOptions(**own), **options)


def _targets(seed=0, images=3, masks=6, size=(24, 20)):
  """Returns a partition: image 0 has all masks, image 1 some, image 2 none."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(-1, masks, (images, 6, 5)).repeat(4, 1).repeat(4, 2)[:, :size[0], :size[1]]
  classes = rng.integers(0, CLASSES, (images, masks)).astype(np.int32)
  classes[1, [0, 2]] = -1
  classes[2] = -1
  ids = tf.constant(ids, tf.int32)
  return MaskTargets(ids, tf.ones_like(ids, tf.float32), ids, tf.constant(classes),
                     tf.zeros(classes.shape, tf.bool))


def _outputs(seed=0, images=3, layers=2, size=(6, 5), queries=QUERIES):
  rng = np.random.default_rng(seed)
  return structures.join_layers([
      {'class_logits': tf.constant(rng.normal(size=(images, queries, CLASSES + 1)), tf.float32),
       'mask_logits': tf.constant(3 * rng.normal(size=(images, *size, queries)), tf.float32)}
      for _ in range(layers)])


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _sampled(maps, points):
  """Samples [height, width, channels] by definition: zero outside, half-pixel centers."""
  height, width = maps.shape[:2]
  rows = np.arange(height) + 0.5
  columns = np.arange(width) + 0.5
  weights_y = np.maximum(0, 1 - np.abs(points[:, 1:] * height - rows))
  weights_x = np.maximum(0, 1 - np.abs(points[:, :1] * width - columns))
  return np.einsum('py,px,yxc->pc', weights_y, weights_x, maps.astype(np.float64))


def _mask_terms(logits, labels):
  """Returns the binary cross-entropy and the dice loss of one pair at points."""
  p = _sigmoid(logits)
  cross_entropy = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
  return cross_entropy, 1 - (2 * (p * labels).sum() + 1) / (p.sum() + labels.sum() + 1)


def _numpy_losses(layer, targets, sampled_in_matching, sampled_in_loss, no_object=0.1,
                  keep_empty_masks=False):
  """The three terms of one prediction, unweighted, by loops over images and pairs.

  Args:
    layer: Outputs of the prediction.
    targets: MaskTargets.
    sampled_in_matching: (image, logits, mask) -> both at the points of the matching.
    sampled_in_loss: (image, pair, logits, mask) -> both at the points of the loss.
    no_object: Class weight.
    keep_empty_masks: Whether rows with a class but without pixels are masks.
  """
  class_sum = weight_sum = mask_sum = dice_sum = masks_in_batch = 0
  for image, classes in enumerate(targets.mask_classes.numpy()):
    ids = targets.mask_ids.numpy()[image]
    masks = [m for m in range(len(classes))
             if classes[m] >= 0 and (keep_empty_masks or (ids == m).any())]
    logits = layer['class_logits'].numpy()[image].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    maps = layer['mask_logits'].numpy()[image]
    costs = np.zeros((len(log_p), len(masks)))
    for q in range(len(log_p)):
      for j, m in enumerate(masks):
        terms = _mask_terms(*sampled_in_matching(image, maps[..., q], ids == m))
        costs[q, j] = 5 * terms[0] + 5 * terms[1] - 2 * np.exp(log_p[q, classes[m]])
    labels = np.full(len(log_p), CLASSES)
    pairs = sorted(zip(*optimize.linear_sum_assignment(costs)), key=lambda pair: pair[1])
    for pair, (q, j) in enumerate(pairs):
      labels[q] = classes[masks[j]]
      terms = _mask_terms(*sampled_in_loss(image, pair, maps[..., q], ids == masks[j]))
      mask_sum, dice_sum = mask_sum + terms[0], dice_sum + terms[1]
    weights = np.where(labels == CLASSES, no_object, 1.0)
    class_sum -= (weights * log_p[np.arange(len(labels)), labels]).sum()
    weight_sum += weights.sum()
    masks_in_batch += len(masks)
  divisor = max(masks_in_batch, 1)
  return {'class_loss': class_sum / weight_sum, 'mask_loss': mask_sum / divisor,
          'dice_loss': dice_sum / divisor}


def _assert_terms(result, layers, expected_of):
  for i, layer in enumerate(layers):
    suffix = '' if i == len(layers) - 1 else f'_{i}'
    for name, value in expected_of(i, layer).items():
      found = result.losses[name + suffix] / result.weights[name + suffix]
      np.testing.assert_allclose(found, value, rtol=2e-5, err_msg=name + suffix)
  np.testing.assert_allclose(result.total, sum(result.losses.values()), rtol=1e-6)


@pytest.mark.parametrize('queries', [QUERIES, 3])
@pytest.mark.parametrize('solver', SOLVERS)
def test_losses_at_given_points_are_the_equations(solver, queries):
  targets, outputs = _targets(), _outputs(queries=queries)
  criterion = _criterion(queries, num_points=20, solver=solver)
  rng = np.random.default_rng(1)
  pairs = criterion.num_pairs(targets)
  assert pairs == min(queries, 6)
  points = [Points(*(rng.random((3, *shape, 2)).astype(np.float32)
                     for shape in ([20], [pairs, 60], [pairs, 5]))) for _ in range(2)]

  def expected_of(i, layer):
    own = points[i]

    def in_matching(image, logits, mask):
      maps = np.stack([logits, logits], -1), np.stack([mask, mask], -1)
      return tuple(_sampled(m, own.matching[image])[:, 0] for m in maps)

    def in_loss(image, pair, logits, mask):
      drawn = own.drawn[image, pair]
      order = np.argsort(np.abs(_sampled(logits[..., None], drawn)[:, 0]))[:15]
      at = np.concatenate([drawn[order], own.others[image, pair]])
      return tuple(_sampled(m[..., None], at)[:, 0] for m in (logits, mask))

    return _numpy_losses(layer, targets, in_matching, in_loss)

  given = [Points(*map(tf.constant, p)) for p in points]
  result = criterion.losses_at(given, outputs, targets, criterion.normalizers(targets))
  _assert_terms(result, structures.split_layers(outputs), expected_of)


@pytest.mark.parametrize('solver', SOLVERS)
def test_without_points_all_pixels_of_the_mask_logits_are_compared(solver):
  targets, outputs = _targets(), _outputs(size=(12, 10))

  def whole(image, *arguments):
    logits, mask = arguments[-2:]
    grid = mask.reshape(12, 2, 10, 2).mean((1, 3))
    return logits.ravel(), grid.ravel()

  result = _criterion(QUERIES, num_points=0, solver=solver)(outputs, targets)
  _assert_terms(result, structures.split_layers(outputs),
                lambda i, layer: _numpy_losses(layer, targets, whole, whole))


@pytest.mark.parametrize('solver', SOLVERS)
def test_empty_masks_are_matched_and_counted_on_request(solver):
  targets, outputs = _targets(), _outputs(size=(12, 10))
  # Masks 3 to 5 lose their pixels, as outside of a crop.
  targets = targets._replace(mask_ids=tf.where(targets.mask_ids >= 3, -1, targets.mask_ids))

  def whole(image, *arguments):
    logits, mask = arguments[-2:]
    return logits.ravel(), mask.reshape(12, 2, 10, 2).mean((1, 3)).ravel()

  totals = []
  for keep in (True, False):
    criterion = _criterion(QUERIES, num_points=0, keep_empty_masks=keep, solver=solver)
    result = criterion(outputs, targets)
    _assert_terms(result, structures.split_layers(outputs), lambda i, layer, keep=keep:
                  _numpy_losses(layer, targets, whole, whole, keep_empty_masks=keep))
    totals.append(float(criterion.normalizers(targets)['masks']))
  assert totals[0] == np.count_nonzero(targets.mask_classes >= 0) > totals[1]


def test_drawn_points_estimate_the_mean_over_the_image():
  targets, outputs = _targets(), _outputs(size=(12, 10), layers=1)
  every = _criterion(QUERIES, num_points=0)(outputs, targets).losses
  uniform = _criterion(QUERIES, num_points=20000, oversample_ratio=1.0,
                       importance_sample_ratio=0.0)
  with randomness.seeded(tf.constant([1, 2])):
    drawn = uniform(outputs, targets).losses
  np.testing.assert_allclose(drawn['class_loss'], every['class_loss'], rtol=1e-6)
  # Between pixels the logits are interpolated, so their extremes count less.
  np.testing.assert_allclose(drawn['mask_loss'], every['mask_loss'], rtol=0.3)
  np.testing.assert_allclose(drawn['dice_loss'], every['dice_loss'], rtol=0.1)


def test_selected_points_are_harder_than_uniform_ones():
  targets, outputs = _targets(), _outputs(layers=1)
  # Confident and right in most places.
  one_hot = tf.one_hot(targets.mask_ids[:, 2::4, 2::4], QUERIES, 6.0, -6.0)
  outputs['mask_logits'] = one_hot + 0.1 * outputs['mask_logits']
  losses = [float(_criterion(QUERIES, num_points=500, importance_sample_ratio=share)(
      outputs, targets).losses['mask_loss']) for share in (0.0, 0.75)]
  assert losses[1] > 1.3 * losses[0]


def _seeded(criterion, outputs, targets, normalizers, first, images=3):
  with randomness.seeded(tf.constant([3, 5]), images, first), tf.GradientTape() as tape:
    tape.watch(outputs)
    result = criterion(outputs, targets, normalizers)
  return result, tape.gradient(result.total, outputs)


@pytest.mark.parametrize('options', [
    {'num_points': 24}, {'num_points': 0}, {'num_points': 24, 'matching_at': 'masks'},
    {'num_points': 24, 'loss_at': 'masks', 'focal': Focal()}], ids=str)
def test_parts_of_a_batch_add_up_to_the_whole(options):
  targets, outputs = _targets(), _outputs(queries=3)
  criterion = _criterion(3, **options)
  normalizers = criterion.normalizers(targets)
  whole, gradients = _seeded(criterion, outputs, targets, normalizers, 0)
  parts, sums = [], dict.fromkeys(normalizers, 0.0)
  for first, end in ((0, 1), (1, 3)):
    own = tf.nest.map_structure(lambda x, a=first, b=end: x[a:b], (outputs, targets))
    parts.append(_seeded(criterion, *own, normalizers, first))
    sums = {name: sums[name] + value for name, value in criterion.normalizers(own[1]).items()}
    for name, gradient in parts[-1][1].items():
      np.testing.assert_allclose(gradient, gradients[name][first:end], atol=1e-6)
  for name, loss in whole.losses.items():
    np.testing.assert_allclose(sum(part.losses[name] for part, _ in parts), loss, rtol=1e-5)
  for name, value in normalizers.items():
    np.testing.assert_allclose(sums[name], value, rtol=1e-6)


def test_normalizers_are_masks_and_class_weights():
  criterion = _criterion(5, no_object_weight=0.25)
  found = criterion.normalizers(_targets())
  # 6, 4 and 0 masks; 5 and 4 of them are matched, and 1 + 5 queries are not.
  assert float(found['masks']) == 10 and float(found['class_weights']) == 9 + 0.25 * 6


def test_random_numbers_depend_on_seed_and_image_alone():
  targets, outputs = _targets(), _outputs()
  criterion = _criterion(QUERIES, num_points=24)
  normalizers = criterion.normalizers(targets)

  def total(seed):
    with randomness.seeded(tf.constant(seed)):
      return float(criterion(outputs, targets, normalizers).total)

  assert total([1, 2]) == total([1, 2])
  assert len({total(seed) for seed in ([1, 2], [1, 3], [2, 2])}) == 3


def test_a_weight_of_0_leaves_the_term_out():
  targets, outputs = _targets(), _outputs(layers=1)
  full = _criterion(QUERIES, num_points=0)(outputs, targets)
  assert set(full.losses) == {'class_loss', 'mask_loss', 'dice_loss'}
  some = _criterion(QUERIES, num_points=0, dice_weight=0.0)(outputs, targets)
  assert set(some.losses) == {'class_loss', 'mask_loss'}
  none = _criterion(QUERIES, num_points=0, class_weight=0.0, mask_weight=0.0,
                    dice_weight=0.0)(outputs, targets)
  assert not none.losses and float(none.total) == 0


def test_a_perfect_prediction_is_matched_and_monitored():
  targets = _targets(size=(24, 20))
  ids, classes = targets.mask_ids.numpy()[:, 2::4, 2::4], targets.mask_classes.numpy()
  order = np.array([4, 0, 6, 2, 1, 3])  # Query of each mask.
  masks = np.full((3, 6, 5, QUERIES), -30.0)
  labels = np.full((3, QUERIES), CLASSES)
  for mask, query in enumerate(order):
    masks[..., query] = np.where(ids == mask, 30.0, -30.0)
    labels[:, query] = np.where(classes[:, mask] >= 0, classes[:, mask], CLASSES)
  outputs = {'mask_logits': tf.constant(masks, tf.float32),
             'class_logits': 30 * tf.one_hot(labels, CLASSES + 1)}
  result = _criterion(QUERIES, num_points=0)(outputs, targets)
  assert float(result.total) < 1e-6
  np.testing.assert_allclose(result.statistics['matched_class_confidence'], 1.0, rtol=1e-6)
  np.testing.assert_allclose(result.statistics['matched_mask_dice'], 1.0, rtol=1e-6)
  np.testing.assert_allclose(result.statistics['matched_masks'], 10 / 3, rtol=1e-6)


@pytest.mark.parametrize('solver', SOLVERS)
def test_outputs_that_are_not_finite_are_reported(solver):
  targets, outputs = _targets(), _outputs()
  broken = outputs['mask_logits_0'].numpy()
  broken[0, 0, 0, 0] = np.nan
  outputs['mask_logits_0'] = tf.constant(broken)
  checks = _criterion(QUERIES, num_points=0, solver=solver)(outputs, targets).checks
  failed = {name for name, is_finite in checks.items() if not is_finite}
  assert {'mask_logits_0', 'matching_costs'} <= failed
  assert not failed & {'class_logits', 'class_logits_0', 'mask_logits', 'mask_loss', 'class_loss'}


def test_an_unknown_solver_is_refused():
  with pytest.raises(ConfigError, match='unknown solver "best": use one of scipy, native'):
    _criterion(QUERIES, solver='best')


def test_losses_are_float32_for_outputs_of_low_precision():
  targets, outputs = _targets(), _outputs()
  low = {name: tf.cast(x, tf.bfloat16) for name, x in outputs.items()}
  rounded = {name: tf.cast(x, tf.float32) for name, x in low.items()}
  criterion = _criterion(QUERIES, num_points=0)
  found = criterion(low, targets)
  assert found.total.dtype == tf.float32
  np.testing.assert_array_equal(found.total, criterion(rounded, targets).total)


def test_all_predictions_are_matched_by_one_call_of_the_host():
  targets, outputs = _targets(), _outputs(layers=4)
  criterion = _criterion(QUERIES, num_points=16)
  graph = tf.function(criterion, autograph=False).get_concrete_function(outputs, targets).graph
  assert [op.type for op in graph.get_operations()].count('EagerPyFunc') == 1


def test_only_one_image_at_a_time_has_all_points_that_are_drawn():
  queries, images, size, masks = 100, 4, 256, 181
  outputs = {'mask_logits': tf.TensorSpec([images, size, size, queries]),
             'class_logits': tf.TensorSpec([images, queries, 134])}
  ids = tf.TensorSpec([images, 4 * size, 4 * size], tf.int32)
  targets = MaskTargets(ids, tf.TensorSpec(ids.shape), ids,
                        tf.TensorSpec([images, masks], tf.int32),
                        tf.TensorSpec([images, masks], tf.bool))

  def step(outputs, targets):
    with tf.GradientTape() as tape, randomness.seeded(tf.constant([1, 2]), 16, 0):
      tape.watch(outputs)
      total = _criterion(queries)(outputs, targets).total
    return tape.gradient(total, outputs)

  tensors = list(graphs.tensors(step, outputs, targets))
  assert len(tensors) > 200
  # The mask logits themselves; a tensor of all drawn points would be larger.
  largest = images * size**2 * queries
  assert largest < images * queries * 3 * 12544 * 2
  assert not [t for t in tensors if t.elements > largest]


@pytest.mark.slow
@pytest.mark.parametrize('queries', [QUERIES, 3])
@pytest.mark.parametrize('num_points', [24, 0])
def test_compiled_it_gives_the_same_losses_and_gradients(num_points, queries):
  targets, outputs = _targets(), _outputs(queries=queries)
  criterion = _criterion(queries, num_points=num_points, solver='native')
  normalizers = criterion.normalizers(targets)

  def step(outputs, targets, normalizers, first):
    return _seeded(criterion, outputs, targets, normalizers, first, images=5)

  compiled = tf.function(step, jit_compile=True, autograph=False)
  result, gradients = compiled(outputs, targets, normalizers, tf.constant(2))
  expected, expected_gradients = step(outputs, targets, normalizers, tf.constant(2))
  for name, loss in expected.losses.items():
    np.testing.assert_allclose(result.losses[name], loss, rtol=1e-5, err_msg=name)
  for name, gradient in expected_gradients.items():
    np.testing.assert_allclose(gradients[name], gradient, atol=1e-6, err_msg=name)
  for name, value in expected.statistics.items():
    np.testing.assert_allclose(result.statistics[name], value, rtol=1e-5)
