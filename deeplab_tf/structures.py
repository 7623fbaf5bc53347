"""Containers passed between data, models, losses and evaluation, with shapes and dtypes.

They are NamedTuples, which tf.data, tf.function and strategy.run support. A class id is a
contiguous id of the data set. A class index is the position among the ascending class ids without
the ignored one, which is the channel of `class_logits`. A panoptic map has the values class id *
label divisor + instance number. Instance number 0 of a thing class marks a crowd region, and the
ignore label times the divisor is unlabeled (void).
"""

import re
from typing import NamedTuple, Sequence, Union

import tensorflow as tf

# Matches the name of an output of a decoder layer before the last, and the number of that layer.
_NUMBERED = re.compile(r'(.+)_(\d+)')


class InstanceLabel(NamedTuple):
  """Annotated instances of one image, whose masks may overlap.

  Attributes:
    mask_bits: uint8 [height, width, ceil(instances / 8)]; bit m % 8 of entry m // 8 (bit 0 is the
      least significant) tells whether the pixel belongs to instance m. Such a map can be resized,
      cropped and flipped like a label map; see deeplab_tf.mask_values.
    class_ids: int32 [instances], -1 in unused rows.
    is_crowd: bool [instances], whether the mask stands for several instances.
    areas: float32 [instances], areas in pixels as annotated, which decide whether an instance is
      small, medium or large in average precision. They may differ from the number of pixels.
  """
  mask_bits: tf.Tensor
  class_ids: tf.Tensor
  is_crowd: tf.Tensor
  areas: tf.Tensor


class LabeledImage(NamedTuple):
  """One decoded image of a data source, without a batch dimension.

  Attributes:
    image: uint8 [height, width, 3], RGB.
    label: int32 [height, width], panoptic map (crowd regions have instance number 0); or an
      InstanceLabel, for data sets whose masks may overlap; or int32 [], class index, for data sets
      with one class per image.
    name: string [], the file name without extension.
  """
  image: tf.Tensor
  label: Union[tf.Tensor, InstanceLabel]
  name: tf.Tensor


class MaskTargets(NamedTuple):
  """Targets of a mask model (MaX-DeepLab, CMT-DeepLab, Mask2Former).

  Attributes:
    semantic_map: int32 [batch, height, width], class ids; the ignore label on unlabeled pixels.
    semantic_weights: float32 [batch, height, width], weight of the semantic loss.
    mask_ids: int32 [batch, height, width], the row of `mask_classes` that a pixel belongs to;
      -1 on unlabeled and crowd pixels.
    mask_classes: int32 [batch, masks], class index of each ground-truth mask, -1 in unused rows.
      A row with a class but without pixels is not a mask, unless the data keep empty masks
      (DatasetOptions.keep_empty_masks).
    mask_isthing: bool [batch, masks], whether the row is a thing instance.
  """
  semantic_map: tf.Tensor
  semantic_weights: tf.Tensor
  mask_ids: tf.Tensor
  mask_classes: tf.Tensor
  mask_isthing: tf.Tensor


class OverlappingMaskTargets(NamedTuple):
  """Targets of a mask model whose masks may overlap, as the instances of COCO do.

  A pixel has one bit per mask, so that a map of these bits can be resized, cropped and flipped
  like a label map; see deeplab_tf.mask_values.

  Attributes:
    mask_bits: uint8 [batch, height, width, ceil(masks / 8)]; bit m % 8 of entry m // 8 (bit 0 is
      the least significant) tells whether the pixel belongs to row m of `mask_classes`.
    mask_classes: int32 [batch, masks], class index of each ground-truth mask, -1 in unused rows.
      A row with a class but without pixels is not a mask.
  """
  mask_bits: tf.Tensor
  mask_classes: tf.Tensor


class CenterTargets(NamedTuple):
  """Targets of a center model (Panoptic-DeepLab, Axial-DeepLab).

  Attributes:
    semantic_map: int32 [batch, height, width], class ids; the ignore label on unlabeled pixels.
    semantic_weights: float32 [batch, height, width], weight of the semantic loss.
    center_heatmap: float32 [batch, height, width, 1] in [0, 1], Gaussians at centers.
    center_weights: float32 [batch, height, width], 0 on crowd and unlabeled pixels.
    center_offsets: float32 [batch, height, width, 2], (y, x) from pixel to center, in pixels.
    offset_weights: float32 [batch, height, width], 1 on thing instances.
  """
  semantic_map: tf.Tensor
  semantic_weights: tf.Tensor
  center_heatmap: tf.Tensor
  center_weights: tf.Tensor
  center_offsets: tf.Tensor
  offset_weights: tf.Tensor


class ClassTargets(NamedTuple):
  """Targets of an image classifier.

  Attributes:
    class_index: int32 [batch], class indices from 0 on.
  """
  class_index: tf.Tensor


class ClassEvaluationBatch(NamedTuple):
  """A batch of evaluation images with their classes.

  Attributes:
    images: float32 [batch, crop height, crop width, 3], normalized.
    class_index: int32 [batch], class indices from 0 on.
    name: string [batch], file names without extension.
  """
  images: tf.Tensor
  class_index: tf.Tensor
  name: tf.Tensor


class ClassPrediction(NamedTuple):
  """The most probable classes of images.

  Attributes:
    class_index: int32 [batch, k], the most probable first; k is 5, or all classes if fewer.
    score: float32 [batch, k], probabilities of these classes.
  """
  class_index: tf.Tensor
  score: tf.Tensor


