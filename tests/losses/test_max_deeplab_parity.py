"""MaX-DeepLab's criterion against the losses and gradients recorded from DeepLab2."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf import matching
from deeplab_tf.losses.max_deeplab import LossTerm, MaXDeepLabCriterion
from deeplab_tf.structures import MaskTargets

# The options of each recorded case: PQ-style weight, then weight and share of mask-ID,
# instance discrimination and semantic loss.
_PUBLISHED = (3.0, LossTerm(0.3), LossTerm(1.0), LossTerm(1.0))
_CASES = {
    'max_cityscapes_more_slots_than_gt': _PUBLISHED,
    'max_cityscapes_topk_weights':
        (2.0, LossTerm(0.5, 0.3), LossTerm(1.5, 0.6), LossTerm(0.7, 0.2)),
    'max_coco_fewer_slots_than_gt': _PUBLISHED,
    'max_coco_pixel_contrastive_all_pixels': _PUBLISHED,
    'max_coco_published_sizes': _PUBLISHED,
}
_OUTPUTS = {
    'mask_logits': 'pixel_space_mask_logits',
    'class_logits': 'transformer_class_logits',
    'pixel_features': 'pixel_space_normalized_feature',
    'semantic_logits': 'semantic_logits',
}

pytestmark = pytest.mark.parity


class _Case:
  """A recorded case, in this library's containers."""

  def __init__(self, name):
    self.recorded = np.load(shared.path('parity', 'deeplab2', 'losses', f'{name}.npz'))
    with open(shared.path('parity', 'deeplab2', 'losses', f'{name}.json')) as f:
      info = json.load(f)
    dataset = info['dataset']
    self.ignore_label = dataset['ignore_label']
    self.class_ids = np.array([c for c in range(dataset['num_classes']) if c != self.ignore_label])
    self.isthing = np.isin(self.class_ids, dataset['class_has_instances_list'])
    # DeepLab2's channels are the things, the stuff, void.
    theirs = np.concatenate([np.flatnonzero(self.isthing), np.flatnonzero(~self.isthing)])
    self.channels = np.append(np.argsort(theirs), len(theirs))
    self.criterion = MaXDeepLabCriterion(
        self.ignore_label, *_CASES[name], info['instance_discrimination_sample_k'])
    self.targets = self._targets()
    self.outputs = {
        ours: tf.constant(self._ordered(ours, self.recorded[f'pred|{theirs}']))
        for ours, theirs in _OUTPUTS.items()}
    self.matching = tf.constant(self.recorded['matched_slot'])

  def _ordered(self, name, values):
    return values[..., self.channels] if name == 'class_logits' else values

  def _targets(self):
    semantic = self.recorded['gt|semantic_gt']
    thing_ids = self.recorded['gt|thing_id_mask_gt']
    thing_classes = self.recorded['gt|thing_id_class_gt'].astype(int)
    stuff = np.flatnonzero(~self.isthing)
    batch, things = thing_classes.shape
    index = {class_id: i for i, class_id in enumerate(self.class_ids)}
    thing_rows = np.vectorize(lambda c: index.get(c, -1))(thing_classes)
    mask_ids = thing_ids.copy()
    for row, i in enumerate(stuff):
      mask_ids[semantic == self.class_ids[i]] = things + row
    return MaskTargets(
        semantic_map=tf.constant(semantic),
        semantic_weights=tf.constant(self.recorded['gt|semantic_loss_weight']),
        mask_ids=tf.constant(mask_ids, tf.int32),
        mask_classes=tf.constant(
            np.concatenate([thing_rows, np.tile(stuff, (batch, 1))], axis=1), tf.int32),
        mask_isthing=tf.constant(
            np.tile(np.arange(things + len(stuff)) < things, (batch, 1))))

  def run(self, matching=None):
    with tf.GradientTape() as tape:
      tape.watch(self.outputs)
      result = self.criterion.image_losses(self.outputs, self.targets, matching)
      loss = tf.reduce_sum(result.total)
    return result, tape.gradient(loss, self.outputs)


@pytest.fixture(params=_CASES, name='case')
def _case(request):
  return _Case(request.param)


def test_losses_equal(case):
  result, _ = case.run(case.matching)
  for name, loss in result.losses.items():
    np.testing.assert_allclose(loss, case.recorded[f'loss|{name}'], rtol=2e-6, err_msg=name)
  assert len(result.losses) == 5
  np.testing.assert_allclose(result.total, case.recorded['loss|total_loss'], rtol=2e-6)


def test_gradients_equal(case):
  _, gradients = case.run(case.matching)
  for ours, theirs in _OUTPUTS.items():
    expected = case._ordered(ours, case.recorded[f'grad_total|{theirs}'])
    np.testing.assert_allclose(
        gradients[ours], expected, rtol=0, atol=3e-6 * np.abs(expected).max(), err_msg=ours)


@pytest.mark.parametrize('solver', ['scipy', 'native'])
def test_matching_costs_as_much(case, solver):
  weights = case.recorded['hungarian_weights']
  valid = case.recorded['matched_slot'] >= 0
  found = matching.match(
      tf.constant(weights.transpose(0, 2, 1)), tf.constant(valid), solver).numpy()
  assert np.array_equal(found >= 0, valid)
  for image, queries in enumerate(found):
    masks = np.flatnonzero(valid[image])
    total = weights[image, masks, queries[masks]].sum()
    # DeepLab2's solver quantises costs: it is allowed to be dearer, not cheaper.
    assert total <= case.recorded['matching_cost'][image] + 1e-6
    assert total >= case.recorded['matching_cost'][image] - 1e-4 * len(masks)


def test_own_matching_gives_the_losses(case):
  result, _ = case.run()
  np.testing.assert_allclose(result.total, case.recorded['loss|total_loss'], rtol=1e-5)
