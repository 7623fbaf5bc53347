"""Scores panoptic predictions on disk: panoptic quality and mean IoU of the maps."""

import concurrent.futures
import os
import pathlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.metrics import coco_panoptic_io as panoptic_io
from deeplab_tf.metrics import mean_iou, panoptic_quality

Progress = Callable[[int], None]


class FileScore(NamedTuple):
  """A score over files and what is odd about them.

  Attributes:
    metric: PanopticQuality or MeanIoU.
    class_names: Category id -> name.
    warnings: Lines for the user.
  """
  metric: Any
  class_names: Dict[int, str]
  warnings: Tuple[str, ...]


class _Work(NamedTuple):
  """One image to score."""
  truth: panoptic_io.Annotation
  prediction: panoptic_io.Annotation
  truth_png: pathlib.Path
  prediction_png: pathlib.Path


def panoptic_score(ground_truth: panoptic_io.PathLike, predictions: panoptic_io.PathLike,
                   ground_truth_dir: Optional[panoptic_io.PathLike] = None,
                   predictions_dir: Optional[panoptic_io.PathLike] = None,
                   progress: Optional[Progress] = None) -> FileScore:
  """Computes the panoptic quality of predictions in the COCO panoptic format.

  Args:
    ground_truth: Its JSON; its categories rule.
    predictions: Their JSON; predictions for images without ground truth are not read.
    ground_truth_dir: Folder of its PNGs; by default the JSON's path without `.json`.
    predictions_dir: Likewise.
    progress: Called with the number of images after each image.

  Returns:
    FileScore with a PanopticQuality.

  Raises:
    FileNotFoundError: A file or folder is missing.
    ValueError: An input that panopticapi rejects too: an image without prediction, a category
      that the ground truth does not list, segments listed but not drawn or drawn but not
      listed. The line names the file, image, segment and category.
  """
  truth = panoptic_io.load_ground_truth(ground_truth)
  guesses = panoptic_io.load_predictions(predictions)
  work = _pair(truth, guesses, panoptic_io.png_folder(ground_truth, ground_truth_dir),
               panoptic_io.png_folder(predictions, predictions_dir))
  _check_categories(truth, guesses.path, work)

  def score(item: _Work) -> Tuple[panoptic_quality.PanopticQuality, Tuple[int, ...]]:
    metric = panoptic_quality.PanopticQuality(truth.categories)
    maps = [panoptic_io.read_panoptic_png(png) for png in (item.truth_png, item.prediction_png)]
    try:
      wrong = metric.update(maps[0], item.truth.segments, maps[1], item.prediction.segments)
    except ValueError as error:
      raise ValueError(f'{guesses.path}: image {item.truth.image_id} ({item.prediction_png}): '
                       f'{error}') from error
    return metric, wrong

  total = panoptic_quality.PanopticQuality(truth.categories)
  wrong_areas: List[Tuple[_Work, int]] = []
  for item, (metric, wrong) in zip(work, _in_threads(score, work)):
    total.merge(metric)
    wrong_areas += [(item, segment_id) for segment_id in wrong]
    if progress:
      progress(1)
  return FileScore(total, _names(truth), _area_warnings(truth.path, wrong_areas))


