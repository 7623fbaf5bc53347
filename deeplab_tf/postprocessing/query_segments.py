"""Turns an assignment of pixels to queries into a panoptic map with its list of segments."""

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.postprocessing.query_maps import QueryMaps
from deeplab_tf.structures import PanopticPrediction


def panoptic_prediction(maps: QueryMaps, query_score: tf.Tensor, classes: DatasetInfo,
                        thing_area_limit: int = 0,
                        stuff_area_limit: int = 0) -> PanopticPrediction:
  """Paints the confident pixels of each query; queries of the same stuff class are one segment.

  Args:
    maps: Assignment of pixels to queries.
    query_score: float32 [batch, queries], scores of the queries' segments.
    classes: The data set's classes.
    thing_area_limit: Things of fewer pixels become void.
    stuff_area_limit: Stuff regions of fewer pixels become void.
  """
  ids = _segment_ids(maps, classes, thing_area_limit, stuff_area_limit)
  batch, height, width = dimensions(maps.query_map)
  painted = tf.gather(ids, tf.reshape(maps.query_map, [batch, -1]), batch_dims=1)
  painted = tf.reshape(painted, [batch, height, width])
  panoptic_map = tf.where(maps.confident, painted, classes.void_label)
  return _prediction(panoptic_map, ids, tf.where(maps.kept, query_score, -1.0), classes)


def _segment_ids(maps: QueryMaps, classes: DatasetInfo, thing_area_limit: int,
                 stuff_area_limit: int) -> tf.Tensor:
  """Returns the panoptic label of each query's pixels, int32 [batch, queries].

  It is void for queries without confident pixels and for those of small regions.
  """
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
  large = tf.where(is_thing, areas >= max(1, thing_area_limit),
                   stuff_areas >= max(1, stuff_area_limit))
  class_ids = tf.gather(tf.constant(classes.class_ids, tf.int32), maps.query_class)
  ids = class_ids * classes.label_divisor + tf.where(is_thing, maps.query_instance, 0)
  return tf.where(large, ids, classes.void_label)


def _prediction(panoptic_map: tf.Tensor, ids: tf.Tensor, score: tf.Tensor,
                classes: DatasetInfo) -> PanopticPrediction:
  """Returns the prediction with its list of segments, one per thing and one per stuff class."""
  divisor, void = classes.label_divisor, classes.void_label
  # Among queries of the same stuff class, the one of the highest score represents the segment.
  same = ids[:, :, None] == ids[:, None, :]
  numbers = tf.range(dimensions(ids)[1])
  better = (score[:, None, :] > score[:, :, None]) | (
      (score[:, None, :] == score[:, :, None]) & (numbers[None, None] < numbers[None, :, None]))
  listed = (ids != void) & ~tf.reduce_any(same & better, axis=2)
  return PanopticPrediction(
      panoptic_map=panoptic_map,
      semantic_map=panoptic_map // divisor,
      instance_map=tf.where(panoptic_map == void, 0, panoptic_map % divisor),
      segment_ids=tf.where(listed, ids, -1),
      segment_classes=tf.where(listed, ids // divisor, -1),
      segment_scores=tf.where(listed, score, -1.0))
