"""Scores instances on disk, in COCO's formats, by average precision."""

import functools
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from deeplab_tf.formats import (
  coco_fields,
  coco_instances,
  coco_masks,
  coco_panoptic,
  instance_masks,
)
from deeplab_tf.metrics import instance_matching
from deeplab_tf.metrics.instance_average_precision import NAMES, InstanceAveragePrecision
from deeplab_tf.metrics.percent import percent
from deeplab_tf.scoring import left_out, workers
from deeplab_tf.user_errors import DataError

_RESULT = 'instance results (a list of image_id, category_id, segmentation, score)'
_SCORED = {**coco_instances.INSTANCE, 'score': coco_fields.NUMBER}


class AveragePrecision(NamedTuple):
  """COCO's average precisions and recalls.

  Attributes:
    figures: COCO's twelve scores by name, in [0, 1]; -1 where there are no annotations.
    per_class: Category id -> AP; None for categories without ground truth.
    class_names: Category id -> name.
    omitted: Categories, annotations and results that do not count.
  """
  figures: Dict[str, float]
  per_class: Dict[int, Optional[float]]
  class_names: Dict[int, str]
  omitted: left_out.LeftOut = left_out.LeftOut()


class ImageInstances(NamedTuple):
  """One image to score.

  Attributes:
    image_id: Id of the image.
    size: Height and width in pixels.
    annotations: Entries of the ground truth.
    results: Predicted entries.
    file_name: Name of the image, or None if the ground truth does not state it.
  """
  image_id: Union[int, str]
  size: Tuple[int, int]
  annotations: List[Dict[str, Any]]
  results: List[Dict[str, Any]]
  file_name: Optional[str] = None


class InstanceFiles(NamedTuple):
  """A ground truth and predictions.

  Attributes:
    predictions: Path of the predictions.
    truth: Content of the ground truth.
    results: Content of the predictions.
    images: Images of the ground truth, with their instances.
  """
  predictions: str
  truth: Dict[str, Any]
  results: Sequence[Dict[str, Any]]
  images: List[ImageInstances]

  @property
  def class_names(self) -> Dict[int, str]:
    """Category id -> name."""
    return {entry['id']: str(entry.get('name', entry['id']))
            for entry in self.truth['categories']}

  @property
  def category_ids(self) -> List[int]:
    """Category ids in ascending order."""
    return sorted(entry['id'] for entry in self.truth['categories'])


def instance_score(ground_truth: coco_panoptic.PathLike, predictions: coco_panoptic.PathLike,
                   iou_type: str = 'segm', progress: Optional[workers.Progress] = None,
                   num_workers: int = 1) -> AveragePrecision:
  """Computes the average precision of instances.

  Args:
    ground_truth: COCO instance JSON (images, annotations with segmentation, categories).
    predictions: COCO results JSON: a list of dictionaries with image_id, category_id,
      segmentation (RLE or polygons) and score; bbox is sufficient if boxes are scored. A folder
      stands for predictions.json in it.
    iou_type: 'segm', 'boundary' or 'bbox'; see InstanceAveragePrecision.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: A file has another format, or a result has an unknown image or category.
  """
  files = load(ground_truth, predictions, iou_type)
  metric = InstanceAveragePrecision(files.category_ids, iou_type)
  count(metric, files, progress, num_workers)
  return average_precision(metric.result(), files)


def is_results(path: coco_panoptic.PathLike) -> bool:
  """Returns whether a JSON is a list, as instance results are; only its beginning is read."""
  if not os.path.isfile(path):
    return False
  with open(path, 'rb') as file:
    # A byte order mark, and the zeros of UTF-16 and UTF-32, may precede the bracket.
    return file.read(64).lstrip(b'\xef\xbb\xbf\xff\xfe\0 \t\r\n').startswith(b'[')


def load(ground_truth: coco_panoptic.PathLike, predictions: coco_panoptic.PathLike,
         iou_type: str = 'segm') -> InstanceFiles:
  """Reads and validates both files; see `instance_score`."""
  predictions = coco_panoptic.predictions_json(predictions)
  truth = load_ground_truth(ground_truth, iou_type)
  if not truth['images']:
    raise DataError(f'{ground_truth}: "images" is empty, so there is nothing to score')
  results = _load_results(predictions, truth, ground_truth, iou_type)
  return InstanceFiles(os.fspath(predictions), truth, results, _by_image(truth, results))


def count(metric: Any, files: InstanceFiles, progress: Optional[workers.Progress] = None,
          num_workers: int = 1) -> None:
  """Counts all images.

  Args:
    metric: Empty InstanceAveragePrecision or InstanceSurvey.
    files: Images to count.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.
  """
  update = functools.partial(_update, path=files.predictions)
  workers.count(metric, update, files.images, num_workers, progress)


