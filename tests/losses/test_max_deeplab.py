"""MaX-DeepLab's criterion: the paper's equations in plain numpy, compiled steps, NaN, infinity."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.losses.max_deeplab import LossTerm, MaXDeepLabCriterion
from deeplab_tf.structures import MaskTargets

_IGNORE = 255
_CLASSES = 4
_OFF = LossTerm(0.0)
_PQ_STYLE = ('pq_style_loss_mask_dice_term', 'pq_style_loss_class_term')


def _scene(queries=8, seed=0):
  """Returns outputs and targets of two images: four masks and void; three, crowd and void."""
  rng = np.random.default_rng(seed)
  mask_ids = np.full((2, 17, 25), -1, np.int32)
  mask_ids[:, 1:9, :10] = 0
  mask_ids[:, 9:, :7] = 1
  mask_ids[:, 4:, 12:] = 4
  mask_ids[0, 9:, 7:12] = 5
  mask_classes = np.array([[2, 0, -1, 1, 1, 3], [2, 2, -1, -1, 1, 3]], np.int32)
  classes = np.take_along_axis(mask_classes, np.maximum(mask_ids, 0).reshape(2, -1), axis=1)
  semantic_map = np.where(mask_ids >= 0, classes.reshape(mask_ids.shape), _IGNORE)
  semantic_map[1, 9:, 7:12] = 2
  targets = MaskTargets(
      semantic_map=tf.constant(semantic_map, tf.int32),
      semantic_weights=tf.constant(rng.integers(1, 4, mask_ids.shape), tf.float32),
      mask_ids=tf.constant(mask_ids),
      mask_classes=tf.constant(mask_classes),
      mask_isthing=tf.constant(np.tile(np.arange(6) < 4, (2, 1))))

  def normal(*shape):
    return tf.constant(2. * rng.normal(size=shape), tf.float32)

  outputs = {
      'mask_logits': normal(2, 9, 13, queries),
      'class_logits': normal(2, queries, _CLASSES + 1),
      'pixel_features': tf.math.l2_normalize(normal(2, 9, 13, 5), axis=-1),
      'semantic_logits': normal(2, 17, 25, _CLASSES),
  }
  return outputs, targets


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def _numpy_pq_style(outputs, targets, image, similarity, negatives):
  """Equations 6 to 12 for one image, by loops, with the smoothing of the released code."""
  mask_ids = targets.mask_ids.numpy()[image, ::2, ::2]
  labeled = targets.semantic_map.numpy()[image, ::2, ::2] != _IGNORE
  classes = targets.mask_classes.numpy()[image]
  masks = [i for i in range(len(classes)) if classes[i] >= 0 and (mask_ids == i).any()]
  m_hat = _softmax(outputs['mask_logits'].numpy()[image].astype(float))
  p_hat = _softmax(outputs['class_logits'].numpy()[image].astype(float))
  queries = len(p_hat)

  def dice(i, j):
    inside = m_hat[..., j][mask_ids == i].sum()
    return 2. * inside / ((mask_ids == i).sum() + m_hat[..., j][labeled].sum())

  def sim(i, j):
    if similarity == 'rq_plus_sq':
      return p_hat[j, classes[i]] + dice(i, j)
    return p_hat[j, classes[i]] * dice(i, j)

  table = np.array([[sim(i, j) for j in range(queries)] for i in masks])
  sigma = max(itertools.permutations(range(queries), len(masks)),
              key=lambda order: table[np.arange(len(masks)), order].sum())
  positive_dice, class_terms = 0., []
  for i, j in zip(masks, sigma):
    rq, sq = p_hat[j, classes[i]], dice(i, j)
    weights = (rq, sq) if similarity == 'rq_times_sq' else (1., 1.)
    joint = m_hat[..., j][mask_ids == i].sum()
    smooth = (2 * joint + 1) / (m_hat[..., j][mask_ids >= 0].sum() + (mask_ids == i).sum() + 1)
    positive_dice += weights[0] * (1. - smooth)
    class_terms.append(0.75 * weights[1] * -np.log(rq))
  for j in set(range(queries)) - set(sigma):
    void_share = m_hat[..., j][~labeled].sum() / m_hat[..., j].sum()
    weight = void_share if negatives == 'void_overlap' else 1.
    class_terms.append(0.25 * weight * -np.log(p_hat[j, -1]))
  return 0.75 * positive_dice / queries, np.sum(class_terms) / queries


@pytest.mark.parametrize('similarity', ['rq_times_sq', 'rq_plus_sq'])
@pytest.mark.parametrize('negatives', ['void_overlap', 'all_unmatched'])
def test_pq_style_loss_is_equations_6_to_12(similarity, negatives):
  outputs, targets = _scene(queries=6)
  criterion = MaXDeepLabCriterion(
      _IGNORE, 2.0, _OFF, _OFF, _OFF, similarity=similarity, negatives=negatives)
  result = criterion.image_losses(outputs, targets)
  assert set(result.losses) == set(_PQ_STYLE)
  for image in range(2):
    expected = _numpy_pq_style(outputs, targets, image, similarity, negatives)
    found = [result.losses[name][image] for name in _PQ_STYLE]
    np.testing.assert_allclose(found, 2.0 * np.array(expected), rtol=1e-4)


def test_dynamic_weights_pass_no_gradient():
  outputs, targets = _scene()
  criterion = MaXDeepLabCriterion(_IGNORE)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(outputs)
    losses = criterion.image_losses(outputs, targets).losses
  dice, classes = (losses[name] for name in _PQ_STYLE)
  assert tape.gradient(dice, outputs['class_logits']) is None
  assert tape.gradient(classes, outputs['mask_logits']) is None
  assert tf.norm(tape.gradient(dice, outputs['mask_logits'])) > 0
  assert tf.norm(tape.gradient(classes, outputs['class_logits'])) > 0


def test_a_weight_of_0_leaves_the_term_and_its_output_out():
  outputs, targets = _scene()
  full = MaXDeepLabCriterion(_IGNORE).image_losses(outputs, targets)
  del outputs['pixel_features'], outputs['semantic_logits']
  some = MaXDeepLabCriterion(
      _IGNORE, instance_discrimination_term=_OFF, semantic_term=_OFF).image_losses(
          outputs, targets)
  assert set(full.losses) - set(some.losses) == {'instance_discrimination_loss', 'semantic_loss'}
  np.testing.assert_allclose(some.total, sum(some.losses.values()), rtol=1e-6)
  for name, loss in some.losses.items():
    np.testing.assert_allclose(loss, full.losses[name], rtol=1e-6)
  none = MaXDeepLabCriterion(_IGNORE, 0.0, _OFF, _OFF, _OFF).image_losses(outputs, targets)
  assert not none.losses and none.total.numpy().tolist() == [0., 0.]


def _perfect(outputs, targets):
  """Returns outputs that agree with the targets: mask i is query i + 1."""
  mask_ids = targets.mask_ids[:, ::2, ::2]
  classes = np.full(outputs['class_logits'].shape[:2], _CLASSES)
  classes[:, 1:7] = np.where(targets.mask_classes >= 0, targets.mask_classes, _CLASSES)
  return {
      'mask_logits': 50. * tf.one_hot(mask_ids + 1, outputs['mask_logits'].shape[3]),
      'class_logits': 50. * tf.one_hot(classes, _CLASSES + 1),
      'pixel_features': tf.one_hot(mask_ids + 1, 7),
      'semantic_logits': 50. * tf.one_hot(targets.semantic_map, _CLASSES),
  }


@pytest.mark.parametrize('sample_k', [0, 60])
def test_a_perfect_prediction_scores_1_and_loses_little(sample_k):
  outputs, targets = _scene()
  criterion = MaXDeepLabCriterion(_IGNORE, sample_k=sample_k)
  random, perfect = (criterion.image_losses(o, targets)
                     for o in (outputs, _perfect(outputs, targets)))
  for name in ('matched_class_confidence', 'matched_mask_dice', 'mask_id_accuracy',
               'instance_discrimination_accuracy'):
    np.testing.assert_allclose(perfect.statistics[name], 1., atol=1e-4, err_msg=name)
    assert random.statistics[name] < 0.95, name
  assert perfect.statistics['matched_masks'] == 3.5
  for name, loss in perfect.losses.items():
    # Pixels compare with their like in the contrastive form: its least is not 0.
    if name != 'instance_discrimination_loss':
      np.testing.assert_allclose(loss, 0., atol=1e-3, err_msg=name)
    assert np.all(loss < random.losses[name]), name


def test_unlabeled_pixels_and_unused_rows_do_not_matter():
  outputs, targets = _scene()
  criterion = MaXDeepLabCriterion(_IGNORE, 3.0, negatives='all_unmatched')
  void = np.equal(targets.semantic_map[:, ::2, ::2], _IGNORE)[..., np.newaxis]
  changed = dict(outputs)
  for name in ('mask_logits', 'pixel_features'):
    changed[name] = tf.where(void, tf.reverse(outputs[name], [3]), outputs[name])
  wider = targets._replace(
      mask_classes=tf.pad(targets.mask_classes, [[0, 0], [0, 3]], constant_values=-1),
      mask_isthing=tf.pad(targets.mask_isthing, [[0, 0], [0, 3]]))
  expected = criterion.image_losses(outputs, targets).losses
  found = criterion.image_losses(changed, wider).losses
  for name, loss in expected.items():
    np.testing.assert_allclose(found[name], loss, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('solver', ['scipy', 'native'])
def test_masks_that_no_query_is_left_for_take_no_part(solver):
  outputs, targets = _scene(queries=2)
  criterion = MaXDeepLabCriterion(_IGNORE, solver=solver)
  result = criterion.image_losses(outputs, targets)
  assert result.statistics['matched_masks'] == 2.
  assert all(result.checks.values())
  assert np.all(result.losses['mask_id_cross_entropy_loss'] < 5.)


@pytest.mark.parametrize('solver', ['scipy', 'native'])
def test_an_image_without_masks_has_finite_losses(solver):
  outputs, targets = _scene()
  targets = targets._replace(mask_ids=tf.fill(targets.mask_ids.shape, -1),
                             semantic_map=tf.fill(targets.semantic_map.shape, _IGNORE))
  criterion = MaXDeepLabCriterion(_IGNORE, solver=solver)
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    result = criterion.image_losses(outputs, targets)
  gradients = tape.gradient(result.total, outputs)
  assert all(result.checks.values())
  assert all(np.isfinite(g).all() for g in gradients.values() if g is not None)
  losses = {name: loss.numpy().tolist() for name, loss in result.losses.items()}
  # All queries are unmatched, and wholly on unlabeled pixels.
  assert min(losses.pop('pq_style_loss_class_term')) > 0
  assert all(loss == [0., 0.] for loss in losses.values())


@pytest.mark.parametrize('options', [
    {}, {'similarity': 'rq_plus_sq', 'negatives': 'all_unmatched'},
    {'semantic_term': LossTerm(1., 0.3), 'mask_id_term': LossTerm(1., 0.5)},
    {'sample_k': 9 * 13}])
def test_a_compiled_step_gives_the_same_losses_and_gradients(options):
  outputs, targets = _scene()

  def step(outputs, targets, solver):
    criterion = MaXDeepLabCriterion(_IGNORE, solver=solver, **options)
    with tf.GradientTape() as tape:
      tape.watch(outputs)
      result = criterion.image_losses(outputs, targets)
      loss = tf.reduce_sum(result.total)
    return result, tape.gradient(loss, outputs)

  expected, expected_gradients = step(outputs, targets, 'scipy')
  for jit_compile, solver in ((True, 'native'), (False, 'native'), (False, 'scipy')):
    compiled = tf.function(step, jit_compile=jit_compile)
    result, gradients = compiled(outputs, targets, solver)
    np.testing.assert_allclose(result.total, expected.total, rtol=1e-5)
    for name in expected.losses:
      np.testing.assert_allclose(
          result.losses[name], expected.losses[name], rtol=1e-5, err_msg=name)
    for name in expected.statistics:
      np.testing.assert_allclose(
          result.statistics[name], expected.statistics[name], rtol=1e-4, err_msg=name)
    for name in outputs:
      np.testing.assert_allclose(gradients[name], expected_gradients[name], rtol=1e-3,
                                 atol=1e-6, err_msg=name)


def test_half_precision_outputs_are_computed_in_float32():
  outputs, targets = _scene()
  half = {name: tf.cast(value, tf.bfloat16) for name, value in outputs.items()}
  rounded = {name: tf.cast(value, tf.float32) for name, value in half.items()}
  criterion = MaXDeepLabCriterion(_IGNORE)
  result = criterion.image_losses(half, targets)
  assert result.total.dtype == tf.float32
  expected = criterion.image_losses(rounded, targets)
  np.testing.assert_allclose(result.total, expected.total, rtol=1e-6)


def _with_nan(outputs, name):
  values = outputs[name].numpy()
  values[1].flat[3] = np.nan
  return {**outputs, name: tf.constant(values)}


@pytest.mark.parametrize('name, follows', [
    ('mask_logits', {'matching_costs', 'pq_style_loss_mask_dice_term',
                     'pq_style_loss_class_term', 'mask_id_cross_entropy_loss'}),
    ('class_logits', {'matching_costs', 'pq_style_loss_mask_dice_term',
                      'pq_style_loss_class_term'}),
    ('pixel_features', {'instance_discrimination_loss'}),
    ('semantic_logits', {'semantic_loss'})])
@pytest.mark.parametrize('solver', ['native', 'scipy'])
def test_nan_is_flagged_by_the_name_of_the_output(name, follows, solver):
  outputs, targets = _scene()
  criterion = MaXDeepLabCriterion(_IGNORE, solver=solver)
  run = tf.function(lambda *args: criterion(*args).checks, jit_compile=solver == 'native')
  assert all(run(outputs, targets).values())
  checks = run(_with_nan(outputs, name), targets)
  not_finite = {tensor for tensor, finite in checks.items() if not finite}
  assert name in not_finite and not_finite <= {name} | follows
  assert set(checks) >= {*outputs, 'matching_costs', 'semantic_loss', *_PQ_STYLE}


def test_sizes_that_do_not_fit_are_named():
  outputs, targets = _scene()
  outputs['mask_logits'] = outputs['mask_logits'][:, :8]
  with pytest.raises(ValueError, match='labels of 17x25 pixels do not fit predictions of 8x13'):
    MaXDeepLabCriterion(_IGNORE).image_losses(outputs, targets)


@pytest.mark.parametrize('option', ['similarity', 'negatives', 'solver'])
def test_an_unknown_choice_is_named(option):
  with pytest.raises(ValueError, match=f'unknown {option} "other": use one of '):
    MaXDeepLabCriterion(_IGNORE, **{option: 'other'})


def test_sampled_pixels_are_a_function_of_the_seed():
  outputs, targets = _scene()
  criterion = MaXDeepLabCriterion(_IGNORE, sample_k=32)

  def loss(step):
    with randomness.seeded(tf.constant([1, step])):
      return criterion.image_losses(outputs, targets).losses['instance_discrimination_loss'].numpy()

  np.testing.assert_array_equal(loss(3), loss(3))
  assert np.any(loss(3) != loss(4))
