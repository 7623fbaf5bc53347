"""How pixel values become the network's input, and back: the one place that knows.

The pipeline, an exported model, pictures and analyses all take it from here.
"""

from typing import Callable, NamedTuple

import tensorflow as tf


class Normalization(NamedTuple):
  """A normalization of images.

  Attributes:
    apply: RGB values in [0, 255], [..., 3] of any dtype, to float32.
    invert: What `apply` returned back to float32 values in [0, 255].
    mean_color: The RGB values that become 0. Padding has this color where it is added before
      normalization, and is 0 where it is added after.
  """
  apply: Callable[[tf.Tensor], tf.Tensor]
  invert: Callable[[tf.Tensor], tf.Tensor]
  mean_color: tuple[float, float, float]


def _standardization(mean, std) -> Normalization:
  # A quotient becomes a product in those graphs that TensorFlow optimizes; with a product from the
  # start an evaluation and an exported model have the same bits.
  factor = tuple(1 / value for value in std)

  def apply(images):
    return (tf.cast(images, tf.float32) - tf.constant(mean)) * tf.constant(factor)

  def invert(images):
    return images * tf.constant(std) + tf.constant(mean)

  return Normalization(apply, invert, mean)


# DeepLab2's, to [-1, 1].
SYMMETRIC = Normalization(apply=lambda images: tf.cast(images, tf.float32) / 127.5 - 1.0,
                          invert=lambda images: (images + 1.0) * 127.5,
                          mean_color=(127.5, 127.5, 127.5))
# Mask2Former's (detectron2's PIXEL_MEAN and PIXEL_STD): mean and standard deviation of ImageNet.
IMAGENET = _standardization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

_BY_NAME = {'SYMMETRIC': SYMMETRIC, 'IMAGENET': IMAGENET}


def build(model_options) -> Normalization:
  """Returns the normalization that ModelOptions ask for."""
  return _BY_NAME[model_options.ImageNormalization.Name(model_options.image_normalization)]
