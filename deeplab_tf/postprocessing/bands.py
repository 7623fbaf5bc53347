"""Resizes many channels to full resolution a few rows at a time."""

from typing import Callable, Sequence

import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension, dimensions

# Number of rows that are at full resolution at a time.
BAND = 64


def in_bands(x: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor,
             function: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
             dtypes: Sequence[tf.DType]) -> Sequence[tf.Tensor]:
  """Applies a function to bands of rows of a resized map, which never exists as a whole.

  Args:
    x: float32 [h, w, channels].
    rows: float32 [height, h], weights of the rows; see full_size.resizing_matrices.
    columns: float32 [width, w], weights of the columns.
    function: Function of (float32 [BAND, width, channels], bool [BAND, 1, 1]) that returns a
      sequence of tensors. The second argument is false for rows beyond the height, which fill up
      the last band with zeros.
    dtypes: Dtypes of the tensors.

  Returns:
    The tensors of all bands, [bands, ...].
  """
  wide = tf.einsum('hwc,xw->hxc', x, columns)
  height, source = dimensions(rows)
  count = (height + BAND - 1) // BAND
  bands = tf.reshape(tf.pad(rows, [[0, count * BAND - height], [0, 0]]), [count, BAND, source])
  inside = tf.reshape(tf.range(count * BAND) < height, [count, BAND, 1, 1])

  def one(arguments):
    band, is_inside = arguments
    return tuple(function(tf.einsum('yh,hxc->yxc', band, wide), is_inside))

  return tf.map_fn(one, (bands, inside), parallel_iterations=1, fn_output_signature=tuple(dtypes))


def join(bands: tf.Tensor, height: Dimension) -> tf.Tensor:
  """Joins bands [bands, BAND, ...] to [height, ...] and cuts off the rows that filled them up."""
  shape = dimensions(bands)
  return tf.reshape(bands, [shape[0] * shape[1], *shape[2:]])[:height]
