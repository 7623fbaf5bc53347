"""Resizes predictions on a resized and padded image back to the size of the image file."""

from typing import Sequence, TypeVar, Union

import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.structures import PanopticPrediction, SemanticPrediction

Size = Union[tf.Tensor, Sequence[int]]
MapPrediction = TypeVar('MapPrediction', PanopticPrediction, SemanticPrediction)


def resize_nearest(x: tf.Tensor, size: Size, rule: ResizeRule = 'aligned') -> tf.Tensor:
  """Resizes a map [height, width, ...] to [*size, ...] by nearest-neighbor interpolation.

  Args:
    x: The map.
    size: Height and width of the result.
    rule: 'aligned' for aligned corners, 'half_pixel' for half-pixel centers (as Pillow's nearest).
  """
  nearest = {'aligned': _nearest, 'half_pixel': _nearest_center}[rule]
  rows = nearest(tf.shape(x)[0], size[0])
  columns = nearest(tf.shape(x)[1], size[1])
  return tf.gather(tf.gather(x, rows, axis=0), columns, axis=1)


def _nearest(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns the source position of each target position, int32 [target], rounded half up."""
  steps = tf.cast(tf.maximum(target - 1, 1), tf.float32)
  scale = tf.cast(source - 1, tf.float32) / steps
  # TensorFlow's kernel rounds in this way, and DeepLab2's numbers depend on it.
  positions = tf.floor(tf.cast(tf.range(target), tf.float32) * scale + 0.5)
  return tf.minimum(tf.cast(positions, tf.int32), source - 1)


def _nearest_center(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns the source position that contains each target pixel's center, int32 [target]."""
  # Integers, so that a center on the edge of two pixels does not depend on rounding.
  index, source, target = (tf.cast(x, tf.int64) for x in (tf.range(target), source, target))
  return tf.cast((2 * index + 1) * source // (2 * target), tf.int32)


def to_raw_size(prediction: MapPrediction, resized_size: Size, raw_size: Size,
                rule: ResizeRule = 'aligned') -> MapPrediction:
  """Cuts off the padding and resizes the maps of one image to the size of its file.

  Args:
    prediction: Prediction for one image; maps [1, height, width] at the network's input size.
    resized_size: Height and width of the image inside the padding.
    raw_size: Height and width of the image's file.
    rule: Rule by which the image was resized.

  Returns:
    Maps [1, *raw_size]. Segments that vanish in resizing are still listed.
  """

  def undo(x):
    cut = x[0, :resized_size[0], :resized_size[1]]
    return resize_nearest(cut, raw_size, rule)[None]

  return prediction._replace(**{name: undo(value) for name, value in prediction._asdict().items()
                                if name.endswith('_map')})
