"""Turns the outputs of Mask2Former into panoptic maps (Mask2Former's `panoptic_inference`).

Each pixel belongs to the kept query of the highest product of class probability and mask
probability. A query of which too little of its mask is left loses all its pixels, and every query
those where its mask probability is below 1/2. MaskFormer does not do the latter; then a segment is
all that its query won.

The released code resizes mask logits to the size of the image file before the argmax. So does
`Mask2FormerPostprocessor.at_full_size`, which evaluation and exported models use. Called with a
size, the post-processing makes maps of that size, for example that of the network's input.
"""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing import query_segments
from deeplab_tf.postprocessing.full_size import FullSize, Size, resize_function
from deeplab_tf.postprocessing.query_maps import AT_A_TIME, QueryMaps, classify, kept_first
from deeplab_tf.postprocessing.query_postprocessor import QueryPostprocessor
from deeplab_tf.structures import PanopticPrediction


class PanopticOptions(NamedTuple):
  """Thresholds.

  Attributes:
    object_mask_threshold: Queries whose class probability is at most this are dropped.
    overlap_threshold: A query is dropped if less than this share of its mask belongs to it after
      the argmax.
    thing_area_limit: Things of fewer pixels become void.
    stuff_area_limit: Stuff regions of fewer pixels become void.
    confident_pixels_only: Whether pixels with a mask probability below 1/2 become void; false for
      MaskFormer.
  """
  object_mask_threshold: float = 0.8
  overlap_threshold: float = 0.8
  thing_area_limit: int = 0
  stuff_area_limit: int = 0
  confident_pixels_only: bool = True


class Mask2FormerPostprocessor(QueryPostprocessor):
  """Callable from raw outputs to a PanopticPrediction.

  Things are numbered from 1 in the order of their queries. The score of a segment is the class
  probability times the mean mask probability of all its pixels; of a stuff class it is that of its
  best query. (The released code has no scores.)
  """
  rule = 'half_pixel'

  def __init__(self, classes: DatasetInfo, options: PanopticOptions,
               static_shapes: bool = False):
    """Initializes the post-processing.

    Args:
      classes: The data set's classes.
      options: Thresholds.
      static_shapes: Whether all shapes are static, for XLA. The results are the same.
    """
    self.classes = classes
    self.options = options
    self.static_shapes = static_shapes

  def with_queries(self, outputs: dict[str, tf.Tensor],
                   output_size: Sequence[Dimension]) -> tuple[PanopticPrediction, QueryMaps]:
    """Post-processes a batch, and returns the query of each pixel as well."""
    return self._post_process(outputs, output_size)

  def at_full_size(self, outputs: dict[str, tf.Tensor],
                   full_size: FullSize) -> PanopticPrediction:
    """Post-processes images at the size of their file, as the released code does.

    Args:
      outputs: `mask_logits` [batch, h, w, queries] and `class_logits` [batch, queries,
        classes + 1] of images of the same sizes.
      full_size: Sizes of these images.
    """
    return self._post_process(outputs, full_size.unstacked())[0]

  def _post_process(self, outputs: dict[str, tf.Tensor],
                    size: Size) -> tuple[PanopticPrediction, QueryMaps]:
    class_logits = tf.cast(outputs['class_logits'], tf.float32)
    query_class, query_score = classify(class_logits)
    no_object = tf.nn.softmax(class_logits)[..., -1]
    # Of equal probabilities the first counts, and "no object" is the last.
    kept = (query_score >= no_object) & (query_score > self.options.object_mask_threshold)
    height, width = size.raw_size if isinstance(size, FullSize) else size
    static = [n if isinstance(n, int) else None for n in (height, width)]

    def one_image(arguments):
      return _assign_pixels(*arguments, size, self.options, self.static_shapes)

    of_query = query_class.shape[1:]
    signature = (tf.TensorSpec(static, tf.int32), tf.TensorSpec(static),
                 tf.TensorSpec(static, tf.bool), tf.TensorSpec(of_query, tf.bool),
                 tf.TensorSpec(of_query))
    query_map, pixel_score, confident, accepted, quality = tf.map_fn(
        one_image, (tf.cast(outputs['mask_logits'], tf.float32), query_score, kept),
        fn_output_signature=signature, parallel_iterations=1)
    is_thing = tf.gather(tf.constant(self.classes.is_thing), query_class)
    found = tf.cast(is_thing & accepted, tf.int32)
    maps = QueryMaps(query_map=query_map, pixel_score=pixel_score, confident=confident,
                     query_class=query_class, query_score=query_score,
                     query_instance=tf.cumsum(found, axis=1), kept=kept)
    prediction = query_segments.panoptic_prediction(
        maps, query_score * quality, self.classes, self.options.thing_area_limit,
        self.options.stuff_area_limit)
    return prediction, maps


