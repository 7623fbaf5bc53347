"""Runs a mask model on single images and returns the outputs for the analyses."""

from typing import Mapping, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.checkpoints.restore import load_checkpoint
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module
from deeplab_tf.layers.attention_records import AssignmentRecord, recording
from deeplab_tf.layers.resizing import ResizeRule, resize_bilinear
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.postprocessing import query_maps, resize_back
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.postprocessing.query_postprocessor import QueryPostprocessor
from deeplab_tf.reports.queries import memory_attention
from deeplab_tf.reports.queries import proposals as proposals_lib
from deeplab_tf.reports.queries.proposals import Proposals
from deeplab_tf.structures import split_layers
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import DataError


class AnalyzedImage(NamedTuple):
  """Outputs of the network for one image; maps have the size of the image without padding.

  Attributes:
    image: uint8 [height, width, 3], RGB.
    panoptic_map: int32 [height, width], class id * label divisor + instance number.
    query_map: int32 [height, width], query of each pixel, or -1 if it is unlabeled.
    query_class: int32 [queries], class index of each query.
    raw: Outputs of the network in output resolution, including padding: mask_logits [h, w,
      queries] and, if the model has them, pixel_features [h, w, channels], attention [heads,
      queries, h, w] (of queries to pixels, in the last layer that has it: M2P of the last dual-path
      layer, or cross-attention), memory_share [heads, queries] (fraction of the attention to
      the memory), layer_masks, bool [predictions, h, w, queries] (the masks of each decoder
      layer, from the first prediction to the last), assignment [h', w', queries] (of pixels to
      clusters in the last clustering layer, in the resolution of attention) and reference_points
      [layers, queries, points, 2], (y, x) in [0, 1] of the padded input.
    first_prediction: Decoder layer of the first prediction; 0: before the first layer.
    padded_size: Height and width of the network's input.
    rule: Rule by which maps are resized.
    proposals: Decoder layer -> masks of all queries after it, 0 being before the first layer, for
      some layers. None if they were not asked for; empty if the network predicts masks after its
      last layer only.
  """
  image: np.ndarray
  panoptic_map: np.ndarray
  query_map: np.ndarray
  query_class: np.ndarray
  raw: dict[str, np.ndarray]
  padded_size: tuple[int, int]
  rule: ResizeRule = 'aligned'
  first_prediction: int = 0
  proposals: Optional[Mapping[int, Proposals]] = None

  def resized(self, maps: np.ndarray) -> np.ndarray:
    """Resizes maps in output resolution, [h, w, n], to the image, [height, width, n]."""
    full = resize_bilinear(tf.constant(maps[None], tf.float32), self.padded_size,
                           self.rule)[0].numpy()
    return full[:self.image.shape[0], :self.image.shape[1]]

  def cut(self, maps: np.ndarray) -> np.ndarray:
    """Removes the padding from maps in output resolution, [h, w, n]."""
    def inner(inside, own, padded):
      if self.rule == 'half_pixel':  # Row r of the map covers padded / own rows of the input.
        return -(-inside * own // padded)
      # Row r of the map is row r * (padded - 1) / (own - 1) of the input.
      return (inside - 1) * (own - 1) // max(padded - 1, 1) + 1

    rows, columns = map(inner, self.image.shape[:2], maps.shape[:2], self.padded_size)
    return maps[:rows, :columns]

  def resized_inside(self, maps: np.ndarray) -> np.ndarray:
    """Resizes maps like `resized`, but replaces values on the padding by the nearest inside."""
    cut = self.cut(maps)
    missing = [(0, maps.shape[axis] - cut.shape[axis]) for axis in (0, 1)]
    return self.resized(np.pad(cut, [*missing, (0, 0)], mode='edge'))


class AnalyzedNetwork:
  """A network for the analyses, callable from images to AnalyzedImage.

  Attributes:
    dataset_info: Description of the classes.
    num_queries: Number of queries of the model.
  """

  def __init__(self, config, checkpoint: str):
    """Builds the network of a config and loads its weights.

    Args:
      config: ExperimentOptions.
      checkpoint: Prefix of the checkpoint, or a folder, whose latest checkpoint is used.

    Raises:
      FileNotFoundError: There is no checkpoint.
      ValueError: The model has no queries, or the checkpoint belongs to another model.
    """
    architecture = models.architecture(config)
    self._masks_compete = architecture.masks_compete
    if not architecture.has_queries:
      raise DataError('the analyses are about queries and their masks, and '
                      f'{config.model_options.WhichOneof("meta_architecture")} has none; give '
                      'the config of a mask model such as max_deeplab')
    self.dataset_info = catalog.from_config(config)
    self._model = serving_module.build_network(config, self.dataset_info)
    load_checkpoint(self._model, checkpoint)
    # The analyses are about the one query of each pixel, also if the model is for another task.
    self._postprocess = architecture.build_postprocessor(config, self.dataset_info,
                                                         task=Task.PANOPTIC)
    self._rule = getattr(self._postprocess, 'rule', 'aligned')
    self._serving = serving_module.build(config, self.dataset_info, self._model,
                                         task=Task.PANOPTIC)
    options = getattr(config.model_options, config.model_options.WhichOneof('meta_architecture'))
    self.num_queries = options.num_queries
    self._run_image = tf.function(self._run, autograph=False, reduce_retracing=True)

  def __call__(self, image: np.ndarray) -> AnalyzedImage:
    """Runs the network on an image, uint8 [height, width, 3], prepared as in evaluation."""
    inputs, size = self._serving.prepare(tf.constant(image[None]))
    return self.on_prepared(inputs, size)

  def on_prepared(self, inputs: tf.Tensor, size: tf.Tensor,
                  raw_size: Optional[tf.Tensor] = None) -> AnalyzedImage:
    """Runs the network on a prepared input.

    Args:
      inputs: float32 [1, height, width, 3], normalized and padded.
      size: int [2], height and width of the image inside the padding.
      raw_size: int [2], height and width of the image's file, if proposals are wanted.
    """
    rows, columns = (int(n) for n in size)
    outputs, proposals = self._run_image(inputs, size, raw_size)
    if proposals is not None:
      proposals = tf.nest.map_structure(lambda x: x.numpy(), proposals)
    found = {name: value[0].numpy() for name, value in outputs.items()}
    panoptic_map, query_map = (
        found.pop(name)[:rows, :columns] for name in ('panoptic_map', 'query_map'))
    image = self._serving.augmentation.normalization.invert(inputs[0, :rows, :columns]).numpy()
    return AnalyzedImage(image=np.clip(np.round(image), 0, 255).astype(np.uint8),
                         panoptic_map=panoptic_map, query_map=query_map,
                         query_class=found.pop('query_class'), raw=found,
                         padded_size=tuple(inputs.shape[1:3]), rule=self._rule,
                         first_prediction=self._model.first_prediction, proposals=proposals)

  def _run(self, images, resized_size, raw_size):
    with recording() as records:
      outputs = self._model.call_all_layers(images)
    size = dimensions(images)[1:3]
    if isinstance(self._postprocess, QueryPostprocessor):
      prediction, maps = self._postprocess.with_queries(outputs, size)
      panoptic_map, query_map = prediction.panoptic_map, maps.query_map
    else:
      panoptic_map = self._postprocess(outputs, size).panoptic_map
      query_map = likely_queries(panoptic_map, outputs, self.dataset_info)
    found = {
        'panoptic_map': panoptic_map,
        'query_map': tf.where(panoptic_map == self.dataset_info.void_label, -1, query_map),
        'query_class': query_maps.classify(outputs['class_logits'])[0],
        'mask_logits': outputs['mask_logits'],
    }
    if 'pixel_features' in outputs:
      found['pixel_features'] = outputs['pixel_features']
    # Layers of CMT-DeepLab predict masks without classes.
    layers = [{'class_logits': outputs['class_logits'], **layer} for layer in split_layers(outputs)]
    if len(layers) > 1:
      found['layer_masks'] = tf.stack([self._masks(layer, outputs)[0] for layer in layers])[None]
    readings = memory_attention.readings(records)
    if readings:
      found['attention'] = readings[-1].pixel_weights()
      found['memory_share'] = readings[-1].memory_share()
    assignments = [record for record in records if isinstance(record, AssignmentRecord)]
    if assignments:
      weights = assignments[-1].weights
      found['assignment'] = tf.reshape(weights, [1, *assignments[-1].size, weights.shape[-1]])
    if 'reference_points' in outputs:
      found['reference_points'] = outputs['reference_points']
    found = {name: tf.cast(value, tf.float32) if value.dtype.is_floating else value
             for name, value in found.items()}
    proposals = None
    if raw_size is not None:
      full_size = FullSize(size, resized_size, raw_size, self._serving.augmentation.resize_rule)
      proposals = self._propose(layers, full_size.unstacked())
    return found, proposals

  def _masks(self, layer, outputs):
    """Returns the masks of a layer, bool [1, h, w, queries], in the size of the last ones."""
    logits = resize_bilinear(layer['mask_logits'], dimensions(outputs['mask_logits'])[1:3],
                             self._rule)
    if not self._masks_compete:
      return logits > 0
    return tf.one_hot(tf.argmax(logits, -1), logits.shape[-1], True, False, dtype=tf.bool)

  def _propose(self, layers, full_size: FullSize) -> dict[int, Proposals]:
    if len(layers) == 1:
      return {}
    first = self._model.first_prediction
    return {number: proposals_lib.propose(layers[number - first], full_size, self._rule,
                                          self._masks_compete)
            for number in proposals_lib.measured_layers(len(layers), first)}


def likely_queries(panoptic_map: tf.Tensor, outputs: dict[str, tf.Tensor],
                   info: DatasetInfo) -> tf.Tensor:
  """Finds the query of each pixel for post-processing that does not return it.

  It is the query with the highest mask logit among those that predict the class of the pixel, in
  the resolution of the mask logits.

  Args:
    panoptic_map: int32 [1, height, width], panoptic map.
    outputs: Dictionary with mask_logits [1, h, w, queries] and class_logits [1, queries,
      classes + 1].
    info: Description of the classes.

  Returns:
    int32 [1, height, width].
  """
  logits = outputs['mask_logits'][0]
  classes = tf.gather(tf.constant(info.class_ids, tf.int32),
                      query_maps.classify(outputs['class_logits'])[0][0])
  coarse = resize_back.resize_nearest(panoptic_map[0], dimensions(logits)[:2])
  is_of_class = (coarse // info.label_divisor)[..., None] == classes
  query_map = tf.argmax(tf.where(is_of_class, logits, logits.dtype.min), axis=-1,
                        output_type=tf.int32)
  return resize_back.resize_nearest(query_map, dimensions(panoptic_map)[1:3])[None]
