"""Which query each pixel belongs to: the two argmaxes of MaX-DeepLab."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions

_DROPPED = -99999.0
# Dropped queries at full resolution at once: fewer are slow, more need memory.
_AT_A_TIME = 16


class QueryMaps(NamedTuple):
  """Pixels and queries of a batch before small regions are removed.

  Attributes:
    query_map: int32 [batch, height, width], the query of each pixel.
    pixel_score: float32 [batch, height, width], its probability at the pixel.
    confident: bool [batch, height, width], whether the pixel is not void.
    query_class: int32 [batch, queries], index of the best class, "no object" excluded.
    query_score: float32 [batch, queries], its probability.
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
  """Returns the best class of each query without "no object", and its probability."""
  probabilities = tf.nn.softmax(tf.cast(class_logits, tf.float32))[..., :-1]
  return (tf.argmax(probabilities, axis=-1, output_type=tf.int32),
          tf.reduce_max(probabilities, axis=-1))


def pixelwise(mask_logits: tf.Tensor, class_logits: tf.Tensor,
              output_size: Sequence[Dimension], class_threshold: float,
              pixel_threshold: float) -> QueryMaps:
  """Assigns each pixel to the kept query of the highest mask logit (equations 3 and 4).

  A pixel is confident if that query's probability among the kept ones is above the threshold
  and no dropped query has a higher logit. Images are read out one after the other, each with
  only the queries that it keeps at full resolution.

  Args:
    mask_logits: [batch, h, w, queries].
    class_logits: [batch, queries, classes + 1].
    output_size: Height and width of the maps.
    class_threshold: Queries of a lower class probability are dropped.
    pixel_threshold: Pixels of at most this probability are not confident.
  """
  query_class, query_score = classify(class_logits)
  kept = query_score >= class_threshold
  height, width = output_size

  def one_image(arguments):
    logits, kept_queries = arguments
    return _read_image(logits, kept_queries, (height, width), pixel_threshold)

  static = [n if isinstance(n, int) else None for n in (height, width)]
  signature = (tf.TensorSpec(static, tf.int32), tf.TensorSpec(static, tf.float32),
               tf.TensorSpec(static, tf.bool))
  query_map, pixel_score, confident = tf.map_fn(
      one_image, (tf.cast(mask_logits, tf.float32), kept), fn_output_signature=signature,
      parallel_iterations=1)
  batch, queries = dimensions(query_class)
  numbers = tf.tile(tf.range(1, queries + 1)[None], [batch, 1])
  return QueryMaps(query_map, pixel_score, confident, query_class, query_score, numbers, kept)


def _read_image(logits: tf.Tensor, kept: tf.Tensor, size: Sequence[Dimension],
                pixel_threshold: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Reads out one image; logits [h, w, queries], kept bool [queries]."""
  numbers = tf.cast(tf.where(kept)[:, 0], tf.int32)

  def some_kept():
    full = resize_bilinear(tf.gather(logits, numbers, axis=2)[None], size)[0]
    best = tf.reduce_max(full, axis=-1)
    score = 1 / tf.reduce_sum(tf.exp(full - best[..., None]), axis=-1)
    query_map = tf.gather(numbers, tf.argmax(full, axis=-1, output_type=tf.int32))
    beaten = _beaten_by_dropped(logits, kept, best, size)
    return query_map, score, (score > pixel_threshold) & ~beaten

  def none_kept():
    # As in DeepLab2: everything belongs to the first query and nothing is confident.
    return (tf.zeros(size, tf.int32), tf.zeros(size, tf.float32),
            tf.zeros(size, tf.bool))

  return tf.cond(tf.size(numbers) > 0, some_kept, none_kept)


def _beaten_by_dropped(logits: tf.Tensor, kept: tf.Tensor, best: tf.Tensor,
                       size: Sequence[Dimension]) -> tf.Tensor:
  """Whether a dropped query's logit exceeds the best kept one, bool of the given size.

  The interpolated maximum over dropped queries bounds each of them from above, so queries are
  brought to full resolution only where that bound is not enough, and a few at a time.
  """
  dropped = tf.cast(tf.where(~kept)[:, 0], tf.int32)
  low_resolution_maximum = tf.reduce_max(tf.where(kept, _DROPPED, logits), axis=-1)
  bound = resize_bilinear(low_resolution_maximum[None, ..., None], size)[0, ..., 0]
  # Rounding may put the bound a little below the value that it bounds.
  slack = 1e-4 * (1 + tf.abs(best))
  unclear = bound > best - slack

  def check(i, beaten):
    some = tf.gather(logits, dropped[i:i + _AT_A_TIME], axis=2)
    full = resize_bilinear(some[None], size)[0]
    beaten = beaten | (tf.reduce_max(full, axis=-1) > best)
    beaten.set_shape(best.shape)
    return i + _AT_A_TIME, beaten

  def check_all():
    start = (tf.constant(0), tf.zeros_like(best, tf.bool))
    _, beaten = tf.while_loop(lambda i, _: i < tf.size(dropped), check, start,
                              parallel_iterations=1)
    return beaten

  return tf.cond(tf.reduce_any(unclear), check_all, lambda: tf.zeros_like(best, tf.bool))
