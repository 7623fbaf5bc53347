"""Turns the outputs of Mask2Former into class maps (Mask2Former's `semantic_inference`).

The score of a class at a pixel is the sum over the queries of class probability times mask
probability. The released code makes semantic models and others differently: a semantic model
computes the scores at the size of the network's input and resizes the scores to the size of the
file, while a model that also does panoptic or instance segmentation resizes the mask logits first.
MaskFormer's code does the same.
"""

from typing import Sequence, Union

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.resizing import interpolation_matrix
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing.bands import in_bands, join
from deeplab_tf.postprocessing.full_size import FullSize, resizing_matrices
from deeplab_tf.structures import ScoredSemanticPrediction, SemanticPrediction

# Rule of the network.
_RULE = 'half_pixel'


AnySemanticPrediction = Union[SemanticPrediction, ScoredSemanticPrediction]


class Mask2FormerSemantic:
  """Callable from raw outputs to a SemanticPrediction, or one with scores."""

  def __init__(self, classes: DatasetInfo, resizes_scores: bool, returns_scores: bool = False):
    """Initializes the post-processing; all shapes are static, as XLA requires.

    Args:
      classes: The classes of `class_logits`.
      resizes_scores: Whether scores are resized to the size of the file, and not mask logits.
      returns_scores: Whether the prediction is a ScoredSemanticPrediction.
    """
    self.classes = classes
    self.resizes_scores = resizes_scores
    self.returns_scores = returns_scores

  def with_scores(self) -> 'Mask2FormerSemantic':
    """Returns post-processing that also returns the scores."""
    return Mask2FormerSemantic(self.classes, self.resizes_scores, returns_scores=True)

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> AnySemanticPrediction:
    """Post-processes a batch.

    Args:
      outputs: `mask_logits` [batch, h, w, queries] and `class_logits` [batch, queries,
        classes + 1] of the network.
      output_size: Height and width of the maps: the network's input size.
    """
    return self._post_process(outputs, FullSize(output_size, output_size, output_size))

  def at_full_size(self, outputs: dict[str, tf.Tensor],
                   full_size: FullSize) -> AnySemanticPrediction:
    """Post-processes images of the same sizes, with maps of the size of their files."""
    return self._post_process(outputs, full_size.unstacked())

  def _post_process(self, outputs, full_size: FullSize) -> AnySemanticPrediction:
    size = [n if isinstance(n, int) else None for n in full_size.raw_size]
    signature = (tf.TensorSpec(size, tf.int32),)
    if self.returns_scores:
      signature += (tf.TensorSpec([*size, len(self.classes.class_ids)]),)

    def one_image(arguments):
      return self._maps(*arguments, full_size)

    class_index, *scores = tf.map_fn(
        one_image, (tf.cast(outputs['mask_logits'], tf.float32),
                    tf.nn.softmax(tf.cast(outputs['class_logits'], tf.float32))[..., :-1]),
        fn_output_signature=signature, parallel_iterations=1)
    semantic_map = tf.gather(tf.constant(self.classes.class_ids, tf.int32), class_index)
    return ScoredSemanticPrediction(semantic_map, *scores) if scores else (
        SemanticPrediction(semantic_map))

  def _maps(self, logits, probabilities, full_size):
    """Returns class indices, int32 [*raw_size], and with `returns_scores` also the scores."""

    def scores(band, is_inside):
      del is_inside
      return [tf.einsum('yxq,qc->yxc', tf.sigmoid(band), probabilities)]

    def best(band, is_inside):
      del is_inside
      return [tf.argmax(band, -1, tf.int32), *([band] if self.returns_scores else [])]

    def best_of_queries(band, is_inside):
      return best(*scores(band, is_inside), is_inside)

    dtypes = [tf.int32, tf.float32][:1 + self.returns_scores]
    size, height = dimensions(logits)[:2], full_size.raw_size[0]
    if not self.resizes_scores:
      maps = in_bands(logits, *resizing_matrices(size, full_size, _RULE), best_of_queries, dtypes)
      return tuple(join(each, height) for each in maps)
    inner = full_size._replace(raw_size=full_size.resized_size)
    (maps,) = in_bands(logits, *resizing_matrices(size, inner, _RULE), scores, [tf.float32])
    to_raw = [interpolation_matrix(*sizes, full_size.rule)
              for sizes in zip(full_size.resized_size, full_size.raw_size)]
    maps = in_bands(join(maps, full_size.resized_size[0]), *to_raw, best, dtypes)
    return tuple(join(each, height) for each in maps)
