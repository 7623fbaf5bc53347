"""From a label map to what a model is trained on, equal to DeepLab2's targets.

Functions take one label map, int32 [height, width], and return the containers of structures.py
without the batch dimension, with static shapes.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.data import catalog, errors


class SmallInstances(NamedTuple):
  """Instances of fewer pixels than `threshold` get `weight` in the semantic loss."""
  threshold: int = 0
  weight: float = 1.0


_NO_WEIGHTS = SmallInstances()


class _Segments(NamedTuple):
  """The distinct values of a label map in order of first appearance, row by row.

  Attributes:
    position: int32 [pixels], which of the values a pixel has.
    pixels: int32 [values].
    class_id: int32 [values].
    is_instance: bool [values], a thing and no crowd.
    is_labeled: bool [values], neither void nor crowd.
  """
  position: tf.Tensor
  pixels: tf.Tensor
  class_id: tf.Tensor
  is_instance: tf.Tensor
  is_labeled: tf.Tensor


def mask_targets(label: tf.Tensor, info: catalog.DatasetInfo, max_things: int,
                 small: SmallInstances = _NO_WEIGHTS,
                 name: tf.Tensor = None) -> structures.MaskTargets:
  """Makes the targets of mask models.

  Rows 0..max_things-1 of the masks are thing instances in order of first appearance, unused ones
  with class -1; then one row per stuff class in ascending class id, whether or not it occurs.

  Args:
    label: int32 [height, width], panoptic map.
    info: Its data set.
    max_things: Rows for things. More instances in the image are an error.
    small: Weights of small instances.
    name: string [], the image's, for the error.
  """
  segments = _segments(label, info)
  count = tf.reduce_sum(tf.cast(segments.is_instance, tf.int32))
  fits = errors.check(count <= max_things, lambda: [
      name if name is not None else 'an image', ': ', count,
      f' thing instances in one image, more than max_thing_id {max_things}; raise max_thing_id'])
  with tf.control_dependencies([fits]):
    order = tf.cumsum(tf.cast(segments.is_instance, tf.int32), exclusive=True)
  index, stuff_row = _class_tables(info, max_things)
  rows = tf.where(segments.is_instance, order, tf.gather(stuff_row, segments.class_id))
  rows = tf.where(segments.is_labeled, rows, -1)
  thing_classes = tf.boolean_mask(tf.gather(index, segments.class_id), segments.is_instance)
  thing_classes = tf.pad(thing_classes, [[0, max_things - count]], constant_values=-1)
  stuff_classes = [info.class_index[c] for c in info.stuff_class_ids]
  classes = tf.concat([thing_classes, tf.constant(stuff_classes, tf.int32)], 0)
  isthing = np.arange(max_things + len(stuff_classes)) < max_things
  return structures.MaskTargets(
      semantic_map=label // info.label_divisor,
      semantic_weights=_per_pixel(_semantic_weights(segments, small), segments, label),
      mask_ids=_per_pixel(rows, segments, label),
      mask_classes=tf.ensure_shape(classes, [len(isthing)]),
      mask_isthing=tf.constant(isthing))


def center_targets(label: tf.Tensor, info: catalog.DatasetInfo, sigma: float,
                   small: SmallInstances = _NO_WEIGHTS) -> structures.CenterTargets:
  """Makes the targets of centre models.

  Args:
    label: int32 [height, width], panoptic map.
    info: Its data set.
    sigma: Standard deviation of the Gaussians in pixels.
    small: Weights of small instances.
  """
  segments = _segments(label, info)
  height, width = tf.unstack(tf.shape(label))
  centers = _centers(segments, width)
  heatmap = _heatmap(tf.boolean_mask(centers, segments.is_instance), height, width, sigma)
  heatmap = tf.reshape(heatmap, tf.shape(label))[..., None]
  y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing='ij')
  is_instance = _per_pixel(tf.cast(segments.is_instance, tf.float32), segments, label)
  offsets = tf.cast(_per_pixel(centers, segments, label) - tf.stack([y, x], -1), tf.float32)
  return structures.CenterTargets(
      semantic_map=label // info.label_divisor,
      semantic_weights=_per_pixel(_semantic_weights(segments, small), segments, label),
      center_heatmap=tf.ensure_shape(heatmap, [*label.shape, 1]),
      center_weights=_per_pixel(tf.cast(segments.is_labeled, tf.float32), segments, label),
      center_offsets=offsets * is_instance[..., None],
      offset_weights=is_instance)


def is_crowd(label: tf.Tensor, info: catalog.DatasetInfo) -> tf.Tensor:
  """Returns bool, the shape of the label: pixels of a thing class with instance number 0."""
  things = tf.gather(_class_table(info, info.thing_class_ids), label // info.label_divisor)
  return things & (label % info.label_divisor == 0)


def crowd_to_void(label: tf.Tensor, info: catalog.DatasetInfo) -> tf.Tensor:
  """Returns the label map with crowd regions unlabelled."""
  return tf.where(is_crowd(label, info), info.void_label, label)


# --- Parts ------------------------------------------------------------------------------------


def _class_table(info, class_ids):
  """bool [largest class id + 1], true for the given class ids."""
  table = np.zeros(max(max(info.class_ids), info.ignore_label) + 1, bool)
  table[list(class_ids)] = True
  return tf.constant(table)


def _class_tables(info, max_things):
  """By class id: the class index (-1: none) and the row of a stuff class (-1: no stuff)."""
  size = max(max(info.class_ids), info.ignore_label) + 1
  index, row = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
  for class_id, position in info.class_index.items():
    index[class_id] = position
  for position, class_id in enumerate(info.stuff_class_ids):
    row[class_id] = max_things + position
  return tf.constant(index), tf.constant(row)


def _segments(label, info):
  values, position, pixels = tf.unique_with_counts(tf.reshape(label, [-1]))
  class_id = values // info.label_divisor
  is_thing = tf.gather(_class_table(info, info.thing_class_ids), class_id)
  is_stuff = tf.gather(_class_table(info, info.stuff_class_ids), class_id)
  is_instance = is_thing & (values % info.label_divisor > 0)
  return _Segments(position, pixels, class_id, is_instance, is_instance | is_stuff)


def _per_pixel(values, segments, label):
  """Spreads values [values, ...] over the pixels: [height, width, ...]."""
  spread = tf.gather(values, segments.position)
  spread = tf.reshape(spread, tf.concat([tf.shape(label), tf.shape(values)[1:]], 0))
  return tf.ensure_shape(spread, [*label.shape, *values.shape[1:]])


def _semantic_weights(segments, small):
  is_small = segments.is_instance & (segments.pixels < small.threshold)
  return tf.where(is_small, tf.constant(small.weight, tf.float32), 1.0)


def _centers(segments, width):
  """int32 [values, 2]: mean (y, x) of each segment, rounded half to even."""
  pixel = tf.range(tf.size(segments.position))
  coordinates = tf.cast(tf.stack([pixel // width, pixel % width], -1), tf.int64)
  sums = tf.math.unsorted_segment_sum(coordinates, segments.position, tf.size(segments.pixels))
  means = tf.cast(sums, tf.float64) / tf.cast(segments.pixels, tf.float64)[:, None]
  return tf.ensure_shape(tf.cast(tf.round(means), tf.int32), [None, 2])


def _heatmap(centers, height, width, sigma):
  """float32 [height * width]: the largest of the Gaussians around int32 [n, 2] centres.

  As DeepLab2's, a Gaussian is cut to a square window of int(6 sigma + 3) pixels whose first row
  is `round(3 sigma + 1)` above the centre, with the peak 3 sigma + 1 below that row: for a sigma
  like 2.5 the peak lies between two pixels.
  """
  window, peak = int(6 * sigma + 3), 3 * sigma + 1
  distance = (np.arange(window) - peak)**2
  values = np.exp(-(distance[:, None] + distance[None]) / (2 * sigma**2)).astype(np.float32)
  steps = tf.range(window) - int(np.round(peak))
  rows, columns = centers[:, 0, None] + steps, centers[:, 1, None] + steps
  inside = ((rows >= 0) & (rows < height))[:, :, None] & (
      (columns >= 0) & (columns < width))[:, None]
  index = rows[:, :, None] * width + columns[:, None]
  # Out of the frame: a cell past the end, cut off below.
  index = tf.where(inside, index, height * width)
  updates = tf.broadcast_to(tf.constant(values), tf.shape(index))
  flat = tf.zeros([height * width + 1], tf.float32)
  flat = tf.tensor_scatter_nd_max(flat, tf.reshape(index, [-1, 1]), tf.reshape(updates, [-1]))
  return flat[:-1]
