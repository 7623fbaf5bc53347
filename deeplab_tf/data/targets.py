"""Makes training targets from a label map; they equal DeepLab2's targets.

Functions take one label map, int32 [height, width], and return the containers of structures.py
with static shapes and without a batch dimension.
"""

from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import errors
from deeplab_tf.data import segments as segments_lib


class SmallInstances(NamedTuple):
  """Instances with fewer pixels than `threshold` have `weight` in the semantic loss."""
  threshold: int = 0
  weight: float = 1.0


_NO_WEIGHTS = SmallInstances()
# Center of segments that have none, far from every pixel.
_NOWHERE = -1e9


def mask_targets(label: tf.Tensor, info: DatasetInfo, max_things: int,
                 small: SmallInstances = _NO_WEIGHTS, name: tf.Tensor = None,
                 whole: Optional[tf.Tensor] = None) -> structures.MaskTargets:
  """Makes the targets of mask models.

  Rows 0..max_things-1 of the masks are thing instances in order of first appearance; unused rows
  have class -1. They are followed by one row per stuff class in ascending order of class ids,
  whether or not the class occurs.

  With `whole`, the rows are those of the uncropped image, and stuff rows that do not occur in it
  have class -1. A segment outside of the crop is then a mask without pixels, as in Mask2Former's
  training, where it is matched and counted like any other.

  Args:
    label: int32 [height, width], panoptic map.
    info: The data set.
    max_things: Number of rows for things. More instances in an image are an error.
    small: Weights of small instances.
    name: string [], name of the image, for the error.
    whole: int32 [whole height, whole width], panoptic map of the image that `label` was cropped
      from, with all of its segments; None to leave out segments without pixels.
  """
  segments = segments_lib.find(label, info)
  named = segments if whole is None else segments_lib.find(whole, info)
  count = tf.reduce_sum(tf.cast(named.is_instance, tf.int32))
  fits = errors.check(count <= max_things, lambda: [
      name if name is not None else 'an image', ': ', count,
      f' thing instances in one image, more than max_thing_id {max_things}; raise max_thing_id'])
  # All that follows reads these, so that no other op can fail before the check.
  with tf.control_dependencies([fits]):
    is_instance, count = tf.identity(named.is_instance), tf.identity(count)
  order = tf.cumsum(tf.cast(is_instance, tf.int32), exclusive=True)
  index, stuff_row = _class_tables(info, max_things)
  rows = tf.where(is_instance, order, tf.gather(stuff_row, named.class_id))
  rows = tf.where(named.is_labeled, rows, -1)
  thing_classes = tf.boolean_mask(tf.gather(index, named.class_id), is_instance)
  thing_classes = tf.pad(thing_classes, [[0, max_things - count]], constant_values=-1)
  stuff_classes = tf.constant([info.class_index[c] for c in info.stuff_class_ids], tf.int32)
  classes = tf.concat([thing_classes, stuff_classes], 0)
  isthing = np.arange(max_things + len(info.stuff_class_ids)) < max_things
  if whole is not None:
    occurs = tf.reduce_any(tf.equal(rows[:, None], tf.range(len(isthing))), 0)
    classes = tf.where(occurs, classes, -1)
    # Padding is not in the uncropped image, and has no row.
    is_same = tf.equal(segments.label[:, None], named.label)
    rows = tf.reduce_max(tf.where(is_same, rows, -1), 1)
  return structures.MaskTargets(
      semantic_map=segments_lib.class_map(label, info),
      semantic_weights=_semantic_weights(segments, small),
      mask_ids=segments_lib.spread(rows, segments),
      mask_classes=tf.ensure_shape(classes, [len(isthing)]),
      mask_isthing=tf.constant(isthing))


