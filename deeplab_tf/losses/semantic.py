"""Per-pixel semantic cross-entropy."""

import tensorflow as tf

from deeplab_tf.losses import pixel_loss


class SemanticLoss(pixel_loss.PixelLoss):
  """Softmax cross-entropy of class ids [batch, height, width] and logits.

  The resolution of the labels may be higher by a whole stride; see pixel_loss.subsample.
  """

  def __init__(self, ignore_label: int, top_k_percent: float = 1.0, reduction: str = 'auto',
               name: str = 'semantic_loss'):
    """Initializes the loss.

    Args:
      ignore_label: Class id of unlabeled pixels, which have no loss.
      top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(top_k_percent, reduction, name)
    self._ignore_label = ignore_label

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, h, w], 0 on ignored pixels.

    Args:
      y_true: int [batch, height, width], class ids.
      y_pred: float [batch, h, w, classes], logits.
    """
    labels = pixel_loss.subsample(tf.convert_to_tensor(y_true), *y_pred.shape[1:3])
    labeled = tf.not_equal(labels, self._ignore_label)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.where(labeled, labels, 0), tf.cast(y_pred, tf.float32))
    return tf.where(labeled, losses, 0.)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {**super().get_config(), 'ignore_label': self._ignore_label}