class EvaluationBatch(NamedTuple):
  """A batch of evaluation images, with labels at the original size of the images.

  Attributes:
    images: float32 [batch, height, width, 3], resized, normalized and padded: to the crop size or,
      where the config has none, to the largest image of the batch.
    resized_size: int32 [batch, 2], height and width of the image inside the padding.
    raw_size: int32 [batch, 2], height and width of the original image.
    label: int32 [batch, max raw height, max raw width], panoptic map, padded with void; or a batch
      of InstanceLabel, padded with instances of class id -1.
    name: string [batch], file names without extension.
  """
  images: tf.Tensor
  resized_size: tf.Tensor
  raw_size: tf.Tensor
  label: Union[tf.Tensor, InstanceLabel]
  name: tf.Tensor


class PanopticPrediction(NamedTuple):
  """A batch of panoptic segmentations.

  Attributes:
    panoptic_map: int32 [batch, height, width], panoptic labels.
    semantic_map: int32 [batch, height, width], class ids.
    instance_map: int32 [batch, height, width], instance numbers; 0 for stuff and void.
    segment_ids: int32 [batch, segments], values of panoptic_map, padded with -1.
    segment_classes: int32 [batch, segments], class ids, padded with -1.
    segment_scores: float32 [batch, segments] in [0, 1], padded with -1.
  """
  panoptic_map: tf.Tensor
  semantic_map: tf.Tensor
  instance_map: tf.Tensor
  segment_ids: tf.Tensor
  segment_classes: tf.Tensor
  segment_scores: tf.Tensor


class InstancePrediction(NamedTuple):
  """A batch of instance segmentations; masks may overlap.

  Attributes:
    instance_masks: uint8 [batch, instances, height, width], 1 inside the mask; 0 in unused rows.
    instance_boxes: float32 [batch, instances, 4], (y1, x1, y2, x2) in pixels, the boxes around the
      masks; (y2, x2) is the corner behind the last pixel. Zeros for empty masks.
    instance_classes: int32 [batch, instances], class ids, padded with -1.
    instance_scores: float32 [batch, instances] in [0, 1], padded with -1.
  """
  instance_masks: tf.Tensor
  instance_boxes: tf.Tensor
  instance_classes: tf.Tensor
  instance_scores: tf.Tensor


class SemanticPrediction(NamedTuple):
  """A batch of semantic segmentations.

  Attributes:
    semantic_map: int32 [batch, height, width], class ids.
  """
  semantic_map: tf.Tensor


class ScoredSemanticPrediction(NamedTuple):
  """A batch of semantic segmentations with the scores of all classes.

  Attributes:
    semantic_map: int32 [batch, height, width], class ids.
    semantic_scores: float32 [batch, height, width, classes], scores in the order of the ascending
      class ids; the class with the highest one is that of the map. They do not sum to 1.
  """
  semantic_map: tf.Tensor
  semantic_scores: tf.Tensor


class QueryOutputs(NamedTuple):
  """Per-query raw outputs of a mask model.

  Where predictions are averaged over several passes, each field is a tuple with an entry per pass.

  Attributes:
    class_logits: float32 [batch, queries, classes + 1]; "no object" is the last class.
    mask_logits: float32 [batch, h, w, queries].
  """
  class_logits: tf.Tensor
  mask_logits: tf.Tensor


class ScoredPrediction(NamedTuple):
  """A prediction with the outputs that extra scores are computed from.

  Attributes:
    panoptic: PanopticPrediction.
    queries: QueryOutputs.
  """
  panoptic: PanopticPrediction
  queries: QueryOutputs


def split_layers(outputs: dict[str, tf.Tensor]) -> list[dict[str, tf.Tensor]]:
  """Groups the outputs of a network by decoder layer.

  In training a mask model may also return the outputs of the decoder layers before the last:
  `mask_logits_0`, `class_logits_0`, ..., where 0 is the first layer.

  Args:
    outputs: Name -> tensor.

  Returns:
    For each layer, from first to last, name without the number -> tensor. The last layer has all
    outputs without a number, also those that exist only once, such as `semantic_logits`.

  Raises:
    ValueError: A number is left out, or the layers before the last do not have the same outputs,
      or the last layer lacks one of them.
  """
  last, numbered = {}, {}
  for name, tensor in outputs.items():
    match = _NUMBERED.fullmatch(name)
    layer = numbered.setdefault(int(match[2]), {}) if match else last
    layer[match[1] if match else name] = tensor
  layers = [numbered[i] for i in sorted(numbered)]
  names = set().union(*layers)
  if sorted(numbered) != list(range(len(layers))) or not names <= set(last) or any(
      set(layer) != names for layer in layers):
    raise ValueError(f'the decoder layers have different outputs: {", ".join(sorted(outputs))}')
  return [*layers, last]


def join_layers(layers: Sequence[dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
  """Names the outputs of all decoder layers as a network returns them; see `split_layers`.

  Args:
    layers: Name -> tensor for each layer, from first to last.

  Returns:
    Name -> tensor, those of the last layer first and without a number.
  """
  outputs = dict(layers[-1])
  for i, layer in enumerate(layers[:-1]):
    outputs.update({f'{name}_{i}': tensor for name, tensor in layer.items()})
  return outputs