def overlapping_mask_targets(label: structures.InstanceLabel, info: DatasetInfo, max_masks: int,
                             name: tf.Tensor = None) -> structures.OverlappingMaskTargets:
  """Makes the targets of mask models from masks that may overlap.

  Crowds are left out, as in Mask2Former's training. An instance outside of the crop has a row
  without pixels, which is not a mask.

  Args:
    label: Label whose map has a static size.
    info: The data set.
    max_masks: Number of rows, rounded up to a multiple of 8. More instances in an image are an
      error.
    name: string [], name of the image, for the error.
  """
  channels = -(-max_masks // 8)
  count = tf.size(label.class_ids)
  fits = errors.check(count <= 8 * channels, lambda: [
      name if name is not None else 'an image', ': ', count,
      f' instances in one image, more than max_thing_id {max_masks}; raise max_thing_id'])
  with tf.control_dependencies([fits]):
    class_ids = tf.identity(label.class_ids)
  index, _ = _class_tables(info, 0)
  is_used = (class_ids >= 0) & ~label.is_crowd
  classes = tf.where(is_used, tf.gather(index, tf.maximum(class_ids, 0)), -1)
  classes = tf.pad(classes, [[0, 8 * channels - tf.size(class_ids)]], constant_values=-1)
  missing = channels - (tf.size(class_ids) + 7) // 8
  bits = tf.pad(label.mask_bits, [[0, 0], [0, 0], [0, missing]])
  return structures.OverlappingMaskTargets(
      mask_bits=tf.ensure_shape(bits, [*label.mask_bits.shape[:2], channels]),
      mask_classes=tf.ensure_shape(classes, [8 * channels]))


def center_targets(label: tf.Tensor, info: DatasetInfo, sigma: float,
                   small: SmallInstances = _NO_WEIGHTS) -> structures.CenterTargets:
  """Makes the targets of center models.

  Args:
    label: int32 [height, width], panoptic map.
    info: The data set.
    sigma: Standard deviation of the Gaussians in pixels.
    small: Weights of small instances.
  """
  segments = segments_lib.find(label, info)
  height, width = tf.unstack(tf.shape(label))
  centers = tf.boolean_mask(segments.centers, segments.is_instance)
  heatmap = tf.reshape(_heatmap(centers, height, width, sigma), tf.shape(label))[..., None]
  # 0 on void and crowd, 1 on stuff, 2 on instances, so that one look-up gives two weights.
  kinds = tf.cast(segments.is_labeled, tf.float32) + tf.cast(segments.is_instance, tf.float32)
  kinds = segments_lib.spread(kinds, segments)
  is_instance = tf.maximum(kinds - 1.0, 0.0)
  return structures.CenterTargets(
      semantic_map=segments_lib.class_map(label, info),
      semantic_weights=_semantic_weights(segments, small),
      center_heatmap=tf.ensure_shape(heatmap, [*label.shape, 1]),
      center_weights=tf.minimum(kinds, 1.0),
      center_offsets=_offsets(segments),
      offset_weights=is_instance)


def is_crowd(label: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
  """Returns bool of the label's shape, true on thing pixels with instance number 0."""
  table = segments_lib.class_table(info, info.thing_class_ids)
  things = tf.gather(table, segments_lib.class_map(label, info))
  return things & (label % info.label_divisor == 0)


# --- Parts ------------------------------------------------------------------------------------


def _class_tables(info, max_things):
  """Returns tables by class id: the class index, and the row of a stuff class; -1 for none."""
  size = info.table_size
  index, row = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
  for class_id, position in info.class_index.items():
    index[class_id] = position
  for position, class_id in enumerate(info.stuff_class_ids):
    row[class_id] = max_things + position
  return tf.constant(index), tf.constant(row)


def _semantic_weights(segments, small):
  if not small.threshold:
    return tf.ones_like(segments.place, tf.float32)
  is_small = segments.is_instance & (segments.pixels < small.threshold)
  weights = tf.where(is_small, tf.constant(small.weight, tf.float32), 1.0)
  return segments_lib.spread(weights, segments)


def _offsets(segments):
  """Returns float32 [height, width, 2], offsets from instance pixels to centers, else 0."""
  height, width = tf.unstack(tf.shape(segments.place))
  centers = tf.where(segments.is_instance[:, None], tf.cast(segments.centers, tf.float32), _NOWHERE)
  centers = segments_lib.spread(centers, segments)
  # Rows of y, x, y, x, ...: TensorFlow is slow on tensors whose last dimension is 2.
  rows = tf.reshape(centers, [height, 2 * width])
  is_y = tf.tile([1.0, 0.0], [width])
  x = tf.repeat(tf.range(width, dtype=tf.float32), 2) * (1.0 - is_y)
  rows -= tf.range(height, dtype=tf.float32)[:, None] * is_y + x
  rows *= tf.cast(rows > _NOWHERE / 2, tf.float32)
  return tf.reshape(rows, tf.shape(centers))


def _heatmap(centers, height, width, sigma):
  """Returns float32 [height * width], the maximum of the Gaussians around int32 [n, 2] centers.

  As in DeepLab2, a Gaussian is cut to a square window of int(6 sigma + 3) pixels. Its first row is
  `round(3 sigma + 1)` above the center and 3 sigma + 1 above the peak, so that the peak lies
  between two pixels for a sigma like 2.5.
  """
  window, peak = int(6 * sigma + 3), 3 * sigma + 1
  distance = (np.arange(window) - peak)**2
  values = np.exp(-(distance[:, None] + distance[None]) / (2 * sigma**2)).astype(np.float32)
  steps = tf.range(window) - int(np.round(peak))
  rows, columns = centers[:, 0, None] + steps, centers[:, 1, None] + steps
  inside = ((rows >= 0) & (rows < height))[:, :, None] & (
      (columns >= 0) & (columns < width))[:, None]
  index = rows[:, :, None] * width + columns[:, None]
  # Pixels outside of the image go to an extra entry that is cut off below.
  index = tf.where(inside, index, height * width)
  updates = tf.broadcast_to(tf.constant(values), tf.shape(index))
  flat = tf.zeros([height * width + 1], tf.float32)
  flat = tf.tensor_scatter_nd_max(flat, tf.reshape(index, [-1, 1]), tf.reshape(updates, [-1]))
  return flat[:-1]
