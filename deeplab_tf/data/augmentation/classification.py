"""Random-resized crops for training image classifiers, and center crops for evaluating them.

A training crop has random position, area and aspect ratio and may be mirrored; an evaluation crop
is the center. Crop and flip are functions of the seed and of the image's size.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import structures
from deeplab_tf.data.augmentation import autoaugment
from deeplab_tf.data.image_normalization import SYMMETRIC, Normalization

# Range of the aspect ratio (width / height) of random crops.
_ASPECTS = (3 / 4, 4 / 3)
# Number of random crops that are tried before the largest center crop is used.
_ATTEMPTS = 10
# Evaluation crops cover this share of the shorter side: 224 of 256 pixels.
_EVALUATION_SHARE = 0.875


class Augmentation(NamedTuple):
  """Augmentation options.

  Attributes:
    crop_size: Height and width of the network's input.
    min_area: Smallest share of an image's area that a random crop has, in (0, 1].
    policy: Policy of data.augmentation.autoaugment; empty for none.
    flip: Whether half of the images are mirrored.
    normalization: Normalization of the network's input.
  """
  crop_size: tuple
  min_area: float = 0.08
  policy: tuple = ()
  flip: bool = True
  normalization: Normalization = SYMMETRIC


def build_augmentation(options, field: str,
                       normalization: Normalization = SYMMETRIC) -> Augmentation:
  """Translates DatasetOptions.

  Args:
    options: DatasetOptions.
    field: Name of the DatasetOptions in errors.
    normalization: Normalization of the images.

  Raises:
    ConfigError: The crop size is not set, or the policy is unknown.
  """
  if len(options.crop_size) != 2:
    raise config_lib.ConfigError(f'{field}.crop_size is not set: it takes two values, height and '
                                 'width')
  augmentations = options.augmentations
  return Augmentation(tuple(options.crop_size), augmentations.min_crop_area,
                autoaugment.policy(augmentations.autoaugment_policy_name, field),
                augmentations.random_flip, normalization)


# --- Training ---------------------------------------------------------------------------------


def training_sample(example: structures.LabeledImage, augmentation: Augmentation,
                    seed: tf.Tensor) -> tuple[tf.Tensor, structures.ClassTargets]:
  """Makes a training sample, a function of the image and the seed.

  Args:
    example: A decoded image.
    augmentation: Augmentation options.
    seed: int64 [2].

  Returns:
    float32 [*crop_size, 3] in [0, 255], and ClassTargets without a batch dimension.
  """
  seeds = [tf.random.experimental.stateless_fold_in(seed, i) for i in range(3)]
  window = random_window(tf.shape(example.image)[:2], augmentation.min_area, seeds[0])
  image = _resized(_cut(example.image, window), augmentation.crop_size)
  if augmentation.flip:
    image = tf.cond(tf.random.stateless_uniform([], seeds[1]) < 0.5,
                    lambda: tf.reverse(image, [1]), lambda: image)
  if augmentation.policy:
    image = autoaugment.distort(tf.cast(image, tf.uint8), augmentation.policy, seeds[2])
  image = tf.ensure_shape(tf.cast(image, tf.float32), [*augmentation.crop_size, 3])
  return image, structures.ClassTargets(example.label)


def random_window(size: tf.Tensor, min_area: float, seed: tf.Tensor) -> tf.Tensor:
  """Draws a crop window: area uniform in [min_area, 1], aspect ratio log-uniform in [3/4, 4/3].

  The first of ten draws that fits into the image is used. If none fits, the result is the largest
  centered window whose aspect ratio is in the range.

  Args:
    size: int32 [2], height and width of the image.
    min_area: Smallest area as a share of the image's area.
    seed: int64 [2].

  Returns:
    int32 [4]: top, left, height, width.
  """
  sides = tf.cast(size, tf.float32)
  drawn = tf.random.stateless_uniform([4, _ATTEMPTS], seed)
  area = (min_area + (1.0 - min_area) * drawn[0]) * sides[0] * sides[1]
  low, high = (math.log(aspect) for aspect in _ASPECTS)
  aspect = tf.exp(low + (high - low) * drawn[1])
  windows = tf.maximum(tf.cast(tf.round(tf.stack(
      [tf.sqrt(area / aspect), tf.sqrt(area * aspect)], 1)), tf.int32), 1)
  fits = tf.reduce_all(windows <= size, 1)
  first = tf.argmax(fits, output_type=tf.int32)  # The first of those that fit.
  center = _largest_in_range(sides)
  window = tf.where(fits[first], windows[first], center)
  room = size - window
  start = tf.cast(drawn[2:, first] * tf.cast(room + 1, tf.float32), tf.int32)
  start = tf.where(fits[first], tf.minimum(start, room), room // 2)
  return tf.concat([start, window], 0)


def _largest_in_range(sides):
  """Returns int32 [2], the largest height and width whose aspect ratio is in the range."""
  height = tf.minimum(sides[0], sides[1] / _ASPECTS[0])
  width = tf.minimum(sides[1], sides[0] * _ASPECTS[1])
  return tf.maximum(tf.cast(tf.stack([height, width]), tf.int32), 1)


# --- Evaluation -------------------------------------------------------------------------------


def prepare_for_evaluation(image: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
  """Resizes an image so that the crop is 7/8 of its shorter side, and returns the center crop.

  Args:
    image: uint8 [height, width, 3].
    augmentation: Augmentation options, of which only the crop size is used.

  Returns:
    float32 [*crop_size, 3] in [0, 255].
  """
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  crop = tf.constant(augmentation.crop_size, tf.float32)
  scale = tf.reduce_max(tf.round(crop / _EVALUATION_SHARE) / size)
  resized = tf.maximum(tf.cast(tf.round(size * scale), tf.int32), list(augmentation.crop_size))
  image = _resized(image, resized)
  start = (resized - list(augmentation.crop_size)) // 2
  image = _cut(image, tf.concat([start, list(augmentation.crop_size)], 0))
  return tf.ensure_shape(image, [*augmentation.crop_size, 3])


def evaluation_sample(example: structures.LabeledImage,
                      augmentation: Augmentation) -> structures.ClassEvaluationBatch:
  """Returns a normalized evaluation image with its class, without a batch dimension."""
  image = augmentation.normalization.apply(prepare_for_evaluation(example.image, augmentation))
  return structures.ClassEvaluationBatch(image, example.label, example.name)


def _cut(image, window):
  return tf.slice(image, tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0))


def _resized(image, size):
  return tf.image.resize(tf.cast(image, tf.float32), size)