def _assign_pixels(logits: tf.Tensor, score: tf.Tensor, kept: tf.Tensor, size: Size,
                   options: PanopticOptions, static_shapes: bool) -> tuple[tf.Tensor, ...]:
  """Assigns the pixels of one image to queries.

  Args:
    logits: float32 [h, w, queries].
    score: float32 [queries], class probabilities.
    kept: bool [queries].
    size: Size of the maps.
    options: Thresholds.
    static_shapes: See Mask2FormerPostprocessor.

  Returns:
    (query_map, pixel_score, confident) of QueryMaps for one image; bool [queries], which queries
    become segments; and float32 [queries], the mean mask probability of their pixels, 0 for others.
  """
  queries = dimensions(kept)[0]
  owner, probability, mask_area = _best_query(logits, score, kept, size, static_shapes)
  # Without a kept query the probability is 0 everywhere, and so are the areas of masks.
  is_inside = probability >= (0.5 if options.confident_pixels_only else 0.0)
  flat_owner, inside = tf.reshape(owner, [-1]), tf.reshape(tf.cast(is_inside, tf.float32), [-1])

  def count(pixels):
    return tf.math.unsorted_segment_sum(tf.cast(pixels, tf.int32), flat_owner, queries)

  area, own_area = count(tf.ones_like(flat_owner)), count(inside)
  share = tf.cast(area, tf.float32) / tf.cast(tf.maximum(mask_area, 1), tf.float32)
  accepted = (mask_area > 0) & (own_area > 0) & (share >= options.overlap_threshold)
  total = tf.math.unsorted_segment_sum(inside * tf.reshape(probability, [-1]), flat_owner, queries)
  quality = tf.where(accepted, tf.math.divide_no_nan(total, tf.cast(own_area, tf.float32)), 0.0)
  return owner, probability, is_inside & tf.gather(accepted, owner), accepted, quality


def _best_query(logits: tf.Tensor, score: tf.Tensor, kept: tf.Tensor, size: Size,
                static_shapes: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Finds the kept query of each pixel, with a few of them at full resolution at a time.

  Returns:
    The query, int32 of the given size, 0 if none is kept; its mask probability, float32; and the
    area of each kept query's mask before the argmax in pixels, int32 [queries].
  """
  order, count = kept_first(kept), tf.math.count_nonzero(kept, dtype=tf.int32)
  resize = resize_function(logits, size, 'half_pixel')

  def step(start, owner, best, probability, mask_area):
    # With static shapes, what follows the kept queries in the order is left out below.
    end = start + AT_A_TIME if static_shapes else tf.minimum(start + AT_A_TIME, count)
    numbers = tf.slice(order, [start], [AT_A_TIME]) if static_shapes else order[start:end]
    is_kept = tf.range(dimensions(numbers)[0]) < count - start
    masks = tf.sigmoid(resize(tf.gather(logits, numbers, axis=2)))
    products = tf.where(is_kept, tf.gather(score, numbers) * masks, -1.0)
    index = tf.argmax(products, axis=2, output_type=tf.int32)
    product = tf.reduce_max(products, axis=2)
    # Of equal products the first query counts.
    is_better = product > best
    owner = tf.where(is_better, tf.gather(numbers, index), owner)
    own = tf.gather(masks, index[..., None], batch_dims=2)[..., 0]
    areas = tf.reduce_sum(tf.cast((masks >= 0.5) & is_kept, tf.int32), axis=[0, 1])
    return (end, owner, tf.where(is_better, product, best),
            tf.where(is_better, own, probability),
            tf.tensor_scatter_nd_add(mask_area, numbers[:, None], areas))

  shape = size.raw_size if isinstance(size, FullSize) else size
  start = (tf.constant(0), tf.zeros(shape, tf.int32), tf.fill(shape, -1.0), tf.zeros(shape),
           tf.zeros_like(score, tf.int32))
  _, owner, _, probability, mask_area = tf.while_loop(
      lambda start, *_: start < count, step, start, parallel_iterations=1)
  return owner, probability, mask_area


def build(evaluator_options, dataset_info,
          static_shapes: bool = False) -> Mask2FormerPostprocessor:
  """Builds the post-processing that EvaluatorOptions describe; static_shapes is for XLA."""
  fields = evaluator_options.mask2former_postprocessing
  return Mask2FormerPostprocessor(dataset_info, PanopticOptions(
      object_mask_threshold=fields.object_mask_threshold,
      overlap_threshold=fields.overlap_threshold,
      thing_area_limit=evaluator_options.thing_area_limit,
      stuff_area_limit=evaluator_options.stuff_area_limit,
      confident_pixels_only=fields.confident_pixels_only), static_shapes)
