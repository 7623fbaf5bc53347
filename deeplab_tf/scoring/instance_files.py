"""Scores instances on disk, in COCO's formats, by average precision."""

import functools
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from deeplab_tf.formats import coco_fields, coco_instances, coco_masks, coco_panoptic
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


class _ImageInstances(NamedTuple):
  """One image to score."""
  image_id: Union[int, str]
  size: Tuple[int, int]
  annotations: List[Dict[str, Any]]
  results: List[Dict[str, Any]]


def instance_score(ground_truth: coco_panoptic.PathLike, predictions: coco_panoptic.PathLike,
                   iou_type: str = 'segm', progress: Optional[workers.Progress] = None,
                   num_workers: int = 1) -> AveragePrecision:
  """Computes the average precision of instances.

  Args:
    ground_truth: COCO instance JSON (images, annotations with segmentation, categories).
    predictions: COCO results JSON: a list of dictionaries with image_id, category_id,
      segmentation (RLE or polygons) and score; bbox is sufficient if boxes are scored.
    iou_type: 'segm', 'boundary' or 'bbox'; see InstanceAveragePrecision.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: A file has another format, or a result has an unknown image or category.
  """
  truth = load_ground_truth(ground_truth, iou_type)
  if not truth['images']:
    raise DataError(f'{ground_truth}: "images" is empty, so there is nothing to score')
  results = _load_results(predictions, truth, ground_truth, iou_type)
  metric = InstanceAveragePrecision(sorted(entry['id'] for entry in truth['categories']), iou_type)
  update = functools.partial(_update, path=os.fspath(predictions))
  workers.count(metric, update, _by_image(truth, results), num_workers, progress)
  result = metric.result()
  names = {entry['id']: entry.get('name', str(entry['id'])) for entry in truth['categories']}
  figures = {name: -1.0 if result[name] is None else result[name] for name in NAMES}
  return AveragePrecision(figures, result['per_class'], names, left_out.instances(
      truth, results, names, instance_matching.MAX_DETECTIONS))


def _update(metric: InstanceAveragePrecision, image: _ImageInstances, path: str) -> None:
  try:
    metric.update(image.image_id, image.size, image.annotations, image.results)
  except DataError as error:
    raise DataError(f'{path}: image {image.image_id}: {error}') from error


def _by_image(truth: Dict[str, Any], results: Sequence[Dict[str, Any]]) -> List[_ImageInstances]:
  images = {image['id']: _ImageInstances(image['id'], (image['height'], image['width']), [], [])
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
    Content of the file: images, annotations, categories.

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
    _require(annotation, {'id', 'image_id', 'category_id', 'area', shape}, where, expected)
    coco_fields.check([annotation], coco_instances.ANNOTATION, path, 'an annotation')
    coco_instances.check_known(annotation, known, where, path)
    _check_mask(annotation, shape, known, where)
  return content


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
