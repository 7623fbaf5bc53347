"""Cross-entropy of image classification against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.losses.classification import ClassificationCriterion, ClassificationLoss
from deeplab_tf.structures import ClassTargets

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 5)).astype(np.float32)
CLASSES = np.array([0, 4, 2, 2, 1, 3], np.int32)


def expected(smoothing):
  """The cross-entropy of each image, by its definition."""
  probabilities = np.exp(LOGITS.astype(np.float64))
  probabilities /= probabilities.sum(1, keepdims=True)
  target = (1 - smoothing) * np.eye(5)[CLASSES] + smoothing / 5
  return -(target * np.log(probabilities)).sum(1)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(smoothing):
  loss = ClassificationLoss(smoothing, reduction='none')
  np.testing.assert_allclose(loss(CLASSES, LOGITS), expected(smoothing), rtol=1e-5)
  mean = ClassificationLoss.from_config(ClassificationLoss(smoothing).get_config())
  assert float(mean(CLASSES, LOGITS)) == pytest.approx(expected(smoothing).mean(), rel=1e-5)


def test_the_criterion_has_the_weighted_loss_of_each_image_and_the_accuracy():
  result = ClassificationCriterion(2.0, 0.1).image_losses(
      {'class_logits': tf.constant(LOGITS)}, ClassTargets(tf.constant(CLASSES)))
  np.testing.assert_allclose(result.total, 2 * expected(0.1), rtol=1e-5)
  assert list(result.losses) == ['classification_loss'] and result.weights == {
      'classification_loss': 2.0}
  assert float(result.statistics['top1']) == pytest.approx((LOGITS.argmax(1) == CLASSES).mean())
  assert all(result.checks.values())


def test_what_is_not_finite_is_reported():
  logits = LOGITS.copy()
  logits[3, 1] = np.nan
  result = ClassificationCriterion()({'class_logits': tf.constant(logits)},
                                     ClassTargets(tf.constant(CLASSES)))
  assert not result.checks['class_logits'] and not result.checks['classification_loss']
