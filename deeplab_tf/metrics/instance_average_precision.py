"""Average precision and recall of instances as in COCOeval, accumulated image by image.

pycocotools computes mask IoU, matching and accumulation. Only the scores and matches of the
detections of an image are kept, not their masks, so memory does not grow with the mask size.
"""

import contextlib
import io
from typing import (
  Any,
  Dict,
  Iterable,
  List,
  Mapping,
  NamedTuple,
  Optional,
  Sequence,
  Tuple,
  Union,
)

import numpy as np

from deeplab_tf import image_names
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import instance_masks
from deeplab_tf.metrics import accumulator, instance_matching, overlap
from deeplab_tf.metrics.instance_matching import Detection, Truth
from deeplab_tf.user_errors import DataError

NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
# COCO's area ranges.
SIZES = ('all', 'small', 'medium', 'large')
IOU_TYPES = ('segm', 'boundary', 'bbox')
_MATCHED, _IGNORED = 1, 2


class _Image(NamedTuple):
  """Matches of one image; a record is a category that has annotations or detections.

  Attributes:
    image_id: Image id, by which images are sorted.
    categories: int32 [records], indices into the category ids.
    positives: int32 [records, areas], numbers of annotations to detect.
    lengths: int32 [records], numbers of detections.
    scores: float64 [detections of all records], the best first within a record.
    flags: uint8 [areas, thresholds, detections], sum of _MATCHED and _IGNORED.
  """
  image_id: Union[int, str]
  categories: np.ndarray
  positives: np.ndarray
  lengths: np.ndarray
  scores: np.ndarray
  flags: np.ndarray


class Curves(NamedTuple):
  """Average precision by IoU, and precision by recall; in [0, 1], None without annotations.

  Attributes:
    thresholds: COCO's IoU thresholds.
    by_size: 'all', 'small', 'medium' or 'large' -> AP at each threshold.
    recalls: COCO's recalls.
    precision: IoU threshold 0.5 or 0.75 -> precision at each recall, averaged over the categories
      with annotations; its mean is AP50 or AP75.
    per_class: Category id -> AP, AP50, AP75, APs, APm, APl and AR100.
  """
  thresholds: Tuple[float, ...]
  by_size: Dict[str, List[Optional[float]]]
  recalls: Tuple[float, ...]
  precision: Dict[float, Optional[List[float]]]
  per_class: Dict[int, Dict[str, Optional[float]]]