def average_precision(result: Mapping[str, Any], files: InstanceFiles) -> AveragePrecision:
  """Returns scores together with what they leave out.

  Args:
    result: Return value of InstanceAveragePrecision.result().
    files: Images that were counted.
  """
  figures = {name: -1.0 if result[name] is None else result[name] for name in NAMES}
  names = files.class_names
  return AveragePrecision(figures, result['per_class'], names, left_out.instances(
      files.truth, files.results, names, instance_matching.MAX_DETECTIONS))


def _update(metric: Any, image: ImageInstances, path: str) -> None:
  try:
    metric.update(image.image_id, image.size, image.annotations, image.results)
  except DataError as error:
    raise DataError(f'{path}: image {image.image_id}: {error}') from error


def _by_image(truth: Dict[str, Any], results: Sequence[Dict[str, Any]]) -> List[ImageInstances]:
  images = {image['id']: ImageInstances(image['id'], (image['height'], image['width']), [], [],
                                        image.get('file_name'))
            for image in truth['images']}
  for annotation in truth['annotations']:
    images[annotation['image_id']].annotations.append(annotation)
  for entry in results:
    images[entry['image_id']].results.append(entry)
  return list(images.values())


def format_result(score: AveragePrecision, per_class: bool = False) -> str:
  """Formats the scores in percent; -1 is shown as n/a."""
  lines = [f'{name:<24}{percent(value if value >= 0 else None, 6)}'
           for name, value in score.figures.items()]
  if per_class:
    lines += ['', 'AP per class']
    lines += [f'{score.class_names[category][:23]:<24}{percent(value, 6)}'
              for category, value in score.per_class.items()]
  return '\n'.join(lines)


def load_ground_truth(path: coco_panoptic.PathLike, iou_type: str = 'segm') -> Dict[str, Any]:
  """Reads and validates a COCO instance JSON.

  Args:
    path: Path of the file.
    iou_type: If 'bbox', annotations must have boxes, otherwise masks.

  Returns:
    Content of the file: images, annotations, categories. An annotation without `area`, which many
    labeling tools do not write, has that of its mask, or of its box for 'bbox'.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is invalid. The message is one line that names the file, and the image or
      annotation.
  """
  expected = 'an instance ground truth (images, annotations with segmentation, categories)'
  content = coco_instances.read_json(path, expected, coco_instances.UNNAMED_IMAGE)
  known = coco_instances.known(content)
  for annotation in content['annotations']:
    where = f'{path}: annotation {annotation.get("id")}'
    shape = 'bbox' if iou_type == 'bbox' else 'segmentation'
    _require(annotation, {'image_id', 'category_id', shape}, where, expected)
    coco_fields.check([annotation], coco_instances.ANNOTATION, path, 'an annotation')
    coco_instances.check_known(annotation, known, where, path)
    _check_mask(annotation, shape, known, where)
    if annotation.get('area') is None:
      annotation['area'] = _area(annotation, shape, known['image_id'][annotation['image_id']])
  return content


def _area(annotation: Dict[str, Any], shape: str, size: Tuple[int, int]) -> float:
  if shape == 'bbox':
    return annotation['bbox'][2] * annotation['bbox'][3]
  from pycocotools import mask
  return float(mask.area(instance_masks.run_lengths(annotation['segmentation'], size)))


def _load_results(path: coco_panoptic.PathLike, truth: Dict[str, Any],
                  truth_path: coco_panoptic.PathLike,
                  iou_type: str) -> Sequence[Dict[str, Any]]:
  results = coco_panoptic.read_json(path, _RESULT)
  if not isinstance(results, list):
    raise DataError(f'{path}: the JSON is not a list; expected {_RESULT}')
  known = coco_instances.known(truth)
  coco_fields.check(results, {}, path, 'a result')
  for index, entry in enumerate(results):
    where = f'{path}: result {index}'
    shape = 'bbox' if iou_type == 'bbox' and entry.get('bbox') else 'segmentation'
    _require(entry, {'image_id', 'category_id', 'score', shape}, where, _RESULT)
    coco_fields.check([entry], _SCORED, path, f'result {index}')
    coco_instances.check_known(entry, known, where, truth_path)
    _check_mask(entry, shape, known, where)
  return results


def _require(entry: Any, keys: Set[str], where: str, expected: str) -> None:
  absent = keys - set(entry)
  if absent:
    raise DataError(f'{where} lacks {", ".join(sorted(absent))}; expected {expected}')


def _check_mask(entry: Dict[str, Any], shape: str, known: coco_instances.Known,
                where: str) -> None:
  if shape == 'segmentation':
    problem = coco_masks.problem(entry['segmentation'], known['image_id'][entry['image_id']])
    if problem:
      raise DataError(f'{where}: the mask {problem}')