def semantic_score(ground_truth: panoptic_io.PathLike, predictions: panoptic_io.PathLike,
                   ground_truth_dir: Optional[panoptic_io.PathLike] = None,
                   predictions_dir: Optional[panoptic_io.PathLike] = None,
                   progress: Optional[Progress] = None) -> FileScore:
  """Computes the mean IoU of panoptic maps, their segments merged by category.

  Crowd regions count as their category; pixels that the ground truth does not label are left
  out; unpredicted pixels are misses. The arguments are those of panoptic_score.

  Returns:
    FileScore with a MeanIoU.
  """
  truth = panoptic_io.load_ground_truth(ground_truth)
  guesses = panoptic_io.load_predictions(predictions)
  work = _pair(truth, guesses, panoptic_io.png_folder(ground_truth, ground_truth_dir),
               panoptic_io.png_folder(predictions, predictions_dir))
  _check_categories(truth, guesses.path, work)
  category_ids = [category.category_id for category in truth.categories]

  def score(item: _Work) -> mean_iou.MeanIoU:
    metric = mean_iou.MeanIoU(category_ids, ignore_label=_NO_CATEGORY)
    maps = [
        _category_map(panoptic_io.read_panoptic_png(png), annotation.segments)
        for png, annotation in ((item.truth_png, item.truth),
                                (item.prediction_png, item.prediction))
    ]
    try:
      metric.update(*maps)
    except ValueError as error:
      raise ValueError(f'{guesses.path}: image {item.truth.image_id} ({item.prediction_png}): '
                       f'{error}') from error
    return metric

  total = mean_iou.MeanIoU(category_ids, ignore_label=_NO_CATEGORY)
  for metric in _in_threads(score, work):
    total.merge(metric)
    if progress:
      progress(1)
  return FileScore(total, _names(truth), ())


_NO_CATEGORY = -1


def _category_map(ids: np.ndarray, segments: Sequence[panoptic_io.Segment]) -> np.ndarray:
  """Replaces segment ids by category ids; -1 where there is no listed segment."""
  values, inverse = np.unique(ids, return_inverse=True)
  category_of = {segment.id: segment.category_id for segment in segments}
  table = np.array([category_of.get(value, _NO_CATEGORY) for value in values.tolist()], np.int64)
  return table[inverse].reshape(ids.shape)


def _pair(truth: panoptic_io.PanopticJson, guesses: panoptic_io.PanopticJson,
          truth_folder: pathlib.Path, folder: pathlib.Path) -> List[_Work]:
  """Pairs the annotations of both files by image id and looks for their PNGs."""
  by_image = {annotation.image_id: annotation for annotation in guesses.annotations}
  work = []
  for annotation in truth.annotations:
    guess = by_image.get(annotation.image_id)
    if guess is None:
      known = sorted(by_image, key=str)[:3]
      raise ValueError(
          f'{guesses.path}: no prediction for image {annotation.image_id!r} '
          f'({annotation.file_name}) of {truth.path}; the file has {len(by_image)} predictions'
          + (f', for images {", ".join(map(repr, known))}, ...' if known else ''))
    item = _Work(annotation, guess, truth_folder / annotation.file_name, folder / guess.file_name)
    for what, png in (('ground truth', item.truth_png), ('prediction', item.prediction_png)):
      if not png.is_file():
        raise FileNotFoundError(f'{png}: the {what} PNG of image {annotation.image_id} is missing')
    work.append(item)
  return work


def _check_categories(truth: panoptic_io.PanopticJson, path: str,
                      work: Sequence[_Work]) -> None:
  known = {category.category_id for category in truth.categories}
  for item in work:
    for segment in item.prediction.segments:
      if segment.category_id not in known:
        raise ValueError(f'{path}: image {item.prediction.image_id}: segment {segment.id} is of '
                         f'category {segment.category_id}, which {truth.path} does not list; it '
                         f'has {len(known)} categories from {min(known)} to {max(known)}')


def _in_threads(function: Callable[[_Work], Any], work: Sequence[_Work]) -> Iterator[Any]:
  """Maps a function over the images, in order; decoding a PNG lets other threads run."""
  pool = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
  try:
    yield from pool.map(function, work)
  finally:
    pool.shutdown(cancel_futures=True)


def _names(truth: panoptic_io.PanopticJson) -> Dict[int, str]:
  return {category.category_id: category.name for category in truth.categories}


def _area_warnings(path: str, wrong: Sequence[Tuple[_Work, int]]) -> Tuple[str, ...]:
  if not wrong:
    return ()
  item, segment_id = wrong[0]
  return (f'{path}: the stated "area" of {len(wrong)} ground truth segments is not their number '
          f'of pixels (first: image {item.truth.image_id}, segment {segment_id}); the score uses '
          'the stated areas, as panopticapi does, and may be wrong, even above 100',)
