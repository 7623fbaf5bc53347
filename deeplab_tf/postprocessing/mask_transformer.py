"""Turns the outputs of MaX-DeepLab and CMT-DeepLab into panoptic maps.

There are two ways: two argmaxes, one over the classes of each query and one over the queries of
each pixel, with filters on both (MaX-DeepLab, equations 3 and 4 and section 4); or `maskwise`,
which pastes masks in the order of their confidence. Instance numbers start at 1: those of the
argmaxes are query numbers, those of `maskwise` ranks.
"""

from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.postprocessing import maskwise, query_segments
from deeplab_tf.postprocessing.query_maps import QueryMaps, pixelwise
from deeplab_tf.postprocessing.query_postprocessor import QueryPostprocessor
from deeplab_tf.structures import PanopticPrediction


class PixelwiseOptions(NamedTuple):
  """Thresholds of the two argmaxes.

  Attributes:
    class_threshold: Queries of a lower class probability are dropped.
    pixel_threshold: Pixels whose query has at most this probability become void.
    thing_area_limit: Things of fewer pixels become void.
    stuff_area_limit: Stuff regions of fewer pixels become void.
  """
  class_threshold: float = 0.7
  pixel_threshold: float = 0.4
  thing_area_limit: int = 0
  stuff_area_limit: int = 0


class MaskTransformerPostprocessor(QueryPostprocessor):
  """Callable from raw outputs to a PanopticPrediction."""

  def __init__(self, classes: DatasetInfo, options: PixelwiseOptions,
               maskwise_options: Optional[maskwise.MaskwiseOptions] = None,
               static_shapes: bool = False, rule: ResizeRule = 'aligned'):
    """Initializes the post-processing.

    Args:
      classes: The data set's classes.
      options: Thresholds; with maskwise_options only the pixel threshold and the area limits apply.
      maskwise_options: Options of pasting masks in order; None for the argmax of each pixel.
      static_shapes: Whether all shapes are static, for XLA; see query_maps.pixelwise. They always
        are with maskwise_options.
      rule: Rule by which mask logits are resized.
    """
    self.classes = classes
    self.options = options
    self.maskwise_options = maskwise_options
    self.static_shapes = static_shapes
    self.rule = rule

  def with_queries(self, outputs: dict[str, tf.Tensor],
                   output_size: Sequence[Dimension]) -> tuple[PanopticPrediction, QueryMaps]:
    """Post-processes a batch, and returns the query of each pixel as well."""
    maps = self.query_maps(outputs, output_size)
    prediction = query_segments.panoptic_prediction(
        maps, maps.query_score, self.classes, self.options.thing_area_limit,
        self.options.stuff_area_limit)
    return prediction, maps

  def query_maps(self, outputs: dict[str, tf.Tensor],
                 output_size: Sequence[Dimension]) -> QueryMaps:
    """Assigns pixels to queries; see QueryMaps."""
    options = self.options
    if self.maskwise_options is None:
      return pixelwise(outputs['mask_logits'], outputs['class_logits'], output_size,
                       options.class_threshold, options.pixel_threshold,
                       static_shapes=self.static_shapes, rule=self.rule)
    return maskwise.maskwise(outputs['mask_logits'], outputs['class_logits'], output_size,
                             is_thing=tf.constant(self.classes.is_thing),
                             pixel_threshold=options.pixel_threshold, options=self.maskwise_options,
                             rule=self.rule)

  def semantic_map(self, maps: QueryMaps) -> tf.Tensor:
    """Returns the class id of each pixel's query, int32 [batch, h, w], without filters."""
    classes = tf.gather(tf.constant(self.classes.class_ids, tf.int32), maps.query_class)
    return tf.gather(classes, maps.query_map, batch_dims=1)


def build(evaluator_options, dataset_info,
          static_shapes: bool = False) -> MaskTransformerPostprocessor:
  """Builds the post-processing that EvaluatorOptions describe; static_shapes is for XLA."""
  options = PixelwiseOptions(
      class_threshold=evaluator_options.transformer_class_confidence_threshold,
      pixel_threshold=evaluator_options.pixel_confidence_threshold,
      thing_area_limit=evaluator_options.thing_area_limit,
      stuff_area_limit=evaluator_options.stuff_area_limit)
  pasting = None
  if evaluator_options.transformer_post_processing == 'maskwise':
    fields = evaluator_options.maskwise_postprocessing
    pasting = maskwise.MaskwiseOptions(
        thing_threshold=fields.transformer_class_confidence_threshold_thing,
        stuff_threshold=fields.transformer_class_confidence_threshold_stuff,
        overlap_threshold=fields.overlapping_threshold,
        class_exponent=fields.reorder_class_weight,
        mask_exponent=fields.reorder_mask_weight)
  return MaskTransformerPostprocessor(dataset_info, options, pasting, static_shapes)
