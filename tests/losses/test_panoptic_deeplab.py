"""Panoptic-DeepLab's criterion equals DeepLab2's losses and gradients; further properties."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.losses.panoptic_deeplab import PanopticDeepLabCriterion
from deeplab_tf.structures import CenterTargets

# Terms of semantic loss, centers and offsets.
_PUBLISHED = (LossTerm(1.0, 0.2), LossTerm(200.0), LossTerm(0.01))
_CASES = {
    'panoptic_cityscapes': _PUBLISHED,
    'panoptic_coco_ignore0': _PUBLISHED,
    'panoptic_topk_everywhere': (LossTerm(2.0), LossTerm(100.0, 0.5), LossTerm(0.1, 0.7)),
}
_OUTPUTS = {'semantic_logits': 'semantic_logits', 'center_heatmap': 'center_heatmap',
            'center_offsets': 'offset_map'}


def _run(criterion, outputs, targets):
  outputs = {name: tf.convert_to_tensor(value) for name, value in outputs.items()}
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    result = criterion.image_losses(outputs, targets)
    total = tf.reduce_sum(result.total)
  return result, tape.gradient(total, outputs)


@pytest.mark.parity
@pytest.mark.parametrize('name', _CASES)
def test_losses_and_gradients_equal_deeplab2(name):
  recorded = np.load(shared.path('parity', 'deeplab2', 'losses', f'{name}.npz'))
  info = json.loads(shared.path('parity', 'deeplab2', 'losses', f'{name}.json').read_text())
  targets = CenterTargets(semantic_map=recorded['gt|semantic_gt'],
                          semantic_weights=recorded['gt|semantic_loss_weight'],
                          center_heatmap=recorded['gt|instance_center_gt'][..., None],
                          center_weights=recorded['gt|center_loss_weight'],
                          center_offsets=recorded['gt|instance_regression_gt'],
                          offset_weights=recorded['gt|regression_loss_weight'])
  targets = tf.nest.map_structure(tf.constant, targets)
  outputs = {ours: recorded[f'pred|{theirs}'] for ours, theirs in _OUTPUTS.items()}
  outputs['center_heatmap'] = outputs['center_heatmap'][..., None]
  criterion = PanopticDeepLabCriterion(info['ignore_label'], *_CASES[name])
  result, gradients = _run(criterion, outputs, targets)
  assert set(result.losses) == {'semantic_loss', 'center_loss', 'regression_loss'}
  for term, loss in result.losses.items():
    np.testing.assert_allclose(loss, recorded[f'loss|{term}'], rtol=2e-6, err_msg=term)
  np.testing.assert_allclose(result.total, recorded['loss|total_loss'], rtol=2e-6)
  for ours, theirs in _OUTPUTS.items():
    expected = recorded[f'grad_total|{theirs}']
    np.testing.assert_allclose(np.reshape(gradients[ours], expected.shape), expected, rtol=0,
                               atol=3e-6 * np.abs(expected).max(), err_msg=ours)


def _perfect(size=(17, 25), stride=4):
  """Targets with one instance, and low-resolution outputs that are linear where they count."""
  low = [-(-n // stride) for n in size]
  semantic = np.ones((1, *size), np.int32)
  semantic[:, :2] = 0
  grid = np.indices(size).transpose(1, 2, 0)[None].astype(np.float32)
  targets = CenterTargets(semantic_map=tf.constant(semantic), semantic_weights=tf.ones([1, *size]),
                          center_heatmap=tf.fill([1, *size, 1], 0.5),
                          center_weights=tf.ones([1, *size]),
                          center_offsets=tf.constant([5., 9.]) - grid,
                          offset_weights=tf.ones([1, *size]))
  coarse = np.indices(low).transpose(1, 2, 0)[None].astype(np.float32)
  outputs = {'semantic_logits': tf.tile(tf.constant([[[[0., 40.]]]]), [1, *low, 1]),
             'center_heatmap': tf.fill([1, *low, 1], 0.5),
             'center_offsets': tf.constant([5 / stride, 9 / stride]) - coarse}
  return outputs, targets


def test_offsets_of_a_coarser_map_are_in_its_pixels():
  outputs, targets = _perfect()
  result = PanopticDeepLabCriterion(0).image_losses(outputs, targets)
  np.testing.assert_allclose(result.total, 0, atol=1e-5)
  assert result.statistics['offset_error'] < 1e-5
  assert result.statistics['semantic_accuracy'] == 1
  outputs['center_offsets'] += tf.constant([0., 0.25])
  result = PanopticDeepLabCriterion(0).image_losses(outputs, targets)
  np.testing.assert_allclose(result.losses['regression_loss'], 0.01 * 0.5, rtol=1e-4)
  np.testing.assert_allclose(result.statistics['offset_error'], 1, rtol=1e-4)


def test_pixels_of_weight_zero_have_no_gradient():
  outputs, targets = _perfect(size=(9, 9), stride=1)
  outputs = {name: value + 0.3 for name, value in outputs.items()}
  weights = np.zeros((1, 9, 9), np.float32)
  weights[:, 4, 5] = 1
  targets = targets._replace(center_weights=tf.constant(weights),
                             offset_weights=tf.constant(weights))
  _, gradients = _run(PanopticDeepLabCriterion(0), outputs, targets)
  for name in ('center_heatmap', 'center_offsets'):
    rows, columns = np.nonzero(np.abs(gradients[name].numpy()).sum((0, 3)))
    assert rows.tolist() == [4] and columns.tolist() == [5], name


def test_a_term_of_weight_zero_needs_no_output():
  outputs, targets = _perfect()
  criterion = PanopticDeepLabCriterion(0, center_term=LossTerm(0.0), offset_term=LossTerm(0.0))
  result = criterion.image_losses({'semantic_logits': outputs['semantic_logits']}, targets)
  assert set(result.losses) == {'semantic_loss'} == set(result.weights)
  none = PanopticDeepLabCriterion(0, LossTerm(0.0), LossTerm(0.0), LossTerm(0.0))
  np.testing.assert_array_equal(none.image_losses({}, targets).total, [0.0])


def test_what_is_not_finite_is_named():
  outputs, targets = _perfect()
  outputs['center_offsets'] *= np.nan
  checks = PanopticDeepLabCriterion(0).image_losses(outputs, targets).checks
  assert [name for name, finite in checks.items() if not finite] == [
      'center_offsets', 'regression_loss']
