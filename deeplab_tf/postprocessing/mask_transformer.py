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
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing import maskwise
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
    segment_ids = self._segment_ids(maps)
    prediction = self._prediction(self._panoptic_map(maps, segment_ids), segment_ids, maps)
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

  def _segment_ids(self, maps):
    """Returns the panoptic label of each query's pixels, int32 [batch, queries].

    It is void for queries without confident pixels and for those of small regions.
    """
    classes, options = self.classes, self.options
    batch, queries = dimensions(maps.query_class)
    # Pixels that are not confident are counted for an extra query.
    index = tf.where(maps.confident, maps.query_map, queries)
    index += tf.range(batch)[:, None, None] * (queries + 1)
    ones = tf.ones_like(index)
    areas = tf.math.unsorted_segment_sum(ones, index, batch * (queries + 1))
    areas = tf.reshape(areas, [batch, queries + 1])[:, :queries]

    is_thing = tf.gather(tf.constant(classes.is_thing), maps.query_class)
    # Queries of the same stuff class form one region.
    one_hot = tf.one_hot(maps.query_class, len(classes.class_ids), dtype=tf.float32)
    class_areas = tf.einsum('bqc,bq->bc', one_hot, tf.cast(areas, tf.float32))
    stuff_areas = tf.cast(tf.gather(class_areas, maps.query_class, batch_dims=1), tf.int32)
    large = tf.where(is_thing, areas >= max(1, options.thing_area_limit),
                     stuff_areas >= max(1, options.stuff_area_limit))
    class_ids = tf.gather(tf.constant(classes.class_ids, tf.int32), maps.query_class)
    ids = class_ids * classes.label_divisor + tf.where(is_thing, maps.query_instance, 0)
    return tf.where(large, ids, classes.void_label)

  def _panoptic_map(self, maps, segment_ids):
    """Returns the panoptic map, int32 [batch, height, width]."""
    batch, height, width = dimensions(maps.query_map)
    void = self.classes.void_label
    painted = tf.gather(segment_ids, tf.reshape(maps.query_map, [batch, -1]), batch_dims=1)
    painted = tf.reshape(painted, [batch, height, width])
    return tf.where(maps.confident, painted, void)

  def _prediction(self, panoptic, ids, maps):
    """Returns the prediction with its list of segments, one per thing and one per stuff class."""
    divisor = self.classes.label_divisor
    void = self.classes.void_label
    # Among queries of the same stuff class, the most confident one represents the segment.
    same = ids[:, :, None] == ids[:, None, :]
    numbers = tf.range(dimensions(ids)[1])
    score = tf.where(maps.kept, maps.query_score, -1.0)
    better = (score[:, None, :] > score[:, :, None]) | (
        (score[:, None, :] == score[:, :, None]) & (numbers[None, None] < numbers[None, :, None]))
    listed = (ids != void) & ~tf.reduce_any(same & better, axis=2)
    return PanopticPrediction(
        panoptic_map=panoptic,
        semantic_map=panoptic // divisor,
        instance_map=tf.where(panoptic == void, 0, panoptic % divisor),
        segment_ids=tf.where(listed, ids, -1),
        segment_classes=tf.where(listed, ids // divisor, -1),
        segment_scores=tf.where(listed, score, -1.0))


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
