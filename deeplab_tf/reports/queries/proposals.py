"""Masks that the queries propose after decoder layers, and their recall (Mask2Former, figure 3).

Figure 3 measures the class-agnostic AR@100 of the learned queries before the first layer of the
transformer decoder and after some of its layers. A proposal is the mask of one query, whatever its
class, and a thing of the ground truth is found by a proposal of sufficient IoU. The paper does not
tell how proposals are ranked, which matters if a model has more than 100 queries: here by the score
of Mask2Former's instances, the probability of the best class times the mean mask probability.
"""

from typing import Any, Mapping, NamedTuple, Sequence, Union

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf import mask_values
from deeplab_tf.formats import instance_masks
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.metrics import instance_matching
from deeplab_tf.metrics.instance_average_precision import InstanceAveragePrecision
from deeplab_tf.postprocessing import bands, query_maps
from deeplab_tf.postprocessing.full_size import FullSize, resizing_matrices

# Number of predictions of figure 3: before the first layer and after layers 3, 6 and 9.
_MEASURED = 4
# The category of all proposals and things.
_ANY = 0
_MOST_THINGS = 4
# Larger examples are shown at a fraction of their size.
_LARGEST_SIDE = 1000


class Proposals(NamedTuple):
  """Masks of all queries at the size of the image file; they may overlap.

  Attributes:
    bits: uint8 [height, width, ceil(queries / 8)], in the form of InstanceLabel.mask_bits.
    scores: float32 [queries] in [0, 1], probability of the best class times mean mask probability
      inside the mask.
  """
  bits: Union[tf.Tensor, np.ndarray]
  scores: Union[tf.Tensor, np.ndarray]

  def detections(self) -> list[dict[str, Any]]:
    """Returns the proposals in the form of COCO's results, all of one category."""
    masks = instance_masks.from_bits(self.bits, len(self.scores))
    return [{'category_id': _ANY, 'score': float(score), 'segmentation': mask}
            for mask, score in zip(masks, self.scores)]

  def mask(self, query: int) -> np.ndarray:
    """Returns the mask of a query, bool [height, width]."""
    return self.bits[..., query // 8] >> query % 8 & 1 > 0


def measured_layers(predictions: int, first: int = 0) -> list[int]:
  """Returns the decoder layers that are measured: of nine layers 0, 3, 6 and 9.

  Args:
    predictions: Number of predictions of the network.
    first: Layer of the first prediction: 0 if it is that of the learned queries before the first
      layer, else 1.
  """
  layers = np.rint(np.linspace(0, first + predictions - 1, _MEASURED)).astype(int)
  return np.unique(layers[layers >= first]).tolist()


def propose(outputs: Mapping[str, tf.Tensor], full_size: FullSize, rule: ResizeRule,
            masks_compete: bool = False) -> Proposals:
  """Makes the proposals of one image, with a few rows of the masks in float32 at a time.

  Args:
    outputs: `mask_logits` [1, h, w, queries] and `class_logits` [1, queries, classes + 1] of a
      decoder layer.
    full_size: Sizes of the image.
    rule: Rule of the network, by which mask logits are resized to its input.
    masks_compete: Whether mask probabilities are a softmax over the queries, or a sigmoid of each
      query.
  """
  logits = tf.cast(outputs['mask_logits'][0], tf.float32)

  def read_band(band, is_inside):
    probabilities = tf.nn.softmax(band) if masks_compete else tf.sigmoid(band)
    masks = (probabilities > 0.5 if masks_compete else band > 0) & is_inside
    return (mask_values.pack(masks),
            tf.reduce_sum(tf.where(masks, probabilities, 0.0), [0, 1]),
            tf.reduce_sum(tf.cast(masks, tf.float32), [0, 1]))

  rows, columns = resizing_matrices(dimensions(logits)[:2], full_size, rule)
  bits, sums, areas = bands.in_bands(logits, rows, columns, read_band,
                                     (tf.uint8, tf.float32, tf.float32))
  quality = tf.reduce_sum(sums, 0) / tf.maximum(tf.reduce_sum(areas, 0), 1.0)
  _, probability = query_maps.classify(outputs['class_logits'])
  return Proposals(bands.join(bits, dimensions(rows)[0]), probability[0] * quality)


class Match(NamedTuple):
  """The proposal that fits a thing best.

  Attributes:
    query: Query.
    iou: Intersection over union with the thing, in [0, 1].
    mask: bool [height, width].
  """
  query: int
  iou: float
  mask: np.ndarray


class Example(NamedTuple):
  """The largest things of an image, and the best proposals for them.

  Attributes:
    name: File name without extension.
    image: uint8 [height, width, 3], RGB.
    class_ids: Class ids of the things.
    masks: Masks of the things, bool [height, width] each.
    matches: Decoder layer -> Match of each thing.
  """
  name: str
  image: np.ndarray
  class_ids: list[int]
  masks: list[np.ndarray]
  matches: dict[int, list[Match]]


class ProposalSurvey:
  """Recall of proposals over images, and example images.

  Attributes:
    recall: Decoder layer -> metric with a single category, whose AR100 is that of figure 3.
    examples: The first images with things.
  """

  def __init__(self, num_examples: int):
    """Starts without images.

    Args:
      num_examples: Number of example images.
    """
    self.recall: dict[int, InstanceAveragePrecision] = {}
    self.examples: list[Example] = []
    self._num_examples = num_examples
    self._images = 0

  def update(self, name: str, image: np.ndarray, proposals: Mapping[int, Proposals],
             ground_truth: Sequence[Mapping[str, Any]]) -> None:
    """Adds an image.

    Args:
      name: File name without extension.
      image: uint8 [h, w, 3], RGB, of any size.
      proposals: Decoder layer -> proposals of the image.
      ground_truth: Annotations of the things; see label_maps.annotations.
    """
    found = {layer: each.detections() for layer, each in proposals.items()}
    for layer, detections in found.items():
      metric = self.recall.setdefault(layer, InstanceAveragePrecision((_ANY,)))
      metric.update(self._images, proposals[layer].bits.shape[:2],
                    [{**thing, 'category_id': _ANY} for thing in ground_truth], detections)
    self._images += 1
    largest = sorted((thing for thing in ground_truth if not thing['iscrowd']),
                     key=lambda thing: -thing['area'])[:_MOST_THINGS]
    if proposals and largest and len(self.examples) < self._num_examples:
      self.examples.append(_example(name, image, proposals, found, largest))

  def results(self) -> dict[int, dict[str, Any]]:
    """Returns for each layer COCO's scores; see InstanceAveragePrecision.result."""
    return {layer: metric.result() for layer, metric in self.recall.items()}


def _example(name: str, image: np.ndarray, proposals: Mapping[int, Proposals],
             detections: Mapping[int, Sequence[dict]], ground_truth: Sequence[dict]) -> Example:
  masks = [thing['segmentation'] for thing in ground_truth]
  height, width = masks[0]['size']
  step = -(-max(height, width) // _LARGEST_SIDE)
  matches = {}
  for layer, found in detections.items():
    ious = instance_matching.ious([each['segmentation'] for each in found], masks,
                                  [False] * len(masks))
    matches[layer] = [Match(query, float(ious[query, i]),
                            proposals[layer].mask(query)[::step, ::step])
                      for i, query in enumerate(ious.argmax(axis=0).tolist())]
  from pycocotools import mask as mask_lib
  shown = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
  return Example(name, np.asarray(shown)[::step, ::step],
                 [thing['class_id'] for thing in ground_truth],
                 [mask_lib.decode(mask)[::step, ::step] > 0 for mask in masks], matches)
