"""Post-processing that pastes masks in the order of their confidence (CMT-DeepLab, DeepLab2)."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule, resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing.query_maps import QueryMaps, best_in_parts, classify, kept_first


class MaskwiseOptions(NamedTuple):
  """Thresholds, and exponents of the confidence by which masks are ordered.

  Attributes:
    thing_threshold: Thing queries of a lower class probability are dropped.
    stuff_threshold: Stuff queries of a lower class probability are dropped.
    overlap_threshold: A mask is pasted if more than this share of it is still free.
    class_exponent: Exponent of the class probability in the confidence of a mask.
    mask_exponent: Exponent of the mean mask probability inside the mask in its confidence.
  """
  thing_threshold: float = 0.7
  stuff_threshold: float = 0.7
  overlap_threshold: float = 0.5
  class_exponent: float = 1.0
  mask_exponent: float = 0.0


def maskwise(mask_logits: tf.Tensor, class_logits: tf.Tensor, output_size: Sequence[Dimension],
             *, is_thing: tf.Tensor, pixel_threshold: float,
             options: MaskwiseOptions, rule: ResizeRule = 'aligned') -> QueryMaps:
  """Assigns pixels to queries by pasting binary masks.

  Images are processed one at a time, with a few queries at full resolution at once. No shape
  depends on values.

  Args:
    mask_logits: float [batch, h, w, queries].
    class_logits: float [batch, queries, classes + 1]; the last is "no object".
    output_size: Height and width of the maps.
    is_thing: bool [classes], whether the class is a thing.
    pixel_threshold: A mask contains the pixels of higher probability.
    options: Thresholds and exponents.
    rule: Rule by which mask logits are resized.

  Returns:
    QueryMaps; instance numbers are ranks in the order of pasting, from 1.
  """
  query_class, query_score = classify(class_logits)
  thing = tf.gather(is_thing, query_class)
  threshold = tf.where(thing, options.thing_threshold, options.stuff_threshold)
  kept = query_score >= threshold
  mask_logits = tf.cast(mask_logits, tf.float32)
  order = tf.argsort(_confidence(mask_logits, query_score, pixel_threshold, options),
                     axis=1, direction='DESCENDING', stable=True)
  height, width = output_size

  def one_image(arguments):
    logits, image_order, image_kept = arguments
    return _paste(logits, image_order, image_kept, (height, width), pixel_threshold, options,
                  rule)

  static = [n if isinstance(n, int) else None for n in (height, width)]
  signature = (tf.TensorSpec(static, tf.int32), tf.TensorSpec(static, tf.float32),
               tf.TensorSpec(static, tf.bool))
  query_map, pixel_score, confident = tf.map_fn(
      one_image, (mask_logits, order, kept), fn_output_signature=signature, parallel_iterations=1)
  ranks = tf.argsort(order, axis=1) + 1
  return QueryMaps(query_map=query_map, pixel_score=pixel_score, confident=confident,
                   query_class=query_class, query_score=query_score, query_instance=ranks,
                   kept=kept)


def _confidence(mask_logits, query_score, pixel_threshold, options):
  """Returns the product of class probability and mean mask probability, each to its exponent."""
  probabilities = tf.nn.softmax(mask_logits)
  inside = tf.cast(probabilities > pixel_threshold, tf.float32)
  area = tf.reduce_sum(inside, [1, 2])
  mean = tf.math.divide_no_nan(tf.reduce_sum(probabilities * inside, [1, 2]), area)
  return query_score**options.class_exponent * mean**options.mask_exponent


def _paste(logits, order, kept, size, pixel_threshold, options, rule):
  """Pastes the masks of one image; logits [h, w, queries], order and kept [queries].

  Of the softmax over all queries at full resolution only the maximum and the sum are needed, which
  are computed a few queries at a time. Then the kept queries are resized and pasted one by one.
  """
  pasting = tf.gather(order, kept_first(tf.gather(kept, order)))
  _, best, score = best_in_parts(logits, pasting, dimensions(order)[0], size, rule)

  def step(i, query_map, filled):
    query = pasting[i]
    full = resize_bilinear(logits[None, ..., query, None], size, rule)[0, ..., 0]
    mask = tf.exp(full - best) * score > pixel_threshold
    new = mask & ~filled
    old_area = tf.reduce_sum(tf.cast(mask, tf.float32))
    new_area = tf.reduce_sum(tf.cast(new, tf.float32))
    new = new & (new_area > options.overlap_threshold * old_area)
    return i + 1, tf.where(new, query, query_map), filled | new

  # Uncovered pixels belong to the first query of the order and are not confident.
  start = (tf.constant(0), tf.fill(size, order[0]), tf.zeros(size, tf.bool))
  count = tf.math.count_nonzero(kept, dtype=tf.int32)
  _, query_map, filled = tf.while_loop(lambda i, *_: i < count, step, start,
                                       parallel_iterations=1)
  return query_map, score, filled
