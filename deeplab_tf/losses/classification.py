"""Softmax cross-entropy of whole images, with label smoothing."""

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.losses import criterion
from deeplab_tf.structures import ClassTargets


class ClassificationLoss(keras.losses.Loss):
  """Softmax cross-entropy of class indices [batch] and logits [batch, classes].

  The target gives its class 1 - s + s / classes and every other class s / classes, where s is the
  label smoothing (Szegedy et al., "Rethinking the Inception Architecture", section 7).
  """

  def __init__(self, label_smoothing: float = 0.0, reduction: str = 'auto',
               name: str = 'classification_loss'):
    """Initializes the loss.

    Args:
      label_smoothing: Share of the target that is distributed over all classes, in [0, 1).
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(reduction=reduction, name=name)
    self._label_smoothing = label_smoothing

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch].

    Args:
      y_true: int [batch], class indices.
      y_pred: float [batch, classes], logits.
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(y_pred, tf.float32))
    own = tf.gather(log_probabilities, y_true, batch_dims=1)
    spread = tf.reduce_mean(log_probabilities, -1)
    return -(1.0 - self._label_smoothing) * own - self._label_smoothing * spread

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {**super().get_config(), 'label_smoothing': self._label_smoothing}


class ClassificationCriterion(criterion.PerImageCriterion):
  """Computes the loss of image classification from outputs and targets."""

  def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0):
    """Initializes the criterion.

    Args:
      weight: Factor of the loss, above 0.
      label_smoothing: Share of the target that is distributed over all classes, in [0, 1).
    """
    self._weight = weight
    self._loss = ClassificationLoss(label_smoothing, reduction='none')

  def image_losses(self, outputs: dict[str, tf.Tensor],
                   targets: ClassTargets) -> criterion.CriterionResult:
    """Returns the loss of each image, and as a statistic the top-1 accuracy of the batch.

    Args:
      outputs: `class_logits`, float [batch, classes].
      targets: Class indices.
    """
    logits = outputs['class_logits']
    name, loss = self._loss.name, self._weight * self._loss(targets.class_index, logits)
    right = tf.equal(tf.argmax(logits, -1, tf.int32), targets.class_index)
    statistics = {'top1': tf.reduce_mean(tf.cast(right, tf.float32))}
    checks = criterion.are_finite({'class_logits': logits, name: loss})
    return criterion.CriterionResult({name: loss}, {name: self._weight}, loss, statistics, checks)
