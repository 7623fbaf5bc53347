"""Instance discrimination: pixel features are similar within a mask and differ between masks.

In MaX-DeepLab, section 3.4, each pixel is classified by its similarity to the mean features of the
masks (equations 16 and 17). In the form that DeepLab2 added, sampled pixels are contrasted with
each other.
"""

import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses import pixel_loss
from deeplab_tf.matching import cost

# DeepLab2's temperature; the paper does not state one.
_TEMPERATURE = 0.3
# A logit below all others.
_NEVER = -99999.


class InstanceDiscriminationLoss(pixel_loss.PixelLoss):
  """Cross-entropy of each pixel's mask and its similarity to the mean features of all masks.

  These are equations 16 and 17. The paper applies them to pixels of thing instances only: pass a
  sample_weight of 0 for all others.
  """

  def __init__(self, masks: int, top_k_percent: float = 1.0, temperature: float = _TEMPERATURE,
               reduction: str = 'auto', name: str = 'instance_discrimination_loss'):
    """Initializes the loss.

    Args:
      masks: Number of masks, including unused rows of the labels.
      top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
      temperature: Divisor of the similarities (tau of equation 17).
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(top_k_percent, reduction, name)
    self._masks = masks
    self._temperature = temperature

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, h, w], 0 on pixels without a mask.

    Args:
      y_true: int [batch, height, width], the mask of each pixel; -1 for none.
      y_pred: float [batch, h, w, channels], normalized pixel features.
    """
    mask_ids = pixel_loss.subsample(tf.convert_to_tensor(y_true), *y_pred.shape[1:3])
    return self.losses(mask_ids, self.logits(mask_ids, y_pred))

  def logits(self, mask_ids: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Compares pixels with the normalized mean features of the masks.

    Args:
      mask_ids: int [batch, h, w], the mask of each pixel; -1 for none.
      features: float [batch, h, w, channels], normalized pixel features.

    Returns:
      float32 [batch, h, w, masks]; logits of masks without pixels are far below all others.
    """
    height, width, channels = features.shape[1:]
    pixels = tf.reshape(tf.cast(features, tf.float32), [-1, height * width, channels])
    members = tf.one_hot(tf.reshape(mask_ids, [-1, height * width]), self._masks)
    area = tf.reduce_sum(members, axis=1)
    sums = tf.matmul(members, pixels, transpose_a=True)
    means = tf.math.l2_normalize(sums / tf.maximum(area, 1.)[:, :, tf.newaxis], axis=2)
    logits = tf.matmul(pixels, means / self._temperature, transpose_b=True)
    logits = tf.where(area[:, tf.newaxis] > 0.5, logits, _NEVER)
    return tf.reshape(logits, [-1, height, width, self._masks])

  def losses(self, mask_ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropies of mask ids and results of `logits`, float32 [batch, h, w]."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(mask_ids, 0), logits)
    return tf.where(mask_ids >= 0, losses, 0.)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {**super().get_config(), 'masks': self._masks, 'temperature': self._temperature}


class PixelContrastiveLoss(pixel_loss.PixelLoss):
  """Contrastive loss of sampled pixels, whose positives are the sampled pixels of the same mask.

  Pixels without a mask are sampled only if there are too few others. DeepLab2 samples crowd pixels,
  which have no loss, before all others; here they count as unlabeled.
  """

  def __init__(self, masks: int, sample_k: int, sample_temperature: float = 0.6,
               top_k_percent: float = 1.0, temperature: float = _TEMPERATURE,
               reduction: str = 'auto', name: str = 'instance_discrimination_loss'):
    """Initializes the loss.

    Args:
      masks: Number of masks, including unused rows of the labels.
      sample_k: Number of pixels that are sampled in each image, without replacement.
      sample_temperature: Exponent that favors pixels of small masks; 0 favors none.
      top_k_percent: Share of the sampled pixels of highest loss that count, in (0, 1].
      temperature: Divisor of the similarities.
      reduction: 'none' for one loss per image, 'sum', or otherwise the mean over the batch.
      name: Name of the loss.
    """
    super().__init__(top_k_percent, reduction, name)
    self._masks = masks
    self._sample_k = sample_k
    self._sample_temperature = sample_temperature
    self._temperature = temperature

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, sample_k], 0 for pixels without a mask.

    Args:
      y_true: int [batch, height, width], the mask of each pixel; -1 for none.
      y_pred: float [batch, h, w, channels], normalized pixel features.
    """
    mask_ids = pixel_loss.subsample(tf.convert_to_tensor(y_true), *y_pred.shape[1:3])
    return self.losses(*self.logits(mask_ids, y_pred))

  def logits(self, mask_ids: tf.Tensor, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples pixels and compares them with each other.

    Args:
      mask_ids: int [batch, h, w], the mask of each pixel; -1 for none.
      features: float [batch, h, w, channels], normalized pixel features.

    Returns:
      int [batch, sample_k], the masks of the sampled pixels, and float32 [batch, sample_k,
      sample_k], their similarities, including that of each pixel to itself.
    """
    height, width, channels = features.shape[1:]
    pixels = tf.reshape(tf.cast(features, tf.float32), [-1, height * width, channels])
    mask_ids = tf.reshape(mask_ids, [-1, height * width])
    drawn = self._draw(mask_ids)
    pixels = tf.gather(pixels, drawn, batch_dims=1)
    similarities = tf.matmul(pixels, pixels, transpose_b=True) / self._temperature
    return tf.gather(mask_ids, drawn, batch_dims=1), similarities

  def losses(self, mask_ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropies of the results of `logits`, float32 [batch, sample_k]."""
    targets = tf.cast(same_mask(mask_ids), tf.float32)
    targets /= tf.maximum(tf.reduce_sum(targets, axis=2, keepdims=True), 1.)
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

  def _draw(self, mask_ids: tf.Tensor) -> tf.Tensor:
    """Samples pixels of each image by the Gumbel top-k trick: int32 [batch, sample_k]."""
    pixels = mask_ids.shape[1]
    area = tf.gather(cost.mask_areas(mask_ids, self._masks), tf.maximum(mask_ids, 0), batch_dims=1)
    log_weights = tf.math.log(pixels / tf.maximum(area, 1.)) * self._sample_temperature
    log_weights = tf.where(mask_ids >= 0, log_weights, _NEVER)
    uniform = tf.maximum(randomness.uniform(dimensions(mask_ids)), 1e-20)
    noise = -tf.math.log(-tf.math.log(uniform))
    return tf.math.top_k(log_weights + noise, min(self._sample_k, pixels)).indices

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {**super().get_config(), 'masks': self._masks, 'sample_k': self._sample_k,
            'sample_temperature': self._sample_temperature, 'temperature': self._temperature}


def same_mask(mask_ids: tf.Tensor) -> tf.Tensor:
  """Returns which pixels share a mask, bool [batch, pixels, pixels].

  Args:
    mask_ids: int [batch, pixels], the mask of each pixel; -1 for none.
  """
  equal = tf.equal(mask_ids[:, tf.newaxis], mask_ids[:, :, tf.newaxis])
  return equal & (mask_ids >= 0)[:, tf.newaxis]
