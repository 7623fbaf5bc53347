"""Writes the report of an evaluation of panoptic predictions: a page, and a table of all images."""

import collections
import csv
import functools
import math
import os
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.data import catalog
from deeplab_tf.formats import atomic_file, coco_panoptic
from deeplab_tf.metrics import panoptic_quality, segment_survey
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import evaluation_page, gallery_images
from deeplab_tf.scoring import left_out, panoptic_files, workers
from deeplab_tf.user_errors import DataError

PAGE, TABLE = 'index.html', 'images.csv'
_CONFUSED_CLASSES = 16
# Class id * divisor + segment id must fit into an int64.
_DIVISOR = coco_panoptic.MAX_ID + 1


class Report(NamedTuple):
  """A written report.

  Attributes:
    page: Path of the page.
    score: Panoptic quality of the predictions.
  """
  page: str
  score: panoptic_files.FileScore


def write(directory: coco_panoptic.PathLike, ground_truth: coco_panoptic.PathLike,
          predictions: coco_panoptic.PathLike,
          ground_truth_dir: Optional[coco_panoptic.PathLike] = None,
          predictions_dir: Optional[coco_panoptic.PathLike] = None,
          images: Optional[coco_panoptic.PathLike] = None,
          progress: Optional[workers.Progress] = None, count: int = 6, num_workers: int = 1,
          dilation_ratio: Optional[float] = None) -> Report:
  """Compares predictions with a ground truth, and writes index.html and images.csv.

  Args:
    directory: Output folder; created if it does not exist.
    ground_truth: JSON of the ground truth, see panoptic_files.panoptic_score.
    predictions: JSON of the predictions, likewise.
    ground_truth_dir: Folder of the ground truth PNGs, likewise.
    predictions_dir: Folder of the predicted PNGs, likewise.
    images: Folder of the images, possibly in subfolders. If None, segments are shown on gray.
    progress: Function that is called with the number of newly counted images.
    count: Number of worst images, and of best images, to show.
    num_workers: Number of processes; see workers.count.
    dilation_ratio: Thickness of boundaries, see panoptic_quality.match. If given, the report is
      about the boundary PQ.

  Returns:
    The Report.

  Raises:
    FileNotFoundError: A file or folder is missing, or `images` has no image of the ground truth.
    ValueError: The input is invalid, see panoptic_score.
  """
  files = panoptic_files.pairs(ground_truth, predictions, ground_truth_dir, predictions_dir)
  image_files = gallery_images.ImageFiles(
      images, {image.image_id: _file_name(image) for image in files.images}, 'segments')
  pictures = _Pictures(files, image_files, dilation_ratio)
  os.makedirs(directory, exist_ok=True)
  survey = segment_survey.SegmentSurvey(files.ground_truth.categories)
  update = functools.partial(_update, path=files.predictions.path, dilation_ratio=dilation_ratio)
  counts = workers.count(survey, update, files.images, num_workers, progress)
  score = panoptic_files.file_score(survey.panoptic_quality(), files, counts)
  with atomic_file.writing(os.path.join(directory, TABLE)) as file:
    _write_table(file, survey, files)
  worst, best = chosen_images(survey, count)
  page = os.path.join(directory, PAGE)
  evaluation_page.write(page, evaluation_page.Content(
      title=('Boundary p' if dilation_ratio else 'P') + 'anoptic quality in detail',
      facts=_facts(files, survey),
      result=survey.result(),
      size_limits=segment_survey.SIZE_LIMITS,
      class_names=pictures.names,
      thing_ids=[category.category_id for category in files.ground_truth.categories
                 if category.isthing],
      confusion=survey.confusion(_CONFUSED_CLASSES),
      image_pq=[pq for pq in survey.image_pq if not math.isnan(pq)],
      iou_histogram=survey.iou_histogram.tolist(),
      worst=pictures.entries(worst, survey),
      best=pictures.entries(best, survey),
      table=TABLE,
      notices=[*score.warnings, *score.omitted.sentences(),
               *image_files.notices]))
  return Report(page, score)


def _update(survey: segment_survey.SegmentSurvey, image: panoptic_files.ImagePair, path: str,
            dilation_ratio: Optional[float]) -> left_out.ImageCounts:
  segments = image.ground_truth.segments
  truth, prediction = image.read_maps()
  try:
    comparison = segment_survey.compare(truth, segments, prediction, image.prediction.segments,
                                        dilation_ratio)
  except DataError as error:
    raise DataError(f'{path}: image {image.image_id} ({image.prediction_png}): '
                    f'{error}') from error
  survey.update(comparison)
  wrong = panoptic_quality.wrong_areas(segments, comparison.matching.ground_truth_pixels)
  return left_out.image_counts(truth, prediction, wrong)


def _facts(files: panoptic_files.ImagePairs,
           survey: segment_survey.SegmentSurvey) -> Dict[str, Any]:
  found, in_vain, missed = (sum(counts) for counts in (
      survey.image_true_positives, survey.image_false_positives, survey.image_false_negatives))
  return {
      'ground truth': os.path.basename(files.ground_truth.path),
      'predictions': os.path.basename(files.predictions.path),
      'images': f'{len(files.images):,}',
      'ground truth segments': f'{found + missed:,}',
      'matched': f'{found:,}' + _share(found, found + missed),
      'false positives': f'{in_vain:,}' + _share(in_vain, found + in_vain),
  }


