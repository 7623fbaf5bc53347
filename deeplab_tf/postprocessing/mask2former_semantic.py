"""Turns the outputs of Mask2Former into class maps (Mask2Former's `semantic_inference`).

The score of a class at a pixel is the sum over the queries of class probability times mask
probability. The released code makes semantic models and others differently: a semantic model
computes the scores at the size of the network's input and resizes the scores to the size of the
file, while a model that also does panoptic or instance segmentation resizes the mask logits first.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.resizing import interpolation_matrix
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing.bands import in_bands, join
from deeplab_tf.postprocessing.full_size import FullSize, resizing_matrices
from deeplab_tf.structures import SemanticPrediction

# Rule of the network.
_RULE = 'half_pixel'


class Mask2FormerSemantic:
  """Callable from raw outputs to a SemanticPrediction."""

  def __init__(self, classes: DatasetInfo, resizes_scores: bool):
    """Initializes the post-processing; all shapes are static, as XLA requires.

    Args:
      classes: The classes of `class_logits`.
      resizes_scores: Whether scores are resized to the size of the file, and not mask logits.
    """
    self.classes = classes
    self.resizes_scores = resizes_scores

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> SemanticPrediction:
    """Post-processes a batch.

    Args:
      outputs: `mask_logits` [batch, h, w, queries] and `class_logits` [batch, queries,
        classes + 1] of the network.
      output_size: Height and width of the maps: the network's input size.
    """
    return self._post_process(outputs, FullSize(output_size, output_size, output_size))

  def at_full_size(self, outputs: dict[str, tf.Tensor],
                   full_size: FullSize) -> SemanticPrediction:
    """Post-processes images of the same sizes, with maps of the size of their files."""
    return self._post_process(outputs, full_size.unstacked())

  def _post_process(self, outputs, full_size: FullSize) -> SemanticPrediction:
    static = [n if isinstance(n, int) else None for n in full_size.raw_size]

    def one_image(arguments):
      return self._class_map(*arguments, full_size)

    class_index = tf.map_fn(
        one_image, (tf.cast(outputs['mask_logits'], tf.float32),
                    tf.nn.softmax(tf.cast(outputs['class_logits'], tf.float32))[..., :-1]),
        fn_output_signature=tf.TensorSpec(static, tf.int32), parallel_iterations=1)
    return SemanticPrediction(tf.gather(tf.constant(self.classes.class_ids, tf.int32), class_index))

  def _class_map(self, logits, probabilities, full_size):
    """Returns class indices, int32 [*raw_size]."""

    def scores(band, is_inside):
      del is_inside
      return [tf.einsum('yxq,qc->yxc', tf.sigmoid(band), probabilities)]

    def best(band, is_inside):
      del is_inside
      return [tf.argmax(band, -1, tf.int32)]

    def best_of_queries(band, is_inside):
      return best(*scores(band, is_inside), is_inside)

    size, height = dimensions(logits)[:2], full_size.raw_size[0]
    if not self.resizes_scores:
      (maps,) = in_bands(logits, *resizing_matrices(size, full_size, _RULE), best_of_queries,
                         [tf.int32])
      return join(maps, height)
    inner = full_size._replace(raw_size=full_size.resized_size)
    (maps,) = in_bands(logits, *resizing_matrices(size, inner, _RULE), scores, [tf.float32])
    to_raw = [interpolation_matrix(*sizes, full_size.rule)
              for sizes in zip(full_size.resized_size, full_size.raw_size)]
    (maps,) = in_bands(join(maps, full_size.resized_size[0]), *to_raw, best, [tf.int32])
    return join(maps, height)
