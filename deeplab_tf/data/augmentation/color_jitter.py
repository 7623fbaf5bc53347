"""Random brightness, contrast, saturation and hue, as in SSD and Mask2Former.

SSD: Liu et al., "SSD: Single Shot MultiBox Detector", section 2.2 (data augmentation). Colors are
rounded to whole numbers after each step. Hue and saturation have OpenCV's ranges for 8-bit images:
hue 0..179 in steps of 2 degrees, saturation 0..255.
"""

from typing import NamedTuple

import tensorflow as tf


class Strength(NamedTuple):
  """Ranges of the color changes.

  Attributes:
    probability: Probability of each of the four changes.
    brightness: Largest value that is added to or subtracted from values in 0..255.
    contrast: Smallest and largest factor on the pixel values.
    saturation: Smallest and largest factor on the saturation.
    hue: Largest rotation of the hue in either direction, in steps of 2 degrees.
  """
  probability: float = 0.5
  brightness: float = 32.0
  contrast: tuple[float, float] = (0.5, 1.5)
  saturation: tuple[float, float] = (0.5, 1.5)
  hue: int = 18


class Change(NamedTuple):
  """Color changes drawn for one image.

  Attributes:
    brightness: float32 [], added to the pixel values.
    contrast: float32 [], factor on the pixel values.
    contrast_first: bool [], whether contrast comes before saturation and hue.
    saturation: float32 [], factor on the saturation.
    hue: int32 [], rotation in steps of 2 degrees.
  """
  brightness: tf.Tensor
  contrast: tf.Tensor
  contrast_first: tf.Tensor
  saturation: tf.Tensor
  hue: tf.Tensor


def draw(strength: Strength, seed: tf.Tensor) -> Change:
  """Draws a change, a function of the seed (int [2])."""
  uniform = tf.random.stateless_uniform([9], seed)
  happens = uniform[:4] < strength.probability

  def between(number, bounds):
    return bounds[0] + (bounds[1] - bounds[0]) * uniform[4 + number]

  turn = tf.cast(tf.floor(between(3, (-strength.hue, strength.hue + 1))), tf.int32)
  return Change(
      brightness=tf.where(happens[0], between(0, (-strength.brightness, strength.brightness)), 0.0),
      contrast=tf.where(happens[1], between(1, strength.contrast), 1.0),
      contrast_first=uniform[8] < 0.5,
      saturation=tf.where(happens[2], between(2, strength.saturation), 1.0),
      hue=tf.where(happens[3], tf.minimum(turn, strength.hue), 0))


def apply(image: tf.Tensor, change: Change) -> tf.Tensor:
  """Changes the colors of an image.

  Args:
    image: float32 [height, width, 3], whole numbers in [0, 255].
    change: Result of `draw`.

  Returns:
    float32 of the same shape, whole numbers in [0, 255].
  """
  # Channel by channel: arithmetic on whole planes is far faster than on triples.
  planes = tf.transpose(image, [2, 0, 1])
  first, last = change.contrast, tf.ones([])
  first, last = (tf.where(change.contrast_first, first, last),
                 tf.where(change.contrast_first, last, first))
  planes = _scaled(planes, 1.0, change.brightness)
  planes = _scaled(planes, first, 0.0)
  planes = tf.cond(change.saturation != 1.0, lambda: _saturated(planes, change.saturation),
                   lambda: planes)
  planes = tf.cond(change.hue != 0, lambda: _turned(planes, change.hue), lambda: planes)
  planes = _scaled(planes, last, 0.0)
  return tf.ensure_shape(tf.transpose(planes, [1, 2, 0]), image.shape)


def _scaled(values, factor, shift):
  return tf.floor(tf.clip_by_value(values * factor + shift, 0.0, 255.0))


def _saturated(planes, factor):
  hue, saturation, value = rgb_to_hsv(planes)
  return hsv_to_rgb(hue, _scaled(saturation, factor, 0.0), value)


def _turned(planes, steps):
  hue, saturation, value = rgb_to_hsv(planes)
  hue += tf.cast(steps, tf.float32)
  hue += 180.0 * (tf.cast(hue < 0, tf.float32) - tf.cast(hue >= 180, tf.float32))
  return hsv_to_rgb(hue, saturation, value)


def rgb_to_hsv(planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Converts to hue in [0, 180), saturation and value in [0, 255], whole numbers.

  Args:
    planes: float32 [3, ...], red, green and blue, whole numbers in [0, 255].
  """
  red, green, blue = tf.unstack(planes)
  value = tf.maximum(tf.maximum(red, green), blue)
  spread = value - tf.minimum(tf.minimum(red, green), blue)
  saturation = tf.floor(tf.math.divide_no_nan(255.0 * spread, value) + 0.5)
  is_red = tf.cast(red >= value, tf.float32)
  is_green = (1.0 - is_red) * tf.cast(green >= value, tf.float32)
  is_blue = 1.0 - is_red - is_green
  sector = (is_red * (green - blue) + is_green * (blue - red + 2.0 * spread)
            + is_blue * (red - green + 4.0 * spread))
  hue = tf.floor(tf.math.divide_no_nan(30.0 * sector, spread) + 0.5)
  return hue + 180.0 * tf.cast(hue < 0, tf.float32), saturation, value


def hsv_to_rgb(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
  """Converts back: float32 [3, ...], whole numbers in [0, 255]."""
  sixth = hue / 30.0
  drop = value * saturation / 255.0  # Difference of the strongest and the weakest channel.

  def channel(lack):  # 0 where the channel is the strongest, 1 where it is the weakest.
    return tf.clip_by_value(tf.round(value - drop * lack), 0.0, 255.0)

  return tf.stack([channel(tf.clip_by_value(2.0 - tf.abs(sixth - 3.0), 0.0, 1.0)),
                   channel(tf.clip_by_value(tf.abs(sixth - 2.0) - 1.0, 0.0, 1.0)),
                   channel(tf.clip_by_value(tf.abs(sixth - 4.0) - 1.0, 0.0, 1.0))])
