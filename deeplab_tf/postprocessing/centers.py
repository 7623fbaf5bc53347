"""Which centre of an instance each pixel belongs to (Panoptic-DeepLab, section 3.2)."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension, dimensions

# Centres that one step of the loop looks at: more are faster on accelerators and take no memory.
_AT_A_TIME = 4


class Centers(NamedTuple):
  """The centres of one image, from top to bottom and from left to right.

  Attributes:
    positions: float32 [centers, 2], (y, x) in pixels; infinite in unused rows, which come last.
    scores: float32 [centers], the heat map there; 0 in unused rows.
  """
  positions: tf.Tensor
  scores: tf.Tensor


def find_centers(heatmap: tf.Tensor, threshold: float, nms_kernel: int, keep: int) -> Centers:
  """Finds the peaks of a heat map: pixels above the threshold and not below any near them.

  Of more than `keep` peaks the highest stay, of equal ones the first. DeepLab2 keeps there those
  that are higher than some element of an unsorted top-k, and so perhaps none.

  Args:
    heatmap: float32 [height, width].
    threshold: At least 0; lower peaks do not count.
    nms_kernel: Side of the square around a pixel in which it must be the highest.
    keep: Rows of the result.
  """
  _, width = dimensions(heatmap)
  high = tf.where(heatmap > threshold, heatmap, 0.0)
  # A row, then a column: the same maximum as that of the square, in far less time.
  pooled = tf.nn.max_pool2d(high[None, ..., None], (1, nms_kernel), 1, 'SAME')
  pooled = tf.nn.max_pool2d(pooled, (nms_kernel, 1), 1, 'SAME')[0, ..., 0]
  peaks = tf.reshape(tf.where(tf.equal(high, pooled), high, 0.0), [-1])
  pixels = dimensions(peaks)[0]
  # Zeros behind the image: there are always enough to choose from.
  peaks = tf.concat([peaks, tf.zeros([keep])], axis=0)
  values, index = tf.math.top_k(peaks, keep)
  index = tf.sort(tf.where(values > 0, index, pixels))
  used = index < pixels
  places = tf.stack([index // width, index % width], axis=-1)
  positions = tf.where(used[:, None], tf.cast(places, tf.float32), float('inf'))
  return Centers(positions, tf.gather(peaks, index))


def nearest_center(centers: Centers, offsets: tf.Tensor) -> tf.Tensor:
  """Returns the centre nearest to where each pixel's offset leads; of equal ones the first.

  It goes through the used centres with a running minimum, so it never holds a distance for each
  pair of a pixel and a centre.

  Args:
    centers: Of the image.
    offsets: float32 [height, width, 2], (y, x) from each pixel, in pixels.

  Returns:
    int32 [height, width], rows of the centres; 0 where there is none.
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
      # The root takes part: by its rounding, distances are equal that squares tell apart.
      distance = tf.sqrt(tf.square(some[i, 0] - y) + tf.square(some[i, 1] - x))
      # A distance that is infinite or not a number is never less.
      is_nearer = distance < best
      best = tf.where(is_nearer, distance, best)
      nearest = tf.where(is_nearer, start + i, nearest)
    return start + _AT_A_TIME, best, nearest

  size: Sequence[Dimension] = (height, width)
  start = (tf.constant(0), tf.fill(size, float('inf')), tf.zeros(size, tf.int32))
  return tf.while_loop(lambda i, *_: i < count, step, start, parallel_iterations=1)[2]
