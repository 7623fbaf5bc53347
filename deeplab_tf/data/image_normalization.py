"""Conversion of pixel values to the network's input, and back.

The input pipeline, exported models, pictures and analyses all use this module.
"""

from typing import Callable, NamedTuple

import tensorflow as tf


class Normalization(NamedTuple):
  """A normalization of images.

  Attributes:
    apply: Function of RGB values in [0, 255], [..., 3] of any dtype, that returns float32.
    invert: Function of the result of `apply` that returns float32 values in [0, 255].
    mean_color: RGB values that `apply` maps to 0. Padding has this color if it is added before
      normalization, and is 0 if it is added after.
  """
  apply: Callable[[tf.Tensor], tf.Tensor]
  invert: Callable[[tf.Tensor], tf.Tensor]
  mean_color: tuple[float, float, float]


def _standardization(mean, std) -> Normalization:
  # TensorFlow's graph optimizer replaces quotients by products in some graphs. A product from the
  # start gives identical results in an evaluation and in an exported model.
  factor = tuple(1 / value for value in std)

  def apply(images):
    return (tf.cast(images, tf.float32) - tf.constant(mean)) * tf.constant(factor)

  def invert(images):
    return images * tf.constant(std) + tf.constant(mean)

  return Normalization(apply, invert, mean)


# DeepLab2's normalization, to [-1, 1].
SYMMETRIC = Normalization(apply=lambda images: tf.cast(images, tf.float32) / 127.5 - 1.0,
                          invert=lambda images: (images + 1.0) * 127.5,
                          mean_color=(127.5, 127.5, 127.5))
# Mask2Former's normalization (detectron2's PIXEL_MEAN and PIXEL_STD), with ImageNet's statistics.
IMAGENET = _standardization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

_BY_NAME = {'SYMMETRIC': SYMMETRIC, 'IMAGENET': IMAGENET}


def build(model_options) -> Normalization:
  """Returns the normalization that ModelOptions select."""
  return _BY_NAME[model_options.ImageNormalization.Name(model_options.image_normalization)]
