"""Averages predictions over input scales and mirrored images (Panoptic-DeepLab, section 4.1)."""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.aspp import scaled_pooling
from deeplab_tf.layers.resizing import resize_bilinear, resize_offsets
from deeplab_tf.layers.shapes import dimensions, scaled_size

# Smallest probability whose logarithm is taken.
_TINY = 1e-37


class AveragedPasses:
  """Callable from images to the averaged outputs of a center model, at the size of the images.

  As in DeepLab2, class probabilities, heatmaps and offsets are averaged at full resolution.
  """

  def __init__(self, model: keras.Model, scales: Sequence[float] = (1.0,),
               add_flipped: bool = False):
    """Initializes the averaging.

    Args:
      model: A center model.
      scales: Scales of the input, with a pass of the network for each.
      add_flipped: Whether each scale has another pass with mirrored images.
    """
    self._model = model
    self._scales = tuple(scales)
    self._flips = (False, True) if add_flipped else (False,)

  def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the averaged outputs.

    Args:
      images: float32 [batch, height, width, 3], normalized.

    Returns:
      The outputs of the model, [batch, height, width, ...]; `semantic_logits` are the logarithms
      of the mean probabilities.
    """
    totals = None
    for scale in self._scales:
      for flipped in self._flips:
        found = self._one_pass(images, scale, flipped)
        totals = found if totals is None else {
            name: total + found[name] for name, total in totals.items()}
    count = len(self._scales) * len(self._flips)
    means = {name: total / count for name, total in totals.items()}
    means['semantic_logits'] = tf.math.log(tf.maximum(means['semantic_logits'], _TINY))
    return means

  def _one_pass(self, images, scale, flipped):
    """Returns full-resolution outputs of one pass, with probabilities as `semantic_logits`."""
    size = dimensions(images)[1:3]
    images = resize_bilinear(images, [scaled_size(n, scale) for n in size])
    if flipped:
      images = tf.reverse(images, [2])
    with scaled_pooling(self._model, scale):
      outputs = self._model(images, training=False)
    if flipped:
      outputs = {name: tf.reverse(output, [2]) for name, output in outputs.items()}
      if 'center_offsets' in outputs:
        outputs['center_offsets'] *= tf.constant([1.0, -1.0])
    return {name: tf.nn.softmax(resize_bilinear(output, size)) if name == 'semantic_logits'
            else (resize_offsets if name == 'center_offsets' else resize_bilinear)(output, size)
            for name, output in outputs.items()}
