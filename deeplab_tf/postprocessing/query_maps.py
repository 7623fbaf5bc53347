"""Assigns pixels to queries by the two argmaxes of MaX-DeepLab."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule, resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions

_DROPPED = -99999.0
# Number of queries resized to full resolution at once: fewer are slow, more need memory.
AT_A_TIME = 16


class QueryMaps(NamedTuple):
  """Assignment of pixels to queries in a batch, before small regions are removed.

  Attributes:
    query_map: int32 [batch, height, width], the query of each pixel.
    pixel_score: float32 [batch, height, width], probability of that query at the pixel.
    confident: bool [batch, height, width], whether the pixel is not void.
    query_class: int32 [batch, queries], index of the best class, "no object" excluded.
    query_score: float32 [batch, queries], probability of that class.
    query_instance: int32 [batch, queries], instance number of a thing query, from 1.
    kept: bool [batch, queries], whether the query passes the class threshold.
  """
  query_map: tf.Tensor
  pixel_score: tf.Tensor
  confident: tf.Tensor
  query_class: tf.Tensor
  query_score: tf.Tensor
  query_instance: tf.Tensor
  kept: tf.Tensor


def classify(class_logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the best class of each query, "no object" excluded, and its probability."""
  probabilities = tf.nn.softmax(tf.cast(class_logits, tf.float32))[..., :-1]
  return (tf.argmax(probabilities, axis=-1, output_type=tf.int32),
          tf.reduce_max(probabilities, axis=-1))


def pixelwise(mask_logits: tf.Tensor, class_logits: tf.Tensor,
              output_size: Sequence[Dimension], class_threshold: float,
              pixel_threshold: float, static_shapes: bool = False,
              rule: ResizeRule = 'aligned') -> QueryMaps:
  """Assigns each pixel to the kept query of the highest mask logit (equations 3 and 4).

  A pixel is confident if the probability of that query among the kept ones is above the threshold
  and no dropped query has a higher logit. Images are processed one at a time, with only the kept
  queries at full resolution.

  Args:
    mask_logits: float [batch, h, w, queries].
    class_logits: float [batch, queries, classes + 1]; the last is "no object".
    output_size: Height and width of the maps.
    class_threshold: Queries of a lower class probability are dropped.
    pixel_threshold: Pixels of at most this probability are not confident.
    static_shapes: Whether the kept queries are processed a few at a time, so that no shape depends
      on their number. This is for XLA, which pads such shapes or rejects them. The maps are the
      same.
    rule: Rule by which mask logits are resized.
  """
  query_class, query_score = classify(class_logits)
  kept = query_score >= class_threshold
  height, width = output_size

  def one_image(arguments):
    logits, kept_queries = arguments
    return _read_image(logits, kept_queries, (height, width), pixel_threshold, static_shapes, rule)

  static = [n if isinstance(n, int) else None for n in (height, width)]
  signature = (tf.TensorSpec(static, tf.int32), tf.TensorSpec(static, tf.float32),
               tf.TensorSpec(static, tf.bool))
  query_map, pixel_score, confident = tf.map_fn(
      one_image, (tf.cast(mask_logits, tf.float32), kept), fn_output_signature=signature,
      parallel_iterations=1)
  batch, queries = dimensions(query_class)
  numbers = tf.tile(tf.range(1, queries + 1)[None], [batch, 1])
  return QueryMaps(query_map=query_map, pixel_score=pixel_score, confident=confident,
                   query_class=query_class, query_score=query_score, query_instance=numbers,
                   kept=kept)


def _read_image(logits: tf.Tensor, kept: tf.Tensor, size: Sequence[Dimension],
                pixel_threshold: float, static_shapes: bool,
                rule: ResizeRule) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Assigns the pixels of one image; logits are [h, w, queries], kept bool [queries]."""
  order, count = kept_first(kept), tf.math.count_nonzero(kept, dtype=tf.int32)
  read = best_in_parts if static_shapes else _best_at_once
  # As in DeepLab2, if no query is kept, all pixels belong to the first query, which is then the
  # first of the order, and none is confident.
  query_map, best, score = read(logits, order, tf.maximum(count, 1), size, rule)
  score = tf.where(count > 0, score, 0)
  beaten = _beaten_by_dropped(logits, kept, order, best, size, rule)
  return query_map, score, (score > pixel_threshold) & (count > 0) & ~beaten


def kept_first(kept: tf.Tensor) -> tf.Tensor:
  """Returns the kept queries, then the dropped ones, each ascending, int32 [queries + a few].

  The last one is repeated, so that a slice of AT_A_TIME can start at any query.
  """
  queries = dimensions(kept)[0]
  order = tf.sort(tf.range(queries) + tf.where(kept, 0, queries)) % queries
  return tf.concat([order, tf.fill([AT_A_TIME], order[-1])], axis=0)


def _best_at_once(logits: tf.Tensor, order: tf.Tensor, count: tf.Tensor,
                  size: Sequence[Dimension],
                  rule: ResizeRule) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Does what best_in_parts does at once, which is faster; shapes depend on the count."""
  numbers = order[:count]
  full = resize_bilinear(tf.gather(logits, numbers, axis=2)[None], size, rule)[0]
  best = tf.reduce_max(full, axis=-1)
  score = 1 / tf.reduce_sum(tf.exp(full - best[..., None]), axis=-1)
  return tf.gather(numbers, tf.argmax(full, axis=-1, output_type=tf.int32)), best, score