def _share(part: int, whole: int) -> str:
  return f' ({100 * part / whole:.0f} %)' if whole else ''


def _write_table(file: Any, survey: segment_survey.SegmentSurvey,
                 files: panoptic_files.ImagePairs) -> None:
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(('image_id', 'file_name', 'pq', 'tp', 'fp', 'fn'))
  columns = (survey.image_pq, survey.image_true_positives, survey.image_false_positives,
             survey.image_false_negatives)
  for image, pq, *counts in zip(files.images, *columns):
    score = '' if math.isnan(pq) else f'{pq:.6f}'
    writer.writerow((image.image_id, _file_name(image), score, *counts))


def chosen_images(survey: segment_survey.SegmentSurvey,
                  count: int) -> Tuple[List[int], List[int]]:
  """Chooses the worst and the best images by PQ; see gallery_images.worst_and_best."""
  segments = np.add(survey.image_true_positives, survey.image_false_negatives)
  return gallery_images.worst_and_best(survey.image_pq, segments.tolist(), count)


# --- Pictures ---------------------------------------------------------------------------------


def _file_name(image: panoptic_files.ImagePair) -> str:
  return image.image_file or image.ground_truth.file_name


class _Pictures:
  """Creates the entries of the galleries, one image at a time."""

  def __init__(self, files: panoptic_files.ImagePairs, image_files: gallery_images.ImageFiles,
               dilation_ratio: Optional[float]):
    self._files = files
    self._image_files = image_files
    self._dilation_ratio = dilation_ratio
    self._info = catalog.from_annotation_file(files.ground_truth.path, _DIVISOR)
    self.names = gallery_images.short_names(files.class_names)

  def entries(self, positions: Sequence[int],
              survey: segment_survey.SegmentSurvey) -> Iterator[Dict[str, Any]]:
    """Yields entries for page.gallery_article."""
    for position in positions:
      yield self._entry(self._files.images[position], survey.image_pq[position])

  def _entry(self, image: panoptic_files.ImagePair, pq: float) -> Dict[str, Any]:
    truth, prediction = image.read_maps()
    comparison = segment_survey.compare(truth, image.ground_truth.segments, prediction,
                                        image.prediction.segments, self._dilation_ratio)
    step = gallery_images.step(truth.shape)
    label, predicted = (self._label_map(ids[::step, ::step], segments) for ids, segments in (
        (truth, image.ground_truth.segments), (prediction, image.prediction.segments)))
    pixels, problem = self._image_files.read(image.image_id, label.shape)
    ground = gallery_images.gray(label.shape) if pixels is None else pixels
    entry = page.gallery_item(_file_name(image), ground, ground_truth=label, prediction=predicted,
                              dataset_info=self._info, score=pq)
    if pixels is None:
      entry['image'] = None
    return {**entry, 'note': describe(comparison, self.names) + problem}

  def _label_map(self, ids: np.ndarray,
                 segments: Sequence[coco_panoptic.Segment]) -> np.ndarray:
    """Converts segment ids to a panoptic map; things are numbered 1, 2, ... in each class."""
    numbers: Dict[int, int] = collections.defaultdict(int)
    labels = {}
    for segment in segments:
      category = self._info.by_category_id[segment.category_id]
      number = 0
      if category.isthing and not segment.iscrowd:
        numbers[category.class_id] += 1
        number = numbers[category.class_id]
      labels[segment.id] = category.class_id * _DIVISOR + number
    values, inverse = np.unique(ids, return_inverse=True)
    table = np.array([labels.get(value, self._info.void_label) for value in values.tolist()],
                     np.int64)
    return table[inverse].reshape(ids.shape)


def describe(comparison: segment_survey.Comparison, names: Mapping[int, str]) -> str:
  """Describes matches, classification errors, false negatives and false positives in words.

  Args:
    comparison: Comparison of one image.
    names: Category id -> name.
  """
  matching = comparison.matching
  to_find = len(matching.matches) + len(matching.unmatched_ground_truth)
  mistaken = {segment.id for segment, _ in comparison.mistaken}
  instead = {segment.id for _, segment in comparison.mistaken}
  missed = [segment for segment in matching.unmatched_ground_truth if segment.id not in mistaken]
  invented = [segment for segment in matching.unmatched_predictions if segment.id not in instead]
  swapped = [f'{names[one.category_id]} as {names[other.category_id]}'
             for one, other in comparison.mistaken]
  lines = [f'Matched {len(matching.matches)} of {to_find} segments']
  for verb, words in (
      ('Classification errors', swapped),
      ('False negatives', [names[segment.category_id] for segment in missed]),
      ('False positives', [names[segment.category_id] for segment in invented])):
    if words:
      lines.append(f'{verb}: {gallery_images.listed(words)}')
  return '\n'.join(lines)
