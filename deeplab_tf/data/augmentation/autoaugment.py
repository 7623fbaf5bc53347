"""AutoAugment color policies for training images, with DeepLab2's parameters.

A policy is a list of sub-policies, each a pair of operations (name, probability, level 0..10).
One randomly drawn sub-policy is applied to each image. No operation moves pixels, so labels are
unchanged.
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
  """Returns the policy with the given name, for `distort`; an empty name gives an empty policy.

  Args:
    name: `augmentations.autoaugment_policy_name`.
    field: Name of the DatasetOptions in errors.

  Raises:
    ConfigError: There is no policy of that name.
  """
  if name and name not in POLICIES:
    raise config_lib.ConfigError(
        f'{field}.augmentations.autoaugment_policy_name is "{name}": allowed are '
        f'{", ".join(POLICIES)}')
  return POLICIES[name] if name else ()


def distort(image: tf.Tensor, policy: Sequence, seed: tf.Tensor) -> tf.Tensor:
  """Applies one random sub-policy.

  Args:
    image: uint8 or float32 [height, width, 3] in [0, 255]; values are rounded down.
    policy: One of POLICIES.
    seed: int32 [2].

  Returns:
    float32 [height, width, 3], whole numbers.
  """
  image = tf.floor(tf.cast(image, tf.float32))
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
  """Applies one operation at a level from 0 to 10.

  Args:
    image: uint8, or float32 with whole numbers in [0, 255], [height, width, 3].
    name: Name of the operation.
    level: Strength of the operation.

  Returns:
    float32 of the same shape, whole numbers.
  """
  image = tf.cast(image, tf.float32)
  if name in _ENHANCEMENTS:
    return _ENHANCEMENTS[name](image, level / 10 * 1.8 + 0.1)
  if name == 'Solarize':
    return solarize(image, int(level / 10 * 256))
  if name == 'Posterize':
    return posterize(image, int(level / 10 * 4))
  return _PLAIN[name](image)


# --- Operations -------------------------------------------------------------------------------
#
# They take float32 images with whole numbers, which TensorFlow processes far faster than uint8.
# Values are rounded down where DeepLab2 casts back to uint8.


def _blend(base, image, factor):
  """Returns base + factor * (image - base), rounded down; factors above 1 extrapolate."""
  return tf.floor(tf.clip_by_value(base + factor * (image - base), 0.0, 255.0))


def _gray(image):
  """Returns float32 [height, width, 1], computed as tf.image.rgb_to_grayscale does on uint8."""
  weighted = tf.tensordot(image * (1.0 / 255.0), tf.constant([0.2989, 0.587, 0.114]), [-1, -1])
  return tf.floor(weighted * 255.5)[..., None]


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with the gray image; 0 is gray, 1 is the image itself."""
  return _blend(tf.tile(_gray(image), [1, 1, 3]), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with a uniform gray.

  The gray value should be the mean of the image. DeepLab2 instead divides the sum of the 256
  histogram counts by 256, which is the number of pixels / 256 (at most 255). This function does
  the same.
  """
  pixels = tf.cast(tf.size(image) // 3, tf.float32)
  return _blend(tf.floor(tf.minimum(pixels / 256.0, 255.0)), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with black."""
  return _blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
  """Blends with a version smoothed by a 3x3 kernel; the outermost pixels are unchanged."""
  kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
  kernel = tf.repeat(kernel[..., None, None], 3, axis=2)
  smooth = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], 'VALID')[0]
  smooth = tf.floor(tf.clip_by_value(smooth, 0.0, 255.0))
  inside = image[1:-1, 1:-1]
  change = _blend(smooth, inside, factor) - inside
  return image + tf.pad(change, [[1, 1], [1, 1], [0, 0]])


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
  """Inverts values at or above the threshold; 256 counts as 0, as in DeepLab2's uint8."""
  is_high = tf.cast(image >= threshold % 256, tf.float32)
  return image + is_high * (255.0 - 2.0 * image)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
  """Keeps the given number of high bits, at least one as with TensorFlow's shifts in DeepLab2."""
  step = 1 << (8 - max(bits, 1))
  return tf.floor(image / step) * step


def invert(image: tf.Tensor) -> tf.Tensor:
  """Returns 255 minus the image."""
  return 255.0 - image


def autocontrast(image: tf.Tensor) -> tf.Tensor:
  """Stretches each channel to 0..255; a uniform channel is unchanged."""
  low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
  scale = tf.math.divide_no_nan(255.0, high - low)
  stretched = tf.floor(tf.clip_by_value(image * scale - low * scale, 0.0, 255.0))
  return tf.where(high > low, stretched, image)


def equalize(image: tf.Tensor) -> tf.Tensor:
  """Equalizes the histogram of each channel."""
  planes = tf.unstack(tf.transpose(tf.cast(image, tf.int32), [2, 0, 1]))
  return tf.transpose(tf.stack([_equalize_channel(plane) for plane in planes]), [1, 2, 0])


def _equalize_channel(values):
  histogram = tf.math.bincount(values, minlength=256, maxlength=256)
  last = tf.boolean_mask(histogram, histogram > 0)[-1]
  step = (tf.reduce_sum(histogram) - last) // 255
  table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
  table = tf.concat([[0], tf.clip_by_value(table[1:], 0, 255)], 0)
  table = tf.where(step == 0, tf.range(256), table)
  return tf.gather(tf.cast(table, tf.float32), values)


_ENHANCEMENTS = {
    'Color': color, 'Contrast': contrast, 'Brightness': brightness, 'Sharpness': sharpness}
_PLAIN = {'AutoContrast': autocontrast, 'Equalize': equalize, 'Invert': invert}
