"""The segments of a label map: their labels, sizes and centers, and per-segment values of pixels.

They are computed from runs of equal labels in a row instead of single pixels, since runs are few.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo

# Largest table that is indexed by the label itself.
_TABLE_ENTRIES = 2**21


class Segments(NamedTuple):
  """The distinct values of a label map in order of first appearance, row by row.

  Attributes:
    label: int32 [values], the panoptic labels.
    class_id: int32 [values].
    is_instance: bool [values], true for a thing that is not crowd.
    is_labeled: bool [values], true for all segments except void and crowd.
    pixels: int32 [values], number of pixels.
    centers: int32 [values, 2], mean (y, x), rounded half to even.
    place: int32 [height, width], the index of each pixel's segment in a look-up table.
    entries: int32 [values], the index of each segment in that table.
    table_size: int32 [], number of entries of that table.
  """
  label: tf.Tensor
  class_id: tf.Tensor
  is_instance: tf.Tensor
  is_labeled: tf.Tensor
  pixels: tf.Tensor
  centers: tf.Tensor
  place: tf.Tensor
  entries: tf.Tensor
  table_size: tf.Tensor


def find(label: tf.Tensor, info: DatasetInfo) -> Segments:
  """Finds the segments of a panoptic map, int32 [height, width]."""
  width = tf.shape(label)[1]
  starts = _run_starts(label)
  values, segment = tf.unique(tf.gather(tf.reshape(label, [-1]), starts))
  count = tf.size(values)
  length = tf.concat([starts[1:], [tf.size(label)]], 0) - starts
  row, column = starts // width, starts % width
  # Sums of coordinates over a megapixel need int64.
  columns = tf.cast(length, tf.int64) * tf.cast(2 * column + length - 1, tf.int64) // 2
  rows = tf.cast(length, tf.int64) * tf.cast(row, tf.int64)
  pixels = tf.math.unsorted_segment_sum(length, segment, count)
  sums = tf.math.unsorted_segment_sum(tf.stack([rows, columns], -1), segment, count)
  means = tf.cast(sums, tf.float64) / tf.cast(pixels, tf.float64)[:, None]
  class_id = values // info.label_divisor
  is_instance = tf.gather(class_table(info, info.thing_class_ids), class_id)
  is_instance &= values % info.label_divisor > 0
  is_stuff = tf.gather(class_table(info, info.stuff_class_ids), class_id)
  place, entries, table_size = label, values, _largest_label(info) + 1
  if table_size > _TABLE_ENTRIES:
    # The order is the same as that of `values`, by first appearance.
    place = tf.reshape(tf.unique(tf.reshape(label, [-1])).idx, tf.shape(label))
    entries, table_size = tf.range(count), count
  return Segments(label=values, class_id=class_id, is_instance=is_instance,
                  is_labeled=is_instance | is_stuff, pixels=pixels,
                  centers=tf.ensure_shape(tf.cast(tf.round(means), tf.int32), [None, 2]),
                  place=place, entries=entries, table_size=tf.convert_to_tensor(table_size))


def spread(values: tf.Tensor, segments: Segments) -> tf.Tensor:
  """Gives each pixel the value of its segment.

  Args:
    values: [values, ...], one value per segment.
    segments: Segments of a label map [height, width].

  Returns:
    [height, width, ...].
  """
  shape = tf.concat([segments.table_size[None], tf.shape(values)[1:]], 0)
  table = tf.scatter_nd(segments.entries[:, None], values, shape)
  pixels = tf.gather(table, segments.place)
  return tf.ensure_shape(pixels, [*segments.place.shape, *values.shape[1:]])


def class_table(info: DatasetInfo, class_ids: list[int]) -> tf.Tensor:
  """Returns bool [largest class id + 1], true for the given class ids."""
  table = np.zeros(info.table_size, bool)
  table[list(class_ids)] = True
  return tf.constant(table)


def class_map(label: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
  """Returns the class ids of a panoptic map, int32 of its shape."""
  divisor = info.label_divisor
  if divisor & (divisor - 1):
    return label // divisor
  return tf.bitwise.right_shift(label, divisor.bit_length() - 1)  # Far faster than a division.


def _largest_label(info):
  return info.table_size * info.label_divisor - 1


def _run_starts(label):
  """Returns int32 [runs], the flat index of each run's first pixel; runs do not cross rows."""
  first = tf.ones([tf.shape(label)[0], 1], tf.bool)
  is_start = tf.concat([first, tf.not_equal(label[:, 1:], label[:, :-1])], 1)
  return tf.cast(tf.where(tf.reshape(is_start, [-1]))[:, 0], tf.int32)
