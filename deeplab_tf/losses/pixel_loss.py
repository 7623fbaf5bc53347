"""The base class of per-pixel losses: resolution of the labels, weights, top-k mean."""

from typing import Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.losses import reduction as reductions


def subsample(labels: tf.Tensor, height: int, width: int) -> tf.Tensor:
  """Subsamples label maps by a whole stride, to the resolution of a prediction.

  Args:
    labels: Label maps [batch, label height, label width], of static size.
    height: Rows of the prediction.
    width: Columns of the prediction.

  Returns:
    [batch, height, width], which include the first and the last row and column of the labels.

  Raises:
    ValueError: There is no stride between the two sizes.
  """
  label_height, label_width = labels.shape[1:3]
  if (label_height, label_width) == (height, width):
    return labels
  stride = (label_height - 1) // max(height - 1, 1)
  expected = [(height - 1) * stride + 1, (width - 1) * stride + 1]
  if stride < 1 or [label_height, label_width] != expected:
    raise ValueError(
        f'labels of {label_height}x{label_width} pixels do not fit predictions of '
        f'{height}x{width}: both sides minus 1 must be the same whole multiple of the '
        f"prediction's minus 1; choose a crop size that is a multiple of the stride, plus 1.")
  return labels[:, ::stride, ::stride]


class PixelLoss(keras.losses.Loss):
  """Base class of losses with one value per pixel; averages the highest values of each image.

  `sample_weight` holds one weight per pixel, [batch, label height, label width].
  """

  def __init__(self, top_k_percent: float = 1.0, reduction: str = 'auto',
               name: Optional[str] = None):
    """Initializes the loss.

    Args:
      top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(reduction=reduction, name=name)
    self._top_k_percent = top_k_percent

  def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor,
               sample_weight: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Returns the loss, float32 [batch] or [] depending on `reduction`."""
    with tf.name_scope(self.name or type(self).__name__):
      losses = self.call(y_true, y_pred)
      if sample_weight is not None:
        weights = subsample(tf.convert_to_tensor(sample_weight), *losses.shape[1:3])
        losses *= tf.cast(weights, tf.float32)
      return self.reduce(losses)

  def reduce(self, losses: tf.Tensor) -> tf.Tensor:
    """Reduces weighted losses, float32 [batch, ...], by `top_k_percent` and `reduction`."""
    losses = reductions.top_k_mean(losses, self._top_k_percent)
    if self.reduction == keras.losses.Reduction.NONE:
      return losses
    if self.reduction == keras.losses.Reduction.SUM:
      return tf.reduce_sum(losses)
    return tf.reduce_mean(losses)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {**super().get_config(), 'top_k_percent': self._top_k_percent}
