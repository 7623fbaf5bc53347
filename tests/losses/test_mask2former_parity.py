"""Mask2Former's criterion equals the recorded numbers of its released code."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf import mask_values, matching, structures
from deeplab_tf.losses import point_sampling
from deeplab_tf.losses.mask2former import ComparisonOptions, Mask2FormerCriterion, Points
from deeplab_tf.losses.mask_comparison import compare
from deeplab_tf.structures import OverlappingMaskTargets

CASES = ('two_images', 'one_empty_image', 'more_targets_than_queries', 'padded_batch',
         'all_images_empty')
SOLVERS = ('scipy', 'native')
TERMS = {'class_loss': 'loss_ce', 'mask_loss': 'loss_mask', 'dice_loss': 'loss_dice'}


class _Case:
  """A recorded case in this library's containers, with unused rows among the masks."""

  def __init__(self, name):
    folder = shared.path('parity', 'mask2former')
    self.info = json.loads((folder / 'loss.json').read_text())[name]
    arrays = np.load(folder / 'loss.npz')
    self.arrays = {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{name}/')}
    self.counts = self.info['counts']
    self.num_layers = self.info['layers']
    # Mask i is row 2 i + 1.
    self.rows = 2 * max(*self.counts, 1) + 1
    self.targets = self._targets()
    self.outputs = structures.join_layers([
        {'class_logits': tf.constant(self.arrays[f'pred_logits_{i}']),
         'mask_logits': tf.constant(self.arrays[f'pred_masks_{i}'].transpose(0, 2, 3, 1))}
        for i in range(self.num_layers)])

  def criterion(self, solver='scipy'):
    info = self.info
    weights = info['weights']
    return Mask2FormerCriterion(
        info['num_queries'], class_weight=weights['ce'], mask_weight=weights['mask'],
        dice_weight=weights['dice'], no_object_weight=info['eos_coef'],
        comparison=ComparisonOptions(
            num_points=info['num_points'], oversample_ratio=info['oversample_ratio'],
            importance_sample_ratio=info['importance_sample_ratio']), solver=solver)

  def _targets(self):
    height, width = self.info['target_hw']
    masks = np.zeros((len(self.counts), self.rows, height, width), bool)
    classes = np.full((len(self.counts), self.rows), -1, np.int32)
    for image, count in enumerate(self.counts):
      classes[image, 1:2 * count:2] = self.arrays[f'target_labels_{image}']
      if count:
        bits = np.unpackbits(self.arrays[f'target_masks_{image}'], axis=1)
        masks[image, 1:2 * count:2] = bits[:, :height * width].reshape(count, height, width)
    return OverlappingMaskTargets(mask_values.pack(masks.transpose(0, 2, 3, 1)),
                                  tf.constant(classes))

  def assignment(self, layer, image):
    return (self.arrays[f'assign_{kind}_{layer}_{image}'] for kind in ('pred', 'target'))

  def points(self, criterion):
    """Returns the recorded points: theirs are ordered by query, ours by mask."""
    pairs, result = criterion.num_pairs(self.targets), []
    for layer in range(self.num_layers):
      kinds = []
      for kind in ('oversampled', 'rest'):
        recorded = self.arrays[f'loss_points_{kind}_{layer}']
        own = np.full((len(self.counts), pairs, *recorded.shape[1:]), 0.5, np.float32)
        for image in range(len(self.counts)):
          _, masks = self.assignment(layer, image)
          own[image, :len(masks)] = recorded[:len(masks)][np.argsort(masks)]
          recorded = recorded[len(masks):]
        assert not len(recorded)
        kinds.append(own)
      matched = [self.arrays[f'match_points_{layer}_{i}'] for i in range(len(self.counts))]
      result.append(Points(*map(tf.constant, (np.stack(matched), *kinds))))
    return result


@pytest.mark.parity
@pytest.mark.parametrize('name', CASES)
def test_costs_and_assignments_equal_the_reference(name):
  case = _Case(name)
  layers = structures.split_layers(case.outputs)
  for i, (layer, points) in enumerate(zip(layers, case.points(case.criterion()))):
    found = compare(layer['class_logits'], case.targets.mask_classes,
                    point_sampling.sample(layer['mask_logits'], points.matching),
                    mask_values.at_points(case.targets, points.matching))
    weights = case.info['weights']
    costs = (weights['ce'] * found.classes + weights['mask'] * found.masks
             + weights['dice'] * found.dice)
    for image, count in enumerate(case.counts):
      np.testing.assert_allclose(costs[image, :, 1:2 * count:2],
                                 case.arrays[f'cost_{i}_{image}'], atol=2e-5)
    for solver in SOLVERS:
      query_of = matching.match(costs, mask_values.are_masks(case.targets), solver).numpy()
      for image in range(len(case.counts)):
        expected = np.full(case.rows, -1)
        queries, masks = case.assignment(i, image)
        expected[2 * masks + 1] = queries
        np.testing.assert_array_equal(query_of[image], expected)


@pytest.mark.parity
@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('name', CASES)
def test_losses_and_gradients_equal_the_reference(name, solver):
  case = _Case(name)
  criterion = case.criterion(solver)
  with tf.GradientTape() as tape:
    tape.watch(case.outputs)
    result = criterion.losses_at(case.points(criterion), case.outputs, case.targets,
                                 criterion.normalizers(case.targets))
  np.testing.assert_allclose(result.total, case.info['total_weighted'], rtol=2e-6)
  last = case.num_layers - 1
  recorded = case.info['losses_unweighted_by_layer']
  assert len(result.losses) == len(recorded) == 3 * case.num_layers
  for layer in range(case.num_layers):
    suffix = '' if layer == last else f'_{layer}'
    for ours, theirs in TERMS.items():
      unweighted = result.losses[ours + suffix] / result.weights[ours + suffix]
      np.testing.assert_allclose(unweighted, recorded[f'{theirs}_{layer}'], rtol=5e-6, atol=1e-7)
  gradients = tape.gradient(result.total, case.outputs)
  compared = 0
  for name, theirs, order in (('class_logits', 'pred_logits', (0, 1, 2)),
                              ('mask_logits', 'pred_masks', (0, 3, 1, 2))):
    for layer in range(case.num_layers):
      gradient = gradients[name if layer == last else f'{name}_{layer}'].numpy().transpose(order)
      np.testing.assert_allclose(
          np.linalg.norm(gradient), case.info['grad_norms'][f'{theirs}_{layer}'], rtol=1e-5)
      if f'grad_{theirs}_{layer}' in case.arrays:
        compared += 1
        np.testing.assert_allclose(gradient, case.arrays[f'grad_{theirs}_{layer}'], atol=1e-6)
  assert compared >= 4
  assert all(result.checks.values())
