"""Turns the outputs of Panoptic-DeepLab and Axial-DeepLab into panoptic maps (section 3.2).

Pixels of thing classes are assigned to the center nearest to the point that their offset leads to.
Each group of pixels has the class of most of them, and stuff comes from the semantic map. This is
DeepLab2's merge in TensorFlow ops. All shapes are static.
"""

from typing import NamedTuple, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.resizing import resize_bilinear, resize_offsets
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing import centers as centers_lib
from deeplab_tf.structures import PanopticPrediction


class PostprocessingOptions(NamedTuple):
  """Options of the post-processing.

  Attributes:
    center_threshold: Centers whose heatmap value is at most this are dropped; at least 0.
    nms_kernel: Side of the square in which a center must be the highest pixel, in pixels.
    keep_centers: Maximum number of centers of an image.
    thing_area_limit: Things of fewer pixels become void.
    stuff_area_limit: Stuff regions of fewer pixels become void.
  """
  center_threshold: float = 0.1
  nms_kernel: int = 3
  keep_centers: int = 400
  thing_area_limit: int = 0
  stuff_area_limit: int = 0


class CenterMaps(NamedTuple):
  """The centers of a batch and their pixels.

  Attributes:
    center_map: int32 [batch, height, width], number of the center, from 1; 0 for none.
    center_scores: float32 [batch, keep_centers], heatmap values of the centers; 0 in unused rows.
  """
  center_map: tf.Tensor
  center_scores: tf.Tensor


class _Groups(NamedTuple):
  """Groups of pixels of an image: one per center, one per region class, and void last.

  Attributes:
    group_map: int32 [height, width], the group of each pixel.
    class_ids: int32 [groups], class ids of the groups.
    ids: int32 [groups], values in the panoptic map; void for groups that are left out.
    areas: int32 [groups], numbers of pixels.
  """
  group_map: tf.Tensor
  class_ids: tf.Tensor
  ids: tf.Tensor
  areas: tf.Tensor


