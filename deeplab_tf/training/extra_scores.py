"""Scores besides panoptic quality, selected by EvaluatorOptions.extra_scores."""

import abc
import functools
from typing import Any, Callable, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import image_names, tasks
from deeplab_tf.architecture import Architecture
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import label_maps
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.metrics import panoptic_quality
from deeplab_tf.metrics.accumulator import Accumulator
from deeplab_tf.metrics.instance_average_precision import InstanceAveragePrecision
from deeplab_tf.metrics.mean_iou import MeanIoU
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.postprocessing import mask2former
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.protos.evaluator_pb2 import EvaluatorOptions
from deeplab_tf.scoring import instance_files
from deeplab_tf.structures import PanopticPrediction, QueryOutputs
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import DataError

_FIGURES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')


class ScoredImage:
  """An evaluated image at the size of its file, with everything that scores use.

  Attributes:
    name: Name of the file, without extension.
    ground_truth: int32 [height, width], panoptic map.
    prediction: PanopticPrediction, batch of one.
    queries: QueryOutputs, batch of one; None if no score needs them.
  """

  def __init__(self, name: str, ground_truth: np.ndarray, prediction: PanopticPrediction,
               queries: Optional[QueryOutputs] = None,
               full_size: Optional[FullSize] = None,
               logits_rule: ResizeRule = 'aligned'):
    """Initializes the image.

    `full_size` has its sizes in the network's input and in its file, and `logits_rule` is the rule
    by which the network's logits are resized to its input.
    """
    self.name = name
    self.ground_truth = ground_truth
    self.prediction = prediction
    self.queries = queries
    self._full_size = full_size
    self._logits_rule = logits_rule
    self._masks: dict[bool, mask2former.QueryMasks] = {}

  def query_masks(self, masks_compete: bool) -> mask2former.QueryMasks:
    """Returns the masks of the queries, computed once; see mask2former.semantic_inference."""
    if masks_compete not in self._masks:
      self._masks[masks_compete] = _semantic_inference(
          self.queries.class_logits[0], self.queries.mask_logits[0], masks_compete,
          self._full_size, self._logits_rule)
    return self._masks[masks_compete]


_semantic_inference = tf.function(mask2former.semantic_inference, autograph=False,
                                  reduce_retracing=True)


class ExtraScore(abc.ABC):
  """One score: creates its accumulator, adds images to it and names the scalars of its result.

  Attributes:
    name: Name of the score in results, and prefix of the tags of its scalars.
    tags: Tags of the score's scalars, without the name.
  """
  name: str
  tags: Sequence[str]

  @abc.abstractmethod
  def new_metric(self) -> Accumulator:
    """Returns an empty accumulator."""

  @abc.abstractmethod
  def update(self, metric: Any, image: ScoredImage) -> None:
    """Adds an image to the accumulator."""

  def scalars(self, result: dict) -> dict:
    """Returns tag -> value, without unavailable values."""
    values = {tag: result[tag] for tag in self.tags}
    return {f'{self.name}/{tag}': value for tag, value in values.items() if value is not None}


# --- Mean IoU ---------------------------------------------------------------------------------


