"""The contract between backbones and the models that use them."""

from typing import Protocol

import tensorflow as tf

from deeplab_tf.layers.features import Feature


class Backbone(Protocol):
  """A Keras layer that turns images into features.

  Any layer with these two members is a backbone; there is no base class.

  Attributes:
    features: Descriptions of all features that a call returns. The last one is the end of the
      network, the input of a classifier and, by default, of ASPP.
  """
  features: tuple[Feature, ...]

  def __call__(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalized.
      training: Whether to run in training mode (batch statistics, stochastic depth).

    Returns:
      A tensor [batch, ceil(height / stride), ceil(width / stride), channels] for each of
      `features`, by name.
    """
