"""Values of maps at points, and the choice of points by uncertainty (PointRend, section 3.1).

Points are (x, y), from (0, 0) at the upper left corner of a map to (1, 1) at the lower right one.
The same points therefore serve maps of different sizes.
"""

import tensorflow as tf

from deeplab_tf.layers.shapes import dimensions


def sample(maps: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
  """Samples maps at points, bilinearly.

  This equals PyTorch's `grid_sample(align_corners=False)` with zero padding: pixel centers are half
  a pixel away from the border of the map, and the map is 0 outside of it.

  Args:
    maps: float32 [batch, height, width, channels].
    points: float32 [batch, points, 2].

  Returns:
    float32 [batch, points, channels], with gradients for maps and points.
  """
  batch, height, width, channels = dimensions(maps)
  position = points * tf.cast([width, height], tf.float32) - 0.5
  before = tf.stop_gradient(tf.floor(position))
  share_x, share_y = tf.unstack(position - before, axis=-1)
  column, row = tf.unstack(tf.cast(before, tf.int32), axis=-1)
  flat = tf.reshape(maps, [batch, height * width, channels])
  values = 0.0
  for y, weight_y in ((row, 1 - share_y), (row + 1, share_y)):
    for x, weight_x in ((column, 1 - share_x), (column + 1, share_x)):
      is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
      weight = tf.where(is_inside, weight_x * weight_y, 0.0)
      pixel = tf.clip_by_value(y, 0, height - 1) * width + tf.clip_by_value(x, 0, width - 1)
      values += weight[..., tf.newaxis] * tf.gather(flat, pixel, batch_dims=1)
  return values


def sample_each(maps: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
  """Samples each map at points of its own.

  Args:
    maps: float32 [..., height, width].
    points: float32 [..., points, 2].

  Returns:
    float32 [..., points]; see `sample`.
  """
  outer = dimensions(maps)[:-2]
  flat_maps = tf.reshape(maps, [-1, *dimensions(maps)[-2:], 1])
  flat_points = tf.reshape(points, [-1, *dimensions(points)[-2:]])
  return tf.reshape(sample(flat_maps, flat_points), [*outer, dimensions(points)[-2]])


def uncertain_points(maps: tf.Tensor, drawn: tf.Tensor, others: tf.Tensor,
                     num_points: int) -> tf.Tensor:
  """Selects the points where a mask is the most uncertain, that is, where its logit is near 0.

  Args:
    maps: float32 [masks, height, width], mask logits.
    drawn: float32 [masks, drawn, 2], the points to select from, more than are selected.
    others: float32 [masks, others, 2], points that are taken whatever the logits are.
    num_points: Number of points of the result, at least that of the others.

  Returns:
    float32 [masks, num_points, 2], without gradient: the selected points, then the others.
  """
  selected = num_points - others.shape[1]
  if not selected:
    return tf.stop_gradient(others)
  logits = tf.stop_gradient(sample_each(maps, drawn))
  _, index = tf.math.top_k(-tf.abs(logits), selected)
  nearest = tf.gather(drawn, index, batch_dims=1)
  return tf.stop_gradient(tf.concat([nearest, others], axis=1))
