"""Average precision of instance masks, computed by pycocotools' COCOeval."""

import contextlib
import io
from typing import Any, Dict, NamedTuple, Optional, Sequence

from deeplab_tf.metrics import coco_panoptic_io

NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
_RESULT = 'instance results (a list of image_id, category_id, segmentation, score)'


class AveragePrecision(NamedTuple):
  """COCO's figures.

  Attributes:
    figures: The twelve by name, in [0, 1]; -1 where there is nothing to find.
    per_class: Category id -> AP; None for categories without ground truth.
    class_names: Category id -> name.
  """
  figures: Dict[str, float]
  per_class: Dict[int, Optional[float]]
  class_names: Dict[int, str]


def instance_score(ground_truth: coco_panoptic_io.PathLike,
                   predictions: coco_panoptic_io.PathLike) -> AveragePrecision:
  """Computes the average precision of instance masks.

  Args:
    ground_truth: COCO instance JSON (images, annotations with segmentation, categories).
    predictions: COCO results JSON: a list of dictionaries with image_id, category_id,
      segmentation (run lengths or polygons) and score.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: A file is of another kind, or a result names an unknown image or category.
  """
  from pycocotools import coco, cocoeval
  truth_content = _load_truth(ground_truth)
  results = _load_results(predictions, truth_content, ground_truth)
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco.COCO()
    truth.dataset = truth_content
    truth.createIndex()
    if results:
      guesses = truth.loadRes(results)
    else:  # loadRes fails on an empty list.
      guesses = coco.COCO()
      guesses.dataset = {**truth_content, 'annotations': []}
      guesses.createIndex()
    evaluation = cocoeval.COCOeval(truth, guesses, 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  # [IoU thresholds, recalls, categories, area ranges, detection limits]
  precision = evaluation.eval['precision'][:, :, :, 0, -1]
  per_class = {}
  for index, category in enumerate(evaluation.params.catIds):
    valid = precision[:, :, index][precision[:, :, index] > -1]
    per_class[category] = float(valid.mean()) if valid.size else None
  figures = {name: float(value) for name, value in zip(NAMES, evaluation.stats)}
  names = {entry['id']: entry.get('name', str(entry['id']))
           for entry in truth_content['categories']}
  return AveragePrecision(figures, per_class, names)


def format_result(score: AveragePrecision, per_class: bool = False) -> str:
  """Lays out the figures in per cent; -1 is shown as n/a."""
  lines = [f'{name:<24}{_per_cent(value if value >= 0 else None)}'
           for name, value in score.figures.items()]
  if per_class:
    lines += ['', 'AP per class']
    lines += [f'{score.class_names[category][:23]:<24}{_per_cent(value)}'
              for category, value in score.per_class.items()]
  return '\n'.join(lines)


def _per_cent(value: Optional[float]) -> str:
  return '   n/a' if value is None else f'{100 * value:6.1f}'


def _load_truth(path: coco_panoptic_io.PathLike) -> Dict[str, Any]:
  expected = 'an instance ground truth (images, annotations with segmentation, categories)'
  content = coco_panoptic_io.read_json(path, expected)
  missing = [key for key in ('images', 'annotations', 'categories')
             if not isinstance(content, dict) or not isinstance(content.get(key), list)]
  if missing:
    raise ValueError(f'{path}: no list "{missing[0]}"; expected {expected}')
  for annotation in content['annotations']:
    if 'segments_info' in annotation:
      raise ValueError(f'{path}: this is a panoptic JSON; expected {expected}')
    absent = {'id', 'image_id', 'category_id', 'segmentation', 'area'} - set(annotation)
    if absent:
      raise ValueError(f'{path}: annotation {annotation.get("id")} lacks '
                       f'{", ".join(sorted(absent))}; expected {expected}')
    annotation.setdefault('iscrowd', 0)
  return content


def _load_results(path: coco_panoptic_io.PathLike, truth: Dict[str, Any],
                  truth_path: coco_panoptic_io.PathLike) -> Sequence[Dict[str, Any]]:
  results = coco_panoptic_io.read_json(path, _RESULT)
  if not isinstance(results, list):
    raise ValueError(f'{path}: the JSON is no list; expected {_RESULT}')
  images = {entry['id'] for entry in truth['images']}
  categories = {entry['id'] for entry in truth['categories']}
  for index, entry in enumerate(results):
    absent = {'image_id', 'category_id', 'segmentation', 'score'} - set(entry)
    if absent:
      raise ValueError(f'{path}: result {index} lacks {", ".join(sorted(absent))}; expected '
                       f'{_RESULT}')
    for key, known in (('image_id', images), ('category_id', categories)):
      if entry[key] not in known:
        raise ValueError(f'{path}: result {index} has {key} {entry[key]!r}, which {truth_path} '
                         'does not list')
  return results
