"""Similarities of all queries to all ground-truth masks of an image, as matrix products."""

import tensorflow as tf


def mask_overlap(probabilities: tf.Tensor, mask_ids: tf.Tensor, masks: int) -> tf.Tensor:
  """Sums the mask probability of each query over the pixels of each ground-truth mask.

  Args:
    probabilities: float32 [batch, pixels, queries] in [0, 1].
    mask_ids: int32 [batch, pixels], the mask of each pixel; -1 for none.
    masks: Number of masks.

  Returns:
    float32 [batch, queries, masks], in pixels.
  """
  return tf.matmul(probabilities, tf.one_hot(mask_ids, masks), transpose_a=True)


def mask_areas(mask_ids: tf.Tensor, masks: int) -> tf.Tensor:
  """Counts the pixels of each mask.

  Args:
    mask_ids: int32 [batch, pixels], the mask of each pixel; -1 for none.
    masks: Number of masks.

  Returns:
    float32 [batch, masks].
  """
  return tf.reduce_sum(tf.one_hot(mask_ids, masks), axis=1)


def dice(overlap: tf.Tensor, predicted_area: tf.Tensor, area: tf.Tensor) -> tf.Tensor:
  """Computes the Dice coefficient of soft and ground-truth masks (MaX-DeepLab, equation 6).

  Args:
    overlap: float32 [batch, queries, masks], in pixels.
    predicted_area: float32 [batch, queries], in pixels.
    area: float32 [batch, masks], in pixels.

  Returns:
    float32 [batch, queries, masks] in [0, 1].
  """
  mean_area = (predicted_area[:, :, tf.newaxis] + area[:, tf.newaxis]) / 2.
  return overlap / (mean_area + 1e-5)


def class_similarity(class_probabilities: tf.Tensor, mask_classes: tf.Tensor) -> tf.Tensor:
  """Returns the probability that each query predicts for the class of each ground-truth mask.

  Args:
    class_probabilities: float32 [batch, queries, classes] in [0, 1].
    mask_classes: int32 [batch, masks], class indices; -1 (no mask) gives 0.

  Returns:
    float32 [batch, queries, masks] in [0, 1].
  """
  classes = class_probabilities.shape[2]
  return tf.matmul(class_probabilities, tf.one_hot(mask_classes, classes), transpose_b=True)
