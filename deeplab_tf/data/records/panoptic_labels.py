"""Panoptic maps in records: decoding and checks."""

from typing import Mapping, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import errors, segments
from deeplab_tf.data.records import instance_labels

ENCODED = 'image/segmentation/class/encoded'
FORMAT = 'image/segmentation/class/format'
FEATURES = {
    ENCODED: tf.io.FixedLenFeature([], tf.string, ''),
    FORMAT: tf.io.FixedLenFeature([], tf.string, 'raw'),
}


def decode(fields: Mapping[str, tf.Tensor], shape: tf.Tensor, info: DatasetInfo,
           where: Sequence) -> tf.Tensor:
  """Returns the panoptic map of a record, int32 [height, width].

  Args:
    fields: Features of the record, including those of FEATURES and the size.
    shape: int32 [3], shape of the image.
    info: The data set.
    where: Prefix of errors, strings and string scalars.
  """
  return checked(_decoded(fields, shape, info, where), info, where)


def _decoded(fields, shape, info, where):
  height, width = shape[0], shape[1]
  encoded = fields[ENCODED]
  has_masks = fields[instance_labels.FORMAT] != ''
  present = errors.check(tf.strings.length(encoded) > 0, lambda: [*where, tf.where(
      has_masks, f'the record has instance masks (feature {instance_labels.FORMAT}), and the '
      f'labels of data set "{info.name}" are panoptic maps: name the data set of these records',
      f'the record has no label (feature {ENCODED}); for images without labels set '
      'decode_groundtruth_label to false')])
  raw = errors.check(fields[FORMAT] == 'raw', lambda: [
      *where, 'the label has format "', fields[FORMAT],
      '", which holds no instances; "raw" panoptic labels are needed'])
  with tf.control_dependencies([present, raw]):
    label_height = tf.identity(fields['image/height'])
    label_width = tf.identity(fields['image/width'])
  sound = errors.check(
      (label_height == tf.cast(height, tf.int64)) & (label_width == tf.cast(width, tf.int64))
      & (tf.strings.length(encoded) == 4 * height * width), lambda: [
          *where, 'the image is ', height, 'x', width, ', but the record is ', label_height, 'x',
          label_width, ' with a label of ', tf.strings.length(encoded), ' bytes; height x width '
          'x 4 is expected'])
  with tf.control_dependencies([sound]):
    label = tf.io.decode_raw(encoded, tf.int32)
  return tf.reshape(label, [height, width])


def checked(label: tf.Tensor, info: DatasetInfo, where: Sequence) -> tf.Tensor:
  """Returns the label, and fails if it contains a class that the data set does not have.

  Args:
    label: int32 [height, width], panoptic map.
    info: The data set.
    where: Prefix of the error, strings and string scalars.
  """
  known = np.zeros(info.table_size + 1, bool)
  known[[*info.class_ids, info.ignore_label]] = True
  # Classes beyond the table map to its last entry, which is false; so do negative ones, which are
  # large as unsigned numbers.
  class_id = tf.bitcast(segments.class_map(label, info), tf.uint32)
  row = tf.bitcast(tf.minimum(class_id, tf.constant(len(known) - 1, tf.uint32)), tf.int32)
  valid = tf.gather(tf.constant(known), row)

  def message():
    wrong = tf.boolean_mask(label, ~valid)[0]
    return [*where, 'the label holds ', wrong, ', which is class ', wrong // info.label_divisor,
            f': data set "{info.name}" has no such class (label = class id x '
            f'{info.label_divisor} + instance, classes {min(info.class_ids)} to '
            f'{max(info.class_ids)}, unlabeled {info.ignore_label})']

  with tf.control_dependencies([errors.check(tf.reduce_all(valid), message)]):
    return tf.identity(label)