class MapMeanIoU(ExtraScore):
  """Mean IoU of the panoptic map, with segments merged by class."""
  name = 'panoptic_map_miou'
  tags = ('miou',)

  def __init__(self, dataset_info: DatasetInfo):
    """Initializes the score for the given classes."""
    self._info = dataset_info

  def new_metric(self) -> MeanIoU:
    return MeanIoU(self._info.class_ids, self._info.ignore_label)

  def update(self, metric: MeanIoU, image: ScoredImage) -> None:
    # Crowds count as their class.
    metric.update(image.ground_truth // self._info.label_divisor, self._semantic_map(image))

  def _semantic_map(self, image: ScoredImage) -> np.ndarray:
    return image.prediction.panoptic_map[0].numpy() // self._info.label_divisor


class QueryMeanIoU(MapMeanIoU):
  """Mean IoU of the class scores summed over the queries; see mask2former."""
  name = 'miou_pan'

  def __init__(self, dataset_info: DatasetInfo, masks_compete: bool = False):
    """Initializes the score.

    Args:
      dataset_info: The classes.
      masks_compete: Whether mask probabilities are a softmax over the queries; see mask2former.
    """
    super().__init__(dataset_info)
    self._masks_compete = masks_compete

  def _semantic_map(self, image: ScoredImage) -> np.ndarray:
    indices = image.query_masks(self._masks_compete).semantic_map.numpy()
    return np.array(self._info.class_ids)[indices]


# --- Average precision ------------------------------------------------------------------------


class InstanceAnnotations:
  """The annotations of a COCO instance JSON, by file name.

  Args:
    path: Path of the JSON.
    dataset_info: The classes; the JSON's categories must be thing classes.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not an instance JSON, or belongs to another data set.
  """

  def __init__(self, path: str, dataset_info: DatasetInfo):
    self._path = path
    content = instance_files.load_ground_truth(path)
    for entry in content['categories']:
      own = dataset_info.by_category_id.get(entry['id'])
      name = str(entry.get('name', own.name if own else ''))
      # The instance categories of some data sets are numbered differently.
      if own is None or not own.isthing or own.name.casefold() != name.casefold():
        known = f'{own.name}, {"a thing" if own.isthing else "stuff"}' if own else 'none'
        raise DataError(f'{path}: category {entry["id"]} is "{name}", and of {dataset_info.name} '
                        f'it is {known}; evaluator_options.instance_annotation_file must have the '
                        "data set's category ids and names")
    named = [image for image in content['images'] if 'file_name' in image]
    self._image_ids = [image['id'] for image in named]
    self._names = [image['file_name'] for image in named]
    self._index = image_names.NameIndex(self._names)
    self._annotations: dict[Any, list] = {}
    for annotation in content['annotations']:
      self._annotations.setdefault(annotation['image_id'], []).append(annotation)

  def of_file(self, name: str) -> tuple[Any, list]:
    """Returns id and annotations of the image with a file name, with or without extension.

    Raises:
      ValueError: The JSON does not list the image, or lists several that match.
    """
    fitting = self._index.find(name)
    if not fitting:
      raise DataError(f'{self._path}: does not list the image {name}, which is evaluated; '
                      'evaluator_options.instance_annotation_file must be of the same images')
    if len(fitting) > 1:
      listed = image_names.shown(self._names[each] for each in fitting)
      raise DataError(f'{self._path}: the name of the image {name}, which is evaluated, is '
                      f'ambiguous: it may be {listed}; image files need unique names')
    image_id = self._image_ids[fitting[0]]
    return image_id, self._annotations.get(image_id, [])


class QueryAveragePrecision(ExtraScore):
  """Average precision of the most probable pairs of a query and a class; see mask2former."""
  name = 'ap_th_pan'
  tags = _FIGURES

  def __init__(self, dataset_info: DatasetInfo,
               annotations: Optional[InstanceAnnotations] = None, masks_compete: bool = False):
    """Initializes the score.

    Args:
      dataset_info: The classes.
      annotations: Ground-truth instances; None for the thing segments of the panoptic labels.
      masks_compete: Whether mask probabilities are a softmax over the queries; see mask2former.
    """
    self._info = dataset_info
    self._annotations = annotations
    self._masks_compete = masks_compete

  def new_metric(self) -> InstanceAveragePrecision:
    return _average_precision(self._info)

  def update(self, metric: InstanceAveragePrecision, image: ScoredImage) -> None:
    found = image.query_masks(self._masks_compete)
    categories = self._info.categories
    instances = mask2former.instance_inference(
        image.queries.class_logits[0], found.quality, [c.isthing for c in categories])
    # A query with several classes has one mask.
    run_lengths = functools.cache(lambda query: _run_lengths(found.mask(query)))
    detections = [{'category_id': categories[class_index].category_id, 'score': score,
                   'segmentation': run_lengths(query)}
                  for query, class_index, score in zip(*(x.numpy().tolist() for x in instances))]
    if self._annotations is not None:
      image_id, annotations = self._annotations.of_file(image.name)
    else:
      image_id, annotations = image.name, label_maps.annotations(image.ground_truth, self._info)
    metric.update(image_id, image.ground_truth.shape, annotations, detections)


class MapAveragePrecision(ExtraScore):
  """Average precision of the thing segments of the panoptic map, ranked by their scores."""
  name = 'panoptic_map_ap'
  tags = _FIGURES

  def __init__(self, dataset_info: DatasetInfo,
               annotations: Optional[InstanceAnnotations] = None):
    """Initializes the score.

    Args:
      dataset_info: The classes.
      annotations: Ground-truth instances; None for the thing segments of the panoptic labels.
    """
    self._info = dataset_info
    self._annotations = annotations

  def new_metric(self) -> InstanceAveragePrecision:
    return _average_precision(self._info)

  def update(self, metric: InstanceAveragePrecision, image: ScoredImage) -> None:
    panoptic_map = image.prediction.panoptic_map[0].numpy()
    scores = dict(zip(image.prediction.segment_ids[0].numpy().tolist(),
                      image.prediction.segment_scores[0].numpy().tolist()))
    if self._annotations is None:
      metric.update_from_label_maps(image.name, image.ground_truth, panoptic_map, scores,
                                    self._info)
      return
    image_id, annotations = self._annotations.of_file(image.name)
    detections = [{**thing, 'score': scores[thing['label']]}
                  for thing in label_maps.annotations(panoptic_map, self._info)]
    metric.update(image_id, panoptic_map.shape, annotations, detections)


def _average_precision(dataset_info: DatasetInfo) -> InstanceAveragePrecision:
  return InstanceAveragePrecision(
      dataset_info.by_class_id[class_id].category_id for class_id in dataset_info.thing_class_ids)


def _run_lengths(mask: np.ndarray) -> dict:
  from pycocotools import mask as mask_lib
  return mask_lib.encode(np.asfortranarray(mask, np.uint8))


# --- Boundaries -------------------------------------------------------------------------------


class BoundaryQuality(ExtraScore):
  """Panoptic quality with the smaller of mask IoU and boundary IoU."""
  name = 'boundary_pq'
  tags = tuple(f'{group}/{key}' for group in ('All', 'Things', 'Stuff') for key in ('pq', 'n'))

  def __init__(self, dataset_info: DatasetInfo):
    """Initializes the score for the given classes."""
    self._info = dataset_info

  def new_metric(self) -> PanopticQuality:
    return PanopticQuality(self._info.categories, panoptic_quality.DILATION_RATIO)

  def update(self, metric: PanopticQuality, image: ScoredImage) -> None:
    metric.update_from_label_maps(image.ground_truth, image.prediction.panoptic_map[0].numpy(),
                                  self._info)

  def scalars(self, result: dict) -> dict:
    flat = {tag: result[tag.split('/')[0]][tag.split('/')[1]] for tag in self.tags}
    return super().scalars(flat)


# --- From a config ----------------------------------------------------------------------------


class _Kind(NamedTuple):
  """A score that a config can request.

  Attributes:
    make: Function of (classes, instance annotations or None, whether masks compete) that returns
      the score.
    needs_queries: Whether the score uses the outputs of queries.
    has_instances: Whether the score uses instance annotations if there are any.
    tasks: Tasks that have the score.
  """
  make: Callable[[DatasetInfo, Optional[InstanceAnnotations], bool], ExtraScore]
  needs_queries: bool = False
  has_instances: bool = False
  tasks: tuple[Task, ...] = (Task.PANOPTIC,)


_KINDS = {
    EvaluatorOptions.MIOU_PAN: _Kind(
        lambda info, _, compete: QueryMeanIoU(info, compete), needs_queries=True),
    EvaluatorOptions.AP_TH_PAN: _Kind(QueryAveragePrecision, needs_queries=True,
                                      has_instances=True),
    EvaluatorOptions.PANOPTIC_MAP_MIOU: _Kind(lambda info, *_: MapMeanIoU(info)),
    EvaluatorOptions.PANOPTIC_MAP_AP: _Kind(
        lambda info, annotations, _: MapAveragePrecision(info, annotations), has_instances=True),
    EvaluatorOptions.BOUNDARY_PQ: _Kind(lambda info, *_: BoundaryQuality(info)),
}


def need_queries(config, architecture: Architecture) -> bool:
  """Returns whether a score that a config requests uses the queries.

  Raises:
    ConfigError: A score uses queries, but the model has none.
  """
  chosen = [score for score in config.evaluator_options.extra_scores
            if _KINDS[score].needs_queries]
  if chosen and not architecture.has_queries:
    raise config_lib.ConfigError(
        f'evaluator_options.extra_scores: {EvaluatorOptions.Score.Name(chosen[0])} needs the '
        'queries of a mask model, which this model does not have; PANOPTIC_MAP_MIOU and '
        'PANOPTIC_MAP_AP are available for all models')
  return bool(chosen)


def build(config, architecture: Architecture, dataset_info: DatasetInfo) -> list[ExtraScore]:
  """Returns the scores that a config requests.

  Args:
    config: ExperimentOptions.
    architecture: The config's architecture.
    dataset_info: The classes.

  Raises:
    ConfigError: A score needs queries but the model has none, or it is not for the config's task.
    FileNotFoundError: The annotation file does not exist.
    ValueError: The annotation file is not an instance JSON.
  """
  options, task = config.evaluator_options, tasks.of(config)
  competes = need_queries(config, architecture) and architecture.masks_compete
  chosen = {score: _KINDS[score] for score in options.extra_scores}
  for score, kind in chosen.items():
    if task not in kind.tasks:
      raise config_lib.ConfigError(
          f'evaluator_options.extra_scores: {EvaluatorOptions.Score.Name(score)} is for task '
          f'{" or ".join(t.name for t in kind.tasks)}, and the task is {task.name}')
  annotations = None
  if options.instance_annotation_file and any(kind.has_instances for kind in chosen.values()):
    annotations = InstanceAnnotations(config_lib.require_value(
        options.instance_annotation_file, 'evaluator_options.instance_annotation_file'),
        dataset_info)
  return [kind.make(dataset_info, annotations, competes) for kind in chosen.values()]
