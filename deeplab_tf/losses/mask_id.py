"""Mask-ID cross-entropy: each pixel predicts its query (MaX-DeepLab, section 3.4)."""

import tensorflow as tf

from deeplab_tf.losses import pixel_loss


class MaskIdLoss(pixel_loss.PixelLoss):
  """Softmax cross-entropy over the queries, of query indices and mask logits.

  A pixel without a query (-1: crowd) has loss 0, but its gradient is the softmax, which keeps every
  query from becoming confident there. DeepLab2 has the same effect, since it passes an all-zero
  target to TensorFlow's cross-entropy. Pass a sample_weight of 0 for pixels that should have no
  gradient (unlabeled ones).
  """

  def __init__(self, top_k_percent: float = 1.0, reduction: str = 'auto',
               name: str = 'mask_id_cross_entropy_loss'):
    """Initializes the loss.

    Args:
      top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(top_k_percent, reduction, name)

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, h, w].

    Args:
      y_true: int [batch, height, width], the query of each pixel; -1 for none.
      y_pred: float [batch, h, w, queries], mask logits.
    """
    queries = pixel_loss.subsample(tf.convert_to_tensor(y_true), *y_pred.shape[1:3])
    logits = tf.cast(y_pred, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(queries, 0), logits)
    log_total = losses + logits[..., 0]
    return tf.where(queries >= 0, losses, log_total - tf.stop_gradient(log_total))
