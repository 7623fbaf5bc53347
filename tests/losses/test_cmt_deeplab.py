"""CMT-DeepLab's criterion: the terms of layers, reference masks and two networks."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.losses import mask_approximation
from deeplab_tf.losses.cmt_deeplab import FIRST_NETWORK, CMTDeepLabCriterion
from deeplab_tf.losses.max_deeplab import LossTerm, MaXDeepLabCriterion
from deeplab_tf.structures import MaskTargets

_IGNORE, _CLASSES, _QUERIES, _LAYERS = 255, 4, 8, 2
_OFF = LossTerm(0.0)


def _targets():
  mask_ids = np.full((2, 17, 25), -1, np.int32)
  mask_ids[:, 1:9, :10] = 0
  mask_ids[:, 9:, :7] = 1
  mask_ids[0, 4:, 12:] = 3
  mask_classes = np.array([[2, 0, -1, 1], [2, 2, -1, 1]], np.int32)
  classes = np.take_along_axis(mask_classes, np.maximum(mask_ids, 0).reshape(2, -1), axis=1)
  semantic_map = np.where(mask_ids >= 0, classes.reshape(mask_ids.shape), _IGNORE)
  return MaskTargets(
      semantic_map=tf.constant(semantic_map, tf.int32),
      semantic_weights=tf.ones(mask_ids.shape),
      mask_ids=tf.constant(mask_ids), mask_classes=tf.constant(mask_classes),
      mask_isthing=tf.constant(np.tile(np.arange(4) < 3, (2, 1))))


def _outputs(seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return tf.constant(2. * rng.normal(size=shape), tf.float32)

  return {
      'mask_logits': normal(2, 9, 13, _QUERIES),
      'class_logits': normal(2, _QUERIES, _CLASSES + 1),
      'pixel_features': tf.math.l2_normalize(normal(2, 9, 13, 5), axis=-1),
      'semantic_logits': normal(2, 17, 25, _CLASSES),
      **{f'mask_logits_{i}': normal(2, 3, 4, _QUERIES) for i in range(_LAYERS)},
      'reference_points': tf.sigmoid(normal(2, _LAYERS, _QUERIES, 3, 2)),
  }


def _criterion(kind=CMTDeepLabCriterion, **terms):
  return kind(**{'ignore_label': _IGNORE, 'sample_k': 0, **terms})


def test_without_layers_it_is_that_of_max_deeplab():
  outputs = {name: value for name, value in _outputs().items()
             if name in ('mask_logits', 'class_logits', 'pixel_features', 'semantic_logits')}
  found = _criterion().image_losses(outputs, _targets())
  expected = _criterion(MaXDeepLabCriterion).image_losses(outputs, _targets())
  assert set(found.losses) == set(expected.losses)
  for name, value in expected.losses.items():
    np.testing.assert_array_equal(found.losses[name], value, err_msg=name)
  np.testing.assert_array_equal(found.total, expected.total)


def test_layers_have_the_mask_terms_under_the_matching_of_the_last():
  outputs, targets = _outputs(), _targets()
  criterion = _criterion(pq_style_weight=3.0, mask_id_term=LossTerm(0.3))
  result = criterion.image_losses(outputs, targets)
  matching = criterion.match(outputs, targets).matching
  for i in range(_LAYERS):
    # MaX-DeepLab's losses of the same classes, but the masks of the layer.
    of_layer = {**outputs, 'mask_logits': resize_bilinear(outputs[f'mask_logits_{i}'], (9, 13))}
    expected = _criterion(MaXDeepLabCriterion).image_losses(of_layer, targets, matching)
    for name in ('pq_style_loss_mask_dice_term', 'mask_id_cross_entropy_loss'):
      np.testing.assert_allclose(result.losses[f'{name}_{i}'], expected.losses[name], rtol=1e-5)
      assert result.weights[f'{name}_{i}'] == result.weights[name]
    assert not [name for name in result.losses if name.endswith(f'class_term_{i}')]
  np.testing.assert_allclose(result.total, tf.add_n(list(result.losses.values())), rtol=1e-5)


def test_reference_masks_of_all_layers_are_added_up():
  outputs, targets = _outputs(), _targets()
  criterion = _criterion(mask_approximation_term=LossTerm(0.5))
  matched = criterion.match(outputs, targets)
  expected = 0.5 * sum(
      mask_approximation.loss(outputs['reference_points'][:, i], matched.matching,
                              mask_approximation.extents(matched.scaled.mask_ids, 4))
      for i in range(_LAYERS))
  result = criterion.image_losses(outputs, targets)
  np.testing.assert_allclose(result.losses['mask_approximation_loss'], expected, rtol=1e-6)
  off = _criterion(mask_approximation_term=_OFF).image_losses(outputs, targets)
  assert 'mask_approximation_loss' not in off.losses


@pytest.mark.parametrize('sample_k', [0, 16])
def test_two_networks_have_the_losses_of_each(sample_k):
  outputs, others, targets = _outputs(0), _outputs(1), _targets()
  criterion = _criterion(sample_k=sample_k)

  def losses(outputs):
    with randomness.seeded(tf.constant([0, 5])):
      return criterion.image_losses(outputs, targets).losses

  both = losses({**outputs, **{FIRST_NETWORK + name: x for name, x in others.items()}})
  single = {'': losses(outputs), FIRST_NETWORK: losses(others)}
  assert set(both) == {start + name for start, found in single.items() for name in found}
  for start, found in single.items():
    for name, value in found.items():
      if 'instance_discrimination' in name and sample_k:
        continue  # Each network draws pixels of its own.
      np.testing.assert_allclose(both[start + name], value, rtol=1e-5, err_msg=start + name)


def test_values_that_are_not_finite_are_named():
  outputs = _outputs()
  outputs['mask_logits_1'] = outputs['mask_logits_1'] * np.nan
  checks = _criterion().image_losses(outputs, _targets()).checks
  assert not checks['mask_logits_1'] and checks['mask_logits_0'] and checks['mask_logits']


def test_every_output_has_a_gradient():
  outputs = _outputs()
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    total = tf.reduce_sum(_criterion(sample_k=16).image_losses(outputs, _targets()).total)
  for name, gradient in tape.gradient(total, outputs).items():
    assert gradient is not None and np.abs(gradient).max() > 0, name
