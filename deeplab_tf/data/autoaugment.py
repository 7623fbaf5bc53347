"""AutoAugment policies for the colours of training images, with DeepLab2's numbers.

A policy is a list of sub-policies, each a pair of operations (name, probability, level 0..10);
an image goes through one sub-policy, drawn at random. Operations change uint8 images
[height, width, 3] and never move pixels, so labels stay as they are.
"""

import functools
from typing import Sequence

import tensorflow as tf

from deeplab_tf import config as config_lib

_SIMPLE = (
    (('Sharpness', 0.4, 7), ('Brightness', 0.2, 10)),
    (('Equalize', 0.0, 9), ('Contrast', 0.2, 10)),
    (('Sharpness', 0.2, 9), ('Color', 0.2, 9)),
    (('Solarize', 0.2, 7), ('Equalize', 0.6, 9)),
    (('Sharpness', 0.2, 1), ('Equalize', 0.2, 7)),
)


def _scaled(policy, factor):
  return tuple(tuple((name, p, level * factor) for name, p, level in pair) for pair in policy)


POLICIES = {
    'simple_classification_policy': _SIMPLE,
    'simple_classification_policy_magnitude_scale_0.2': _scaled(_SIMPLE, 0.2),
}


def policy(name: str, field: str) -> Sequence:
  """Returns the policy of a name, for `distort`; none for an empty name.

  Args:
    name: `augmentations.autoaugment_policy_name`.
    field: Name of the DatasetOptions in errors.

  Raises:
    ConfigError: There is none of that name.
  """
  if name and name not in POLICIES:
    raise config_lib.ConfigError(
        f'{field}.augmentations.autoaugment_policy_name is "{name}": allowed are '
        f'{", ".join(POLICIES)}')
  return POLICIES[name] if name else ()


def distort(image: tf.Tensor, policy: Sequence, seed: tf.Tensor) -> tf.Tensor:
  """Applies one random sub-policy.

  Args:
    image: uint8 [height, width, 3].
    policy: One of POLICIES.
    seed: int32 [2].

  Returns:
    uint8 [height, width, 3].
  """
  draws = tf.random.stateless_uniform([3], seed)
  chosen = tf.minimum(tf.cast(draws[0] * len(policy), tf.int32), len(policy) - 1)

  def branch(pair):
    result = image
    for i, (name, probability, level) in enumerate(pair):
      result = tf.cond(draws[i + 1] < probability,
                       functools.partial(apply_operation, result, name, level),
                       functools.partial(tf.identity, result))
    return result

  result = tf.switch_case(chosen, [functools.partial(branch, pair) for pair in policy])
  return tf.ensure_shape(result, image.shape)


def apply_operation(image: tf.Tensor, name: str, level: float) -> tf.Tensor:
  """Applies one operation at a level from 0 to 10 to a uint8 image [height, width, 3]."""
  if name in _ENHANCEMENTS:
    return _ENHANCEMENTS[name](image, level / 10 * 1.8 + 0.1)
  if name == 'Solarize':
    return solarize(image, int(level / 10 * 256))
  if name == 'Posterize':
    return posterize(image, int(level / 10 * 4))
  return _PLAIN[name](image)


# --- Operations -------------------------------------------------------------------------------


def _blend(base, image, factor):
  """base + factor * (image - base), rounded down; factors above 1 overshoot."""
  base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
  blended = base + factor * (image - base)
  return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _grey(image):
  return tf.image.rgb_to_grayscale(image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with the grey image; 0 is grey, 1 is the image itself."""
  return _blend(tf.repeat(_grey(image), 3, axis=-1), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with a uniform grey.

  The grey should be the mean of the image; DeepLab2 takes the sum of the 256 histogram counts
  divided by 256, that is the number of pixels by 256 (at most 255), and so do we.
  """
  pixels = tf.cast(tf.size(image) // 3, tf.float32)
  mean = tf.floor(tf.minimum(pixels / 256.0, 255.0))
  return _blend(tf.fill(tf.shape(image), mean), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with black."""
  return _blend(tf.zeros_like(image), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with a 3x3 smoothing; the outermost pixels stay."""
  kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
  kernel = tf.repeat(kernel[..., None, None], 3, axis=2)
  values = tf.cast(image, tf.float32)
  smooth = tf.nn.depthwise_conv2d(values[None], kernel, [1, 1, 1, 1], 'VALID')[0]
  smooth = tf.cast(tf.clip_by_value(smooth, 0.0, 255.0), tf.uint8)
  margins = [[1, 1], [1, 1], [0, 0]]
  inside = tf.pad(tf.ones_like(smooth, tf.bool), margins)
  return _blend(tf.where(inside, tf.pad(smooth, margins), image), image, factor)


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
  """Inverts values from the threshold on; 256 counts as 0, as in DeepLab2's uint8."""
  return tf.where(tf.cast(image, tf.int32) < threshold % 256, image, 255 - image)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
  """Keeps the given number of high bits; at least one, as TensorFlow's shifts in DeepLab2 do."""
  mask = 256 - (1 << (8 - max(bits, 1)))
  return tf.cast(tf.bitwise.bitwise_and(tf.cast(image, tf.int32), mask), tf.uint8)


def invert(image: tf.Tensor) -> tf.Tensor:
  """255 minus the image."""
  return 255 - image


def autocontrast(image: tf.Tensor) -> tf.Tensor:
  """Stretches each channel to 0..255; a uniform channel stays."""
  values = tf.cast(image, tf.float32)
  low, high = tf.reduce_min(values, [0, 1]), tf.reduce_max(values, [0, 1])
  scale = tf.math.divide_no_nan(255.0, high - low)
  stretched = tf.clip_by_value(values * scale - low * scale, 0.0, 255.0)
  return tf.where(high > low, tf.cast(stretched, tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
  """Flattens the histogram of each channel."""
  return tf.stack([_equalize_channel(image[..., c]) for c in range(3)], axis=-1)


def _equalize_channel(channel):
  values = tf.cast(channel, tf.int32)
  histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
  last = tf.boolean_mask(histogram, histogram > 0)[-1]
  step = (tf.reduce_sum(histogram) - last) // 255
  table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
  table = tf.concat([[0], tf.clip_by_value(table[1:], 0, 255)], 0)
  return tf.where(step == 0, channel, tf.cast(tf.gather(table, values), tf.uint8))


_ENHANCEMENTS = {
    'Color': color, 'Contrast': contrast, 'Brightness': brightness, 'Sharpness': sharpness}
_PLAIN = {'AutoContrast': autocontrast, 'Equalize': equalize, 'Invert': invert}
