"""Results of segmenting one image, for the three tasks."""

import functools
from typing import Any, Mapping, NamedTuple, Optional, Union

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.visualization import draw, instances


class Segment(NamedTuple):
  """One segment of an image.

  Attributes:
    id: Value of the segment in the panoptic map.
    class_id: Contiguous class id.
    category_id: Category id of the data set.
    isthing: Whether the class is a thing class.
    score: Confidence, in [0, 1].
    area: Number of pixels.
  """
  id: int
  class_id: int
  category_id: int
  isthing: bool
  score: float
  area: int


class Instance(NamedTuple):
  """One instance of an image.

  Attributes:
    class_id: Contiguous class id.
    category_id: Category id of the data set.
    score: Confidence, in [0, 1].
    box: (y1, x1, y2, x2) in pixels around the mask; (y2, x2) is the corner behind the last pixel.
    mask: bool [height, width].
  """
  class_id: int
  category_id: int
  score: float
  box: tuple[float, float, float, float]
  mask: np.ndarray

  @property
  def area(self) -> int:
    """Number of pixels."""
    return int(np.count_nonzero(self.mask))


class PanopticResult:
  """A panoptic segmentation of an image.

  Attributes:
    image: uint8 [height, width, 3], the input.
    panoptic_map: int32 [height, width], class id * label divisor + instance number.
    segments: List of Segment, the largest first.
    dataset_info: The classes.
  """

  def __init__(self, image: np.ndarray, outputs: Mapping[str, np.ndarray],
               dataset_info: DatasetInfo):
    """Initializes the result from the fields of a structures.PanopticPrediction of one image."""
    self.image = image
    self.panoptic_map = outputs['panoptic_map']
    self.segments = _segments(outputs, dataset_info)
    self.dataset_info = dataset_info

  def overlay(self) -> np.ndarray:
    """Returns the image with colors, outlines and class names, uint8 [height, width, 3]."""
    return draw.overlay(self.image, self.panoptic_map, self.dataset_info)


class InstanceResult:
  """An instance segmentation of an image; masks may overlap.

  Attributes:
    image: uint8 [height, width, 3], the input.
    instances: List of Instance, the highest score first. Instances without pixels are left out.
    dataset_info: The classes.
  """

  def __init__(self, image: np.ndarray, outputs: Mapping[str, np.ndarray],
               dataset_info: DatasetInfo):
    """Initializes the result from the fields of a structures.InstancePrediction of one image."""
    self.image = image
    self.dataset_info = dataset_info
    found = []
    for mask, box, class_id, score in zip(*(outputs[f'instance_{name}'] for name in (
        'masks', 'boxes', 'classes', 'scores'))):
      if class_id >= 0 and mask.any():
        category = dataset_info.by_class_id[int(class_id)]
        found.append(Instance(class_id=int(class_id), category_id=category.category_id,
                              score=float(score), box=tuple(box.tolist()),
                              mask=mask.astype(bool)))
    self.instances = sorted(found, key=lambda instance: -instance.score)

  def overlay(self, min_score: float = instances.MIN_SCORE) -> np.ndarray:
    """Returns the image with masks, outlines, class names and scores, uint8 [height, width, 3].

    Args:
      min_score: Instances below this score are not drawn.
    """
    return instances.overlay(self.image, self.encoded, self.dataset_info, min_score)

  @functools.cached_property
  def encoded(self) -> instances.Instances:
    """The instances with their masks as run lengths."""
    from pycocotools import mask
    return instances.Instances(
        self.image.shape[:2],
        [mask.encode(np.asfortranarray(each.mask, np.uint8)) for each in self.instances],
        [each.class_id for each in self.instances], [each.score for each in self.instances])


class SemanticResult:
  """A semantic segmentation of an image.

  Attributes:
    image: uint8 [height, width, 3], the input.
    semantic_map: int32 [height, width], class ids.
    semantic_scores: float32 [height, width, classes], scores of the classes in the order of
      `dataset_info.class_ids`; None if the model does not return them.
    dataset_info: The classes.
  """

  def __init__(self, image: np.ndarray, outputs: Mapping[str, np.ndarray],
               dataset_info: DatasetInfo):
    """Initializes the result from the fields of a structures.SemanticPrediction of one image."""
    self.image = image
    self.semantic_map = outputs['semantic_map']
    self.semantic_scores: Optional[np.ndarray] = outputs.get('semantic_scores')
    self.dataset_info = dataset_info

  def overlay(self) -> np.ndarray:
    """Returns the image with colors, outlines and class names, uint8 [height, width, 3]."""
    return draw.overlay(self.image, self.semantic_map * self.dataset_info.label_divisor,
                        self.dataset_info)


Result = Union[PanopticResult, InstanceResult, SemanticResult]


def of_outputs(image: np.ndarray, outputs: Mapping[str, Any],
               dataset_info: DatasetInfo) -> Result:
  """Returns the result of the task whose outputs are given.

  Args:
    image: uint8 [height, width, 3].
    outputs: Fields of a prediction of structures, numpy arrays of one image.
    dataset_info: The classes.
  """
  if 'panoptic_map' in outputs:
    return PanopticResult(image, outputs, dataset_info)
  if 'instance_masks' in outputs:
    return InstanceResult(image, outputs, dataset_info)
  return SemanticResult(image, outputs, dataset_info)


def _segments(outputs, dataset_info) -> list[Segment]:
  values, counts = np.unique(outputs['panoptic_map'], return_counts=True)
  areas = dict(zip(values.tolist(), counts.tolist()))
  segments = []
  for segment_id, class_id, score in zip(*(outputs[f'segment_{name}'].tolist()
                                           for name in ('ids', 'classes', 'scores'))):
    if segment_id >= 0:
      category = dataset_info.by_class_id[class_id]
      segments.append(Segment(id=segment_id, class_id=class_id, category_id=category.category_id,
                              isthing=category.isthing, score=score, area=areas[segment_id]))
  return sorted(segments, key=lambda segment: -segment.area)
