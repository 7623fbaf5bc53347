"""The mask approximation loss of reference masks (CMT-DeepLab, equation 13).

A reference mask is a few points. Their extreme coordinates and their mean should be those of the
pixels of the ground-truth mask.
"""

from typing import NamedTuple

import tensorflow as tf


class Extents(NamedTuple):
  """Extreme coordinates and centers of masks; all are 0 for masks without pixels.

  Coordinates are (y, x) in [0, 1], where 0 and 1 are the first and the last row or column.

  Attributes:
    least: float32 [batch, masks, 2].
    greatest: float32 [batch, masks, 2].
    mean: float32 [batch, masks, 2].
  """
  least: tf.Tensor
  greatest: tf.Tensor
  mean: tf.Tensor


def extents(mask_ids: tf.Tensor, masks: int) -> Extents:
  """Returns the extents of ground-truth masks.

  Args:
    mask_ids: int32 [batch, height, width], the mask of each pixel; -1 for none.
    masks: Number of masks.
  """
  members = tf.one_hot(mask_ids, masks)
  found = [_along_axis(tf.reduce_sum(members, axis=axis)) for axis in (2, 1)]
  return Extents(*(tf.stack(values, axis=2) for values in zip(*found)))


def _along_axis(counts):
  """Returns least, greatest and mean coordinate, each float32 [batch, masks].

  Args:
    counts: float32 [batch, length, masks], the number of pixels of a mask in each row.
  """
  length = counts.shape[1]
  places = tf.range(length, dtype=tf.float32)[:, tf.newaxis] / max(length - 1, 1)
  there = counts > 0.5
  area = tf.reduce_sum(counts, axis=1)
  # All coordinates are in [0, 1].
  least = tf.reduce_min(tf.where(there, places, 1.), axis=1)
  greatest = tf.reduce_max(tf.where(there, places, 0.), axis=1)
  mean = tf.math.divide_no_nan(tf.reduce_sum(counts * places, axis=1), area)
  return tf.where(area > 0.5, least, 0.), greatest, mean


def loss(points: tf.Tensor, matching: tf.Tensor, targets: Extents) -> tf.Tensor:
  """Computes equation 13 for each image.

  Args:
    points: float32 [batch, queries, points, 2], the reference masks, (y, x) in [0, 1].
    matching: int32 [batch, masks], the query of each mask; -1 for none.
    targets: Extents of the ground-truth masks.

  Returns:
    float32 [batch], the mean over the matched masks, the paper's K; 0 without any.
  """
  own = tf.gather(points, tf.maximum(matching, 0), batch_dims=1)
  extremes = (tf.abs(tf.reduce_min(own, axis=2) - targets.least)
              + tf.abs(tf.reduce_max(own, axis=2) - targets.greatest))
  centers = tf.abs(tf.reduce_mean(own, axis=2) - targets.mean)
  of_mask = tf.reduce_sum(extremes, axis=2) / 4. + tf.reduce_sum(centers, axis=2) / 2.
  is_matched = tf.cast(matching >= 0, tf.float32)
  return tf.math.divide_no_nan(tf.reduce_sum(of_mask * is_matched, axis=1),
                               tf.reduce_sum(is_matched, axis=1))