def best_in_parts(logits: tf.Tensor, order: tf.Tensor, count: Dimension,
                  size: Sequence[Dimension],
                  rule: ResizeRule = 'aligned') -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Finds each pixel's best query among the first of the order, a few of them at a time.

  Shapes are static: only the number of steps depends on the count.

  Args:
    logits: float32 [h, w, queries].
    order: int32 [queries + a few]; see kept_first.
    count: Number of queries of the order that take part, at least 1.
    size: Height and width of the maps.
    rule: Rule by which logits are resized.

  Returns:
    The query, its logit, and its probability among these queries, each of the given size.
  """

  def step(i, query_map, best, total):
    numbers, full = _some_at_full_resolution(logits, order, i, size, rule)
    full = tf.where(i + tf.range(AT_A_TIME) < count, full, tf.float32.min)
    new_best = tf.maximum(best, tf.reduce_max(full, axis=-1))
    # The earlier of queries with equal logits is kept, as by argmax over all of them.
    query = tf.gather(numbers, tf.argmax(full, axis=-1, output_type=tf.int32))
    query_map = tf.where(new_best > best, query, query_map)
    total *= tf.exp(best - new_best)
    total += tf.reduce_sum(tf.exp(full - new_best[..., None]), axis=-1)
    return i + AT_A_TIME, query_map, new_best, total

  start = (tf.constant(0), tf.zeros(size, tf.int32), tf.fill(size, tf.float32.min),
           tf.zeros(size, tf.float32))
  _, query_map, best, total = tf.while_loop(lambda i, *_: i < count, step, start,
                                            parallel_iterations=1)
  return query_map, best, 1 / total


def _beaten_by_dropped(logits: tf.Tensor, kept: tf.Tensor, order: tf.Tensor, best: tf.Tensor,
                       size: Sequence[Dimension], rule: ResizeRule) -> tf.Tensor:
  """Returns whether a dropped query's logit exceeds the best kept one, bool of the given size.

  The interpolated maximum over dropped queries bounds each of them from above, so they are resized
  to full resolution only if that bound is not enough, and a few at a time.
  """
  low_resolution_maximum = tf.reduce_max(tf.where(kept, _DROPPED, logits), axis=-1)
  bound = resize_bilinear(low_resolution_maximum[None, ..., None], size, rule)[0, ..., 0]
  # Rounding may make the bound slightly smaller than the value that it bounds.
  slack = 1e-4 * (1 + tf.abs(best))
  unclear = tf.reduce_any(bound > best - slack)
  first = tf.math.count_nonzero(kept, dtype=tf.int32)
  # If no query is kept, no pixel is confident in any case.
  end = tf.where(unclear & (first > 0), dimensions(kept)[0], first)

  def check(i, beaten):
    # Beyond the end, a slice repeats the last dropped query.
    _, full = _some_at_full_resolution(logits, order, i, size, rule)
    return i + AT_A_TIME, beaten | (tf.reduce_max(full, axis=-1) > best)

  _, beaten = tf.while_loop(lambda i, _: i < end, check, (first, tf.zeros(size, tf.bool)),
                            parallel_iterations=1)
  return beaten


def _some_at_full_resolution(logits: tf.Tensor, order: tf.Tensor, start: tf.Tensor,
                             size: Sequence[Dimension],
                             rule: ResizeRule) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the queries of a slice of the order, and their logits [*size, AT_A_TIME]."""
  numbers = tf.slice(order, [start], [AT_A_TIME])
  return numbers, resize_bilinear(tf.gather(logits, numbers, axis=2)[None], size, rule)[0]
