"""Finds centers of instances and assigns pixels to them (Panoptic-DeepLab, section 3.2)."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension, dimensions

# Centers per step of the loop: more are faster on accelerators and take no memory.
_AT_A_TIME = 4


class Centers(NamedTuple):
  """Centers of one image, ordered from top to bottom and from left to right.

  Attributes:
    positions: float32 [centers, 2], (y, x) in pixels; infinite in unused rows, which come last.
    scores: float32 [centers], values of the heatmap; 0 in unused rows.
  """
  positions: tf.Tensor
  scores: tf.Tensor


def find_centers(heatmap: tf.Tensor, threshold: float, nms_kernel: int, keep: int) -> Centers:
  """Finds the peaks of a heatmap: pixels above the threshold and not below any pixel near them.

  If there are more than `keep` peaks, the highest are kept, and the first of equal ones. DeepLab2
  then keeps those that are higher than some element of an unsorted top-k, which may be none.

  Args:
    heatmap: float32 [height, width].
    threshold: Threshold of the peaks, at least 0.
    nms_kernel: Side of the square around a pixel in which it must be the highest.
    keep: Maximum number of centers, which is the number of rows of the result.
  """
  _, width = dimensions(heatmap)
  high = tf.where(heatmap > threshold, heatmap, 0.0)
  # Pooling rows, then columns, gives the maximum over the square in far less time.
  pooled = tf.nn.max_pool2d(high[None, ..., None], (1, nms_kernel), 1, 'SAME')
  pooled = tf.nn.max_pool2d(pooled, (nms_kernel, 1), 1, 'SAME')[0, ..., 0]
  peaks = tf.reshape(tf.where(tf.equal(high, pooled), high, 0.0), [-1])
  pixels = dimensions(peaks)[0]
  # Zeros are appended, so that top_k has at least `keep` values.
  peaks = tf.concat([peaks, tf.zeros([keep])], axis=0)
  values, index = tf.math.top_k(peaks, keep)
  index = tf.sort(tf.where(values > 0, index, pixels))
  used = index < pixels
  places = tf.stack([index // width, index % width], axis=-1)
  positions = tf.where(used[:, None], tf.cast(places, tf.float32), float('inf'))
  return Centers(positions, tf.gather(peaks, index))


def nearest_center(centers: Centers, offsets: tf.Tensor) -> tf.Tensor:
  """Returns the center nearest to the point that each pixel's offset leads to.

  The first of equally near centers is returned. A loop over the used centers keeps a running
  minimum, so that the distances of all pairs of a pixel and a center are never in memory.

  Args:
    centers: Centers of the image.
    offsets: float32 [height, width, 2], (y, x) from each pixel, in pixels.

  Returns:
    int32 [height, width], rows of `centers`; 0 if there are no centers.
  """
  height, width, _ = dimensions(offsets)
  y = offsets[..., 0] + tf.range(height, dtype=tf.float32)[:, None]
  x = offsets[..., 1] + tf.range(width, dtype=tf.float32)
  padding = tf.fill([_AT_A_TIME, 2], float('inf'))
  positions = tf.concat([centers.positions, padding], axis=0)
  count = tf.math.count_nonzero(centers.scores > 0, dtype=tf.int32)

  def step(start, best, nearest):
    some = tf.slice(positions, [start, 0], [_AT_A_TIME, 2])
    for i in range(_AT_A_TIME):
      # The root is needed: its rounding makes distances equal whose squares differ.
      distance = tf.sqrt(tf.square(some[i, 0] - y) + tf.square(some[i, 1] - x))
      # An infinite or NaN distance is never smaller.
      is_nearer = distance < best
      best = tf.where(is_nearer, distance, best)
      nearest = tf.where(is_nearer, start + i, nearest)
    return start + _AT_A_TIME, best, nearest

  size: Sequence[Dimension] = (height, width)
  start = (tf.constant(0), tf.fill(size, float('inf')), tf.zeros(size, tf.int32))
  return tf.while_loop(lambda i, *_: i < count, step, start, parallel_iterations=1)[2]
