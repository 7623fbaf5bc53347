"""Sizes, resizing and padding of an image together with its label map, as DeepLab2 computes them.

Images are float32 [height, width, 3] in [0, 255], labels int32 [height, width].
"""

from typing import Optional, Sequence, Tuple

import tensorflow as tf

from deeplab_tf.data import image_normalization

Pair = Tuple[tf.Tensor, Optional[tf.Tensor]]  # Image and label.


# --- Sizes ------------------------------------------------------------------------------------


def resize(image: tf.Tensor, label: Optional[tf.Tensor], size: tf.Tensor) -> Pair:
  """Resizes an image bilinearly and its label to the nearest neighbors, with aligned corners.

  Args:
    image: float32 [height, width, 3].
    label: int32 [height, width], or None.
    size: int32 [2].

  Returns:
    Image and label.
  """
  image = tf.compat.v1.image.resize(image[None], size, method='bilinear', align_corners=True)[0]
  if label is not None:
    label = tf.compat.v1.image.resize(
        label[None, ..., None], size, method='nearest', align_corners=True)[0, ..., 0]
  return image, label


def size_in_range(size: tf.Tensor, min_size: Sequence[int], max_size: Sequence[int],
                  factor: int = 0) -> tf.Tensor:
  """Returns the size of an image after resizing to a range.

  The image is first scaled, up or down, so that no side is shorter than its minimum and one is
  equal to it; then down until no side is longer than its maximum. Both times sizes are rounded down
  in float32, as in DeepLab2.

  Args:
    size: int32 [2].
    min_size: Two numbers, or none or zeros for no minimum.
    max_size: Two numbers, or none or zeros for no maximum.
    factor: If positive, sides are rounded up to a multiple of the factor plus 1, and the maximum is
      first lowered to such a value.

  Returns:
    int32 [2].
  """
  new = tf.cast(size, tf.float32)
  if any(min_size):
    new = tf.floor(new * tf.reduce_max(tf.constant(min_size, tf.float32) / new))
  if any(max_size):
    if factor:
      max_size = [m - (m - 1) % factor for m in max_size]
    scale = tf.reduce_min(tf.constant(max_size, tf.float32) / new)
    new = tf.floor(new * tf.minimum(scale, 1.0))
  new = tf.maximum(tf.cast(new, tf.int32), 1)
  if factor:
    new += (1 - new) % factor
  return new


def scales_of_steps(minimum: float, maximum: float, step: float) -> list[float]:
  """Returns the scales that `draw_scale` draws from.

  With the float32 values of a proto this has DeepLab2's quirk: step 0.1 is stored as a slightly
  larger number, so that 0.5 to 1.5 gives ten values at distances of 0.111 and never exactly 1.
  """
  if maximum == minimum:
    return [minimum]
  count = int((maximum - minimum) / step + 1)
  if count < 2:
    return [minimum]
  return [minimum + (maximum - minimum) * i / (count - 1) for i in range(count)]


def draw_scale(minimum: float, maximum: float, step: float, seed: tf.Tensor) -> tf.Tensor:
  """Returns float32 []: one of `scales_of_steps`, or any scale in the range if step is 0."""
  if step == 0.0:
    return tf.random.stateless_uniform([], seed, minimum, maximum)
  scales = tf.constant(scales_of_steps(minimum, maximum, step), tf.float32)
  return scales[tf.random.stateless_uniform([], seed, 0, tf.size(scales), tf.int32)]


def scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
  """Returns int32 [2]: the size times the scale in float32, rounded down, at least 1."""
  return tf.maximum(tf.cast(tf.cast(size, tf.float32) * scale, tf.int32), 1)


# --- Padding ----------------------------------------------------------------------------------


def pad(image: tf.Tensor, label: Optional[tf.Tensor], size: Sequence[int], *, void_label: int,
        offset: Sequence[int] = (0, 0),
        color: Sequence[float] = image_normalization.SYMMETRIC.mean_color) -> Pair:
  """Pads an image with a color (red, green, blue) and its label with void.

  Args:
    image: float32 [height, width, 3].
    label: int32 [height, width], or uint8 [height, width, channels], or None.
    size: Height and width of the result.
    void_label: Value that pads the label.
    offset: First row and column of the image in the result.
    color: Color that pads the image.

  Returns:
    Image and label.
  """
  size, offset = tf.convert_to_tensor(size), tf.convert_to_tensor(offset)
  after = size - offset - tf.shape(image)[:2]
  margins = tf.stack([offset, after], axis=1)
  image = _pad_color(image, margins, color)
  if label is not None:
    channels = [[0, 0]] * (label.shape.rank - 2)
    label = tf.pad(label, tf.concat([margins, channels], 0) if channels else margins,
                   constant_values=tf.constant(void_label, label.dtype))
  return image, label


def _pad_color(image, margins, color):
  if len(set(color)) == 1:
    return tf.pad(image, tf.concat([margins, [[0, 0]]], 0), constant_values=color[0])
  return tf.stack([tf.pad(channel, margins, constant_values=value)
                   for channel, value in zip(tf.unstack(image, 3, axis=-1), color)], axis=-1)
