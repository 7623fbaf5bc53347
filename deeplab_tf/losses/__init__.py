"""Training losses: single ones as keras.losses.Loss, and a criterion for each model."""

from deeplab_tf.losses.criterion import Criterion, CriterionResult, PerImageCriterion

__all__ = ['Criterion', 'CriterionResult', 'PerImageCriterion']
