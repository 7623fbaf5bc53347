"""Comparison of predicted and ground-truth masks: costs of all pairs, losses of matched ones."""

from typing import NamedTuple, Optional

import tensorflow as tf


class Focal(NamedTuple):
  """Options of the sigmoid focal loss (Lin et al., "Focal loss for dense object detection", 2017).

  With the probability p, it is -alpha (1 - p)^gamma log(p) inside the mask (equation 5), and
  -(1 - alpha) p^gamma log(1 - p) outside. At points where the ground truth is a value t between 0
  and 1, it is the mean of both, weighted by t and 1 - t.

  Attributes:
    alpha: Weight of the pixels inside the mask, in [0, 1].
    gamma: Exponent of the modulating factor, at least 0.
  """
  alpha: float = 0.25
  gamma: float = 2.0


class Comparison(NamedTuple):
  """Costs of pairs of a query and a mask, without gradient; lower is better.

  Attributes:
    classes: float32 [batch, queries, masks], negated probability of the mask's class.
    masks: float32 [batch, queries, masks], binary cross-entropy or focal loss, averaged over the
      points.
    dice: float32 [batch, queries, masks], 1 - dice coefficient.
  """
  classes: tf.Tensor
  masks: tf.Tensor
  dice: tf.Tensor


def compare(class_logits: tf.Tensor, mask_classes: tf.Tensor, logits: tf.Tensor,
            labels: tf.Tensor, focal: Optional[Focal] = None) -> Comparison:
  """Compares all queries with all masks.

  Args:
    class_logits: float32 [batch, queries, classes + 1]; the last is "no object".
    mask_classes: int32 [batch, masks], class indices, -1 in unused rows.
    logits: float32 [batch, points, queries], mask logits at points.
    labels: float32 [batch, masks, points] in [0, 1], values of the masks at the same points.
    focal: Options of the focal loss; None for the binary cross-entropy.
  """

  def product(values, masks):
    return tf.matmul(values, masks, transpose_a=True, transpose_b=True)

  inside, outside = _pixel_losses(logits, focal)
  pixel_loss = product(inside, labels) + product(outside, 1.0 - labels)
  probabilities = tf.sigmoid(logits)
  predicted, actual = tf.reduce_sum(probabilities, axis=1), tf.reduce_sum(labels, axis=2)
  area = predicted[:, :, tf.newaxis] + actual[:, tf.newaxis]
  dice = 1.0 - (2.0 * product(probabilities, labels) + 1.0) / (area + 1.0)
  of_classes = tf.gather(tf.nn.softmax(class_logits), tf.maximum(mask_classes, 0), axis=2,
                         batch_dims=1)
  points = tf.cast(tf.shape(logits)[1], tf.float32)
  return Comparison(*map(tf.stop_gradient, (-of_classes, pixel_loss / points, dice)))


def pair_losses(logits: tf.Tensor, labels: tf.Tensor,
                focal: Optional[Focal] = None) -> tuple[tf.Tensor, tf.Tensor]:
  """Compares each predicted mask with one ground-truth mask.

  Args:
    logits: float32 [..., points], mask logits at points.
    labels: float32 [..., points] in [0, 1], values of the masks at the same points.
    focal: Options of the focal loss; None for the binary cross-entropy.

  Returns:
    Both float32 [...]: the pixel loss, averaged over the points, and the dice loss.
  """
  if focal is None:
    pixel_losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
  else:
    inside, outside = _pixel_losses(logits, focal)
    pixel_losses = labels * inside + (1.0 - labels) * outside
  probabilities = tf.sigmoid(logits)
  area = tf.reduce_sum(probabilities + labels, axis=-1)
  dice = 1.0 - (2.0 * tf.reduce_sum(probabilities * labels, axis=-1) + 1.0) / (area + 1.0)
  return tf.reduce_mean(pixel_losses, axis=-1), dice


def _pixel_losses(logits: tf.Tensor, focal: Optional[Focal]) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the loss of each pixel if it is inside the mask, and if it is outside."""
  # log(p) and log(1 - p), negated; both are finite, and so are their gradients, for all logits.
  inside, outside = tf.nn.softplus(-logits), tf.nn.softplus(logits)
  if focal is None:
    return inside, outside
  # A power of a probability that is rounded to 0 would have no finite gradient.
  return (focal.alpha * tf.exp(-focal.gamma * outside) * inside,
          (1.0 - focal.alpha) * tf.exp(-focal.gamma * inside) * outside)


def statistics(layer: dict[str, tf.Tensor], compared: Comparison) -> dict[str, tf.Tensor]:
  """Returns means over the matched pairs of one prediction, and the pairs per image.

  Args:
    layer: The pairs: `pair_query` and `pair_mask`, int32 [batch, pairs], and `is_pair`, bool
      [batch, pairs].
    compared: The costs of the prediction.
  """
  is_pair = tf.cast(layer['is_pair'], tf.float32)
  pairs = tf.reduce_sum(is_pair)

  def mean(values):
    of_query = tf.gather(values, layer['pair_query'], batch_dims=1)
    of_pair = tf.gather(of_query, layer['pair_mask'], batch_dims=2)
    return tf.math.divide_no_nan(tf.reduce_sum(is_pair * of_pair), pairs)

  return {'matched_class_confidence': mean(-compared.classes),
          'matched_mask_dice': mean(1.0 - compared.dice),
          'matched_masks': pairs / tf.cast(tf.shape(is_pair)[0], tf.float32)}