class InstanceAveragePrecision(accumulator.Accumulator):
  """Accumulates matches of detections.

  Like in COCOeval, images are sorted by id before all detections are sorted by score, so the order
  in which images are added and merged does not matter.

  Attributes:
    category_ids: Ids of the categories, in the order given.
  """

  def __init__(self, category_ids: Iterable[int], iou_type: str = 'segm',
               dilation_ratio: float = overlap.DILATION_RATIO):
    """Starts without images.

    Args:
      category_ids: Ids of the categories that annotations and detections may have.
      iou_type: 'segm' for mask IoU; 'boundary' for the smaller of mask IoU and boundary IoU
        (Cheng et al., Boundary IoU, Sec. 5), or mask IoU for crowds; 'bbox' for box IoU.
      dilation_ratio: Thickness of boundaries as a fraction of the image's diagonal.

    Raises:
      ValueError: The iou_type is unknown, or a category id is listed twice.
    """
    if iou_type not in IOU_TYPES:
      raise DataError(f'unknown iou_type "{iou_type}"; allowed are {", ".join(IOU_TYPES)}')
    self.category_ids = tuple(int(category_id) for category_id in category_ids)
    self._index = {category: index for index, category in enumerate(self.category_ids)}
    if len(self._index) != len(self.category_ids):
      raise ValueError('a category id is listed twice; category ids must be distinct')
    self._iou_type = iou_type
    self._dilation_ratio = dilation_ratio
    self.reset()

  def reset(self) -> None:
    """Removes all images."""
    self._images: List[_Image] = []

  def update(self, image_id: Union[int, str], size: Tuple[int, int],
             annotations: Sequence[Mapping[str, Any]],
             detections: Sequence[Mapping[str, Any]]) -> List[instance_matching.Record]:
    """Adds one image.

    Args:
      image_id: Image id, by which images are sorted; numbers come before strings.
      size: Height and width in pixels.
      annotations: Annotations with category_id, segmentation (RLE or polygons), area (pixels) and
        optionally iscrowd; also with bbox (x, y, width, height) if boxes are scored.
      detections: Detections with category_id, score and segmentation; if boxes are scored, with
        bbox or segmentation. The area is the mask's, or the box's if boxes are scored and given.

    Returns:
      The matches, by category.

    Raises:
      ValueError: A category is unknown, or a mask and its image differ in size; nothing is counted.
    """
    records = []
    for index, (truths, own_detections) in self._by_category(annotations, detections).items():
      own_detections = instance_matching.best(own_detections)
      ious, areas = self.ious(truths, own_detections, size)
      matching = instance_matching.match(
          [Truth(*pair) for pair in zip((truth['area'] for truth in truths), _crowds(truths))],
          [Detection(detection['score'], area)
           for detection, area in zip(own_detections, areas)], ious)
      records.append(instance_matching.Record(index, truths, own_detections, matching))
    self._images.append(_pack(image_id, [(each.category, each.matching) for each in records]))
    return records

  def update_from_label_maps(self, image_id: Union[int, str], ground_truth: np.ndarray,
                             prediction: np.ndarray, segment_scores: Mapping[int, float],
                             dataset_info: DatasetInfo) -> None:
    """Adds the things of one image given as panoptic maps.

    As in DeepLab2's PanopticInstanceAveragePrecision, an instance is a label of a thing class, and
    its area is counted in the map. No masks are needed, since segments of a map do not overlap.

    Args:
      image_id: Image id, by which images are sorted; numbers come before strings.
      ground_truth: int [height, width], class id * label divisor + instance number; instance
        number 0 of a thing class is a crowd.
      prediction: int [height, width], likewise, but instance number 0 is an ordinary instance.
      segment_scores: Label -> score, at least for each thing in the prediction.
      dataset_info: Description of the classes; its thing classes are among the categories.

    Raises:
      ValueError: The maps differ in size, a label belongs to no class of the dataset, a predicted
        thing has no score, or boxes are scored; nothing is counted.
    """
    if self._iou_type == 'bbox':
      raise DataError('panoptic maps hold masks: iou_type may be segm or boundary, not bbox')
    distance = None
    if self._iou_type == 'boundary':
      distance = overlap.boundary_distance(np.shape(ground_truth), self._dilation_ratio)
    overlaps = overlap.overlaps(ground_truth, prediction, distance)
    truths, detections = (instance_matching.things(overlaps, side, dataset_info)
                          for side in (0, 1))
    for detection in detections:
      if detection['label'] not in segment_scores:
        raise DataError(f'image {image_id}: the predicted thing with the label '
                        f'{detection["label"]} has no score')
      detection['score'] = float(segment_scores[detection['label']])
    records = []
    for index, (own_truths, own_detections) in self._by_category(truths, detections).items():
      own_detections = instance_matching.best(own_detections)
      ious = instance_matching.map_ious(overlaps, own_truths, own_detections)
      records.append((index, instance_matching.match(
          [Truth(truth['area'], truth['iscrowd']) for truth in own_truths],
          [Detection(detection['score'], detection['area']) for detection in own_detections],
          ious)))
    self._images.append(_pack(image_id, records))

  def merge(self, other: 'InstanceAveragePrecision') -> None:
    """Adds the images of another accumulator with the same categories and IoU type."""
    for name in ('category_ids', '_iou_type', '_dilation_ratio'):
      if getattr(self, name) != getattr(other, name):
        raise ValueError(f'cannot merge average precisions that differ in {name.strip("_")}')
    self._images = self._images + other._images

  def state(self) -> Dict[str, np.ndarray]:
    """Returns the concatenated fields of all images, and the number of records of each image."""
    fields = {name: [getattr(image, name) for image in self._images] for name in _Image._fields}
    state = {'records': np.array([len(rows) for rows in fields['categories']], np.int64),
             # An array has one dtype, while ids may be integers or strings.
             'image_id': np.array(list(map(str, fields['image_id'])), np.str_),
             'id_is_text': np.array([isinstance(each, str) for each in fields.pop('image_id')],
                                    bool)}
    empty = _pack(0, [])
    for name, arrays in fields.items():
      state[name] = np.concatenate([*arrays, getattr(empty, name)],
                                   axis=2 if name == 'flags' else 0)
    return state

  def set_state(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores a state that `state` returned."""
    rows = np.cumsum(state['records'])[:-1]
    lengths = np.split(state['lengths'], rows)
    columns = np.cumsum([part.sum() for part in lengths], dtype=np.int64)[:-1]
    image_ids = [text if is_text else int(text) for text, is_text in zip(
        np.asarray(state['image_id']).tolist(), state['id_is_text'])]
    self._images = [] if not len(state['records']) else [
        _Image(*parts) for parts in zip(
            image_ids, np.split(state['categories'], rows),
            np.split(state['positives'], rows), lengths, np.split(state['scores'], columns),
            np.split(state['flags'], columns, axis=2))]

  def result(self) -> Dict[str, Any]:
    """Returns the scores of all images so far, as Python numbers in [0, 1].

    Returns:
      COCO's twelve scores, keyed by NAMES; None where there are no annotations.
      'per_class': category id -> AP; None for categories without annotations.
    """
    evaluation = self._accumulated()
    # [IoU thresholds, recalls, categories, area ranges, detection limits]
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    per_class: Dict[int, Optional[float]] = {}
    for index, category in enumerate(self.category_ids):
      per_class[category] = _mean(precision[:, :, index])
    figures = {name: float(value) if value >= 0 else None
               for name, value in zip(NAMES, evaluation.stats)}
    return {**figures, 'per_class': per_class}

  def curves(self) -> Curves:
    """Returns what the scores of `result` are averages of."""
    evaluation = self._accumulated()
    precision, recall = (evaluation.eval[name] for name in ('precision', 'recall'))
    thresholds = evaluation.params.iouThrs
    by_size = {name: [_mean(values) for values in precision[:, :, :, area, -1]]
               for area, name in enumerate(SIZES)}
    precision_at = {}
    for threshold in (0.5, 0.75):
      values = precision[np.argmin(np.abs(thresholds - threshold)), :, :, 0, -1]
      valid = values[:, (values > -1).all(axis=0)]
      precision_at[threshold] = valid.mean(axis=1).tolist() if valid.size else None
    per_class = {}
    for index, category in enumerate(self.category_ids):
      own = precision[:, :, index, :, -1]
      scores = [own[:, :, 0], *(own[np.argmin(np.abs(thresholds - threshold)), :, 0]
                                for threshold in (0.5, 0.75)),
                *(own[:, :, area] for area in range(1, len(SIZES))), recall[:, index, 0, -1]]
      per_class[category] = dict(zip(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR100'),
                                     map(_mean, scores)))
    return Curves(tuple(thresholds.tolist()), by_size, tuple(evaluation.params.recThrs.tolist()),
                  precision_at, per_class)

  def _accumulated(self) -> Any:
    """Accumulates all records with COCOeval."""
    evaluation = instance_matching.coco_evaluation()
    areas = len(evaluation.params.areaRng)
    images = sorted(self._images, key=lambda image: image_names.id_order(image.image_id))
    evaluation.params.catIds = list(range(len(self.category_ids)))
    evaluation.params.imgIds = list(range(len(images)))
    evaluation._paramsEval = evaluation.params
    entries: List[Any] = [None] * (len(self.category_ids) * areas * len(images))
    for position, image in enumerate(images):
      ends = np.cumsum(image.lengths)
      for row, category in enumerate(image.categories.tolist()):
        own = slice(ends[row] - image.lengths[row], ends[row])
        for area in range(areas):
          entries[(category * areas + area) * len(images) + position] = {
              'dtScores': image.scores[own],
              'dtMatches': image.flags[area, :, own] & _MATCHED > 0,
              'dtIgnore': image.flags[area, :, own] & _IGNORED > 0,
              'gtIgnore': np.zeros(image.positives[row, area])}
    evaluation.evalImgs = entries
    with contextlib.redirect_stdout(io.StringIO()):
      evaluation.accumulate()
      evaluation.summarize()
    return evaluation

  def _by_category(self, annotations: Sequence[Any], detections: Sequence[Any]
                   ) -> Dict[int, Tuple[List[Any], List[Any]]]:
    """Returns index of a category -> its annotations and detections."""
    grouped: Dict[int, Tuple[List[Any], List[Any]]] = {}
    for side, entries in enumerate((annotations, detections)):
      for entry in entries:
        index = self._index.get(entry['category_id'])
        if index is None:
          raise DataError(f'{("annotation", "detection")[side]} of category '
                          f'{entry["category_id"]}, which is none of the '
                          f'{len(self._index)} categories that are scored')
        grouped.setdefault(index, ([], []))[side].append(entry)
    return grouped

  def ious(self, truths: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]],
           size: Tuple[int, int]) -> Tuple[np.ndarray, Sequence[float]]:
    """Compares instances of one image; see `update` for the arguments.

    Returns:
      The IoUs, float64 [detections, annotations], and the areas of the detections in pixels.
    """
    if self._iou_type == 'bbox':
      boxes, areas = instance_matching.boxes(detections, size)
      return instance_matching.ious(boxes, [truth['bbox'] for truth in truths],
                                    _crowds(truths)), areas
    masks = [[instance_masks.run_lengths(entry['segmentation'], size) for entry in entries]
             for entries in (detections, truths)]
    areas = instance_matching.areas(masks[0])
    ious = instance_matching.ious(*masks, _crowds(truths))
    if self._iou_type == 'boundary':
      distance = overlap.boundary_distance(size, self._dilation_ratio)
      ious = instance_matching.with_boundaries(ious, *masks, _crowds(truths), distance)
    return ious, areas


def _mean(values: np.ndarray) -> Optional[float]:
  """Returns the mean without COCOeval's -1, or None."""
  valid = values[values > -1]
  return float(valid.mean()) if valid.size else None


def _crowds(truths: Sequence[Mapping[str, Any]]) -> List[bool]:
  return [bool(truth.get('iscrowd', 0)) for truth in truths]


def _pack(image_id: Union[int, str], records: Sequence[Tuple[int, Any]]) -> _Image:
  """Concatenates the matchings of an image's categories."""
  matchings = [matching for _, matching in records]
  empty = instance_matching.match([], [], np.zeros((0, 0)))
  return _Image(
      image_id=image_id,
      categories=np.array([category for category, _ in records], np.int32),
      positives=np.array([each.positives for each in matchings], np.int32).reshape(
          -1, len(empty.positives)),
      lengths=np.array([len(each.scores) for each in matchings], np.int32),
      scores=np.concatenate([each.scores for each in (*matchings, empty)]),
      flags=np.concatenate([each.matched * np.uint8(_MATCHED) + each.ignored * np.uint8(_IGNORED)
                            for each in (*matchings, empty)], axis=2))
