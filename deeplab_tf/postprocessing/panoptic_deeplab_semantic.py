"""Turns the semantic logits of Panoptic-DeepLab's semantic branch into class maps."""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.structures import SemanticPrediction


class PanopticDeepLabSemantic:
  """Callable from raw outputs to a SemanticPrediction.

  Its map is the semantic map of PanopticDeepLabPostprocessor. As there, maps of the network's input
  size are resized to the size of the image's file afterwards, and not the logits.
  """

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> SemanticPrediction:
    """Post-processes a batch; all shapes are static, as XLA requires.

    Args:
      outputs: `semantic_logits` [batch, h, w, number of classes] of the network.
      output_size: Height and width of the maps: the network's input size.
    """
    size = tuple(output_size)

    def one_image(logits):
      # One image at a time, since logits of full resolution are large.
      full = resize_bilinear(logits[None], size)[0]
      return tf.argmax(full, axis=-1, output_type=tf.int32)

    static = [n if isinstance(n, int) else None for n in size]
    return SemanticPrediction(tf.map_fn(
        one_image, tf.cast(outputs['semantic_logits'], tf.float32), parallel_iterations=1,
        fn_output_signature=tf.TensorSpec(static, tf.int32)))