class PanopticDeepLabPostprocessor:
  """Callable from raw outputs to a PanopticPrediction."""

  def __init__(self, dataset_info, options: PostprocessingOptions):
    """Initializes the post-processing.

    Args:
      dataset_info: The classes.
      options: Thresholds and limits.
    """
    self.info = dataset_info
    self.options = options

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> PanopticPrediction:
    """Post-processes a batch.

    The semantic map of the result is that of the semantic branch. The panoptic map differs from it
    where segments are void, and where things have the class of most of their pixels.

    Args:
      outputs: `semantic_logits` [batch, h, w, number of classes]; and `center_heatmap` [batch, h,
        w, 1] and `center_offsets` [batch, h, w, 2], unless there is no instance branch, in which
        case each thing class is one segment.
      output_size: Height and width of the maps: the network's input size.
    """
    return self.with_centers(outputs, output_size)[0]

  def with_centers(self, outputs: dict[str, tf.Tensor],
                   output_size: Sequence[Dimension]) -> tuple[PanopticPrediction, CenterMaps]:
    """Post-processes a batch, and returns its centers as well.

    Images are processed one at a time, so that only one is at full resolution.
    """
    height, width = output_size
    has_centers = 'center_heatmap' in outputs and self.info.thing_class_ids
    keep = self.options.keep_centers if has_centers else 0
    static = [n if isinstance(n, int) else None for n in (height, width)]
    segments = keep + len(self._region_classes(keep))
    maps = tf.TensorSpec(static, tf.int32)
    lists = [tf.TensorSpec([segments], dtype) for dtype in (tf.int32, tf.int32, tf.float32)]
    names = ('semantic_logits', *(('center_heatmap', 'center_offsets') if keep else ()))
    given = {name: tf.cast(outputs[name], tf.float32) for name in names}
    return tf.map_fn(
        lambda image: self._read_image(image, (height, width)), given, parallel_iterations=1,
        fn_output_signature=(PanopticPrediction(maps, maps, maps, *lists),
                             CenterMaps(maps, tf.TensorSpec([keep], tf.float32))))

  def _read_image(self, outputs: dict[str, tf.Tensor],
                  size: Sequence[Dimension]) -> tuple[PanopticPrediction, CenterMaps]:
    """Post-processes one image; outputs are [h, w, channels]."""
    logits = resize_bilinear(outputs['semantic_logits'][None], size)[0]
    semantic = tf.argmax(logits, axis=-1, output_type=tf.int32)
    scores, center_map = tf.zeros([0]), tf.zeros_like(semantic)
    if 'center_heatmap' in outputs:
      scores, center_map = self._find_things(outputs, semantic, size)
    groups = self._form_groups(semantic, center_map, scores.shape[0])
    panoptic = tf.gather(groups.ids, groups.group_map)
    # The last group is void.
    ids, class_ids = groups.ids[:-1], groups.class_ids[:-1]
    heat = tf.concat([scores, tf.ones([ids.shape[0] - scores.shape[0]])], axis=0)
    segment_scores = tf.minimum(_mean_probabilities(logits, semantic, groups)[:-1] * heat, 1.0)
    listed = tf.not_equal(ids, self.info.void_label)
    prediction = PanopticPrediction(
        panoptic_map=panoptic, semantic_map=semantic,
        instance_map=tf.where(tf.equal(panoptic, self.info.void_label), 0,
                              panoptic % self.info.label_divisor),
        segment_ids=tf.where(listed, ids, -1),
        segment_classes=tf.where(listed, class_ids, -1),
        segment_scores=tf.where(listed, segment_scores, -1.0))
    return prediction, CenterMaps(center_map, scores)

  def _find_things(self, outputs, semantic, size):
    """Returns the scores of the centers, and the number of each thing pixel's center."""
    options = self.options
    heatmap = resize_bilinear(outputs['center_heatmap'][None], size)[0, ..., 0]
    centers = centers_lib.find_centers(heatmap, options.center_threshold, options.nms_kernel,
                                       options.keep_centers)
    offsets = resize_offsets(outputs['center_offsets'][None], size)[0]
    nearest = centers_lib.nearest_center(centers, offsets)
    # The first row is in use if any is.
    on_thing = tf.gather(self._positions(self.info.thing_class_ids), semantic) >= 0
    on_thing &= centers.scores[0] > 0
    return centers.scores, tf.where(on_thing, nearest + 1, 0)

  def _form_groups(self, semantic: tf.Tensor, center_map: tf.Tensor, keep: int) -> _Groups:
    """Returns the groups of an image from its semantic map and its centers."""
    info, options = self.info, self.options
    regions = self._region_classes(keep)
    region = tf.gather(self._positions(regions), semantic)
    region = keep + tf.where(region < 0, len(regions), region)
    group_map = tf.where(center_map > 0, center_map - 1, region)
    flat = tf.reshape(group_map, [-1])
    areas = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, keep + len(regions) + 1)

    is_thing = np.isin(regions, info.thing_class_ids)
    smallest = np.where(is_thing, options.thing_area_limit, options.stuff_area_limit)
    large = areas[keep:-1] >= np.maximum(smallest, 1).astype(np.int32)
    class_ids = tf.constant(regions, tf.int32)
    ids = class_ids * info.label_divisor + is_thing.astype(np.int32)
    ids = tf.where(large, ids, info.void_label)
    if keep:
      thing_classes, thing_ids = self._name_things(semantic, flat, areas[:keep], keep)
      class_ids = tf.concat([thing_classes, class_ids], axis=0)
      ids = tf.concat([thing_ids, ids], axis=0)
    return _Groups(group_map, tf.concat([class_ids, [info.ignore_label]], axis=0),
                   tf.concat([ids, [info.void_label]], axis=0), areas)

  def _name_things(self, semantic, group, areas, keep):
    """Returns classes and panoptic ids of the centers' groups, int32 [keep] each.

    The class is that of most pixels, or the lowest of several. Things of a class are numbered from
    1 in the order of their first pixels.
    """
    info = self.info
    things, divisor = info.thing_class_ids, info.label_divisor
    in_group = group < keep
    ballot = group * len(things) + tf.gather(self._positions(things), tf.reshape(semantic, [-1]))
    ballot = tf.where(in_group, ballot, keep * len(things))
    votes = tf.math.unsorted_segment_sum(tf.ones_like(group), ballot, keep * len(things) + 1)
    votes = tf.reshape(votes[:-1], [keep, len(things)])
    class_ids = tf.gather(tf.constant(things, tf.int32), tf.argmax(votes, axis=1))

    kept = areas >= max(1, self.options.thing_area_limit)
    pixel = tf.range(dimensions(group)[0])
    first = tf.math.unsorted_segment_min(pixel, tf.minimum(group, keep), keep + 1)[:keep]
    earlier = (first[None] < first[:, None]) & kept[None]
    earlier &= tf.equal(class_ids[None], class_ids[:, None])
    number = 1 + tf.math.count_nonzero(earlier, axis=1, dtype=tf.int32)
    # A number of label_divisor or more would be a label of the next class.
    kept &= number < divisor
    return class_ids, tf.where(kept, class_ids * divisor + number, info.void_label)

  def _region_classes(self, keep: int) -> tuple[int, ...]:
    """Returns the classes that are one segment each: stuff, or all classes without centers."""
    return self.info.stuff_class_ids if keep else self.info.class_ids

  def _positions(self, class_ids: Sequence[int]) -> tf.Tensor:
    """Returns for each channel of semantic_logits its position among the class ids, or -1."""
    table = np.full(max(self.info.num_classes, max(self.info.class_ids) + 1), -1, np.int32)
    table[list(class_ids)] = np.arange(len(class_ids))
    return tf.constant(table)


def _mean_probabilities(logits: tf.Tensor, semantic: tf.Tensor, groups: _Groups) -> tf.Tensor:
  """Returns the mean probability of each group's class over its pixels, float32 [groups]."""
  void = dimensions(groups.ids)[0] - 1
  class_map = tf.gather(groups.class_ids, groups.group_map)
  # Not every data set has a channel for void.
  class_map = tf.where(tf.equal(groups.group_map, void), semantic, class_map)
  own = tf.gather(logits, class_map, batch_dims=2)
  probability = tf.exp(own - tf.reduce_logsumexp(logits, axis=-1))
  total = tf.math.unsorted_segment_sum(tf.reshape(probability, [-1]),
                                       tf.reshape(groups.group_map, [-1]), void + 1)
  return total / tf.cast(tf.maximum(groups.areas, 1), tf.float32)


def build(evaluator_options, dataset_info) -> PanopticDeepLabPostprocessor:
  """Builds the post-processing that EvaluatorOptions describe."""
  return PanopticDeepLabPostprocessor(dataset_info, PostprocessingOptions(
      center_threshold=evaluator_options.center_score_threshold,
      nms_kernel=evaluator_options.nms_kernel,
      keep_centers=evaluator_options.keep_k_centers,
      thing_area_limit=evaluator_options.thing_area_limit,
      stuff_area_limit=evaluator_options.stuff_area_limit))
