"""Writes the report of an evaluation of instances: a page, and a table of all images."""

import csv
import math
import os
from typing import Any, Dict, NamedTuple, Optional

from deeplab_tf.formats import atomic_file, coco_panoptic
from deeplab_tf.metrics import instance_survey
from deeplab_tf.reports.evaluation import gallery_images, instance_page, instance_pictures
from deeplab_tf.scoring import instance_files, workers

PAGE, TABLE = 'index.html', 'images.csv'


class Report(NamedTuple):
  """A written report.

  Attributes:
    page: Path of the page.
    score: Average precision of the predictions.
  """
  page: str
  score: instance_files.AveragePrecision


def write(directory: coco_panoptic.PathLike, ground_truth: coco_panoptic.PathLike,
          predictions: coco_panoptic.PathLike, iou_type: str = 'segm',
          images: Optional[coco_panoptic.PathLike] = None,
          progress: Optional[workers.Progress] = None, count: int = 6,
          num_workers: int = 1) -> Report:
  """Compares instances with a ground truth, and writes index.html and images.csv.

  Args:
    directory: Output folder; created if it does not exist.
    ground_truth: JSON of the ground truth, see instance_files.instance_score.
    predictions: JSON of the predictions, likewise.
    iou_type: 'segm', or 'boundary' for a report about the boundary AP.
    images: Folder of the images, possibly in subfolders. If None, masks are shown on gray.
    progress: Function that is called with the number of newly counted images.
    count: Number of worst images, of best images, and of errors of each sort, to show.
    num_workers: Number of processes; see workers.count.

  Raises:
    FileNotFoundError: A file or folder is missing, or `images` has no image of the ground truth.
    ValueError: The input is invalid, see instance_score.
  """
  files = instance_files.load(ground_truth, predictions, iou_type)
  image_files = gallery_images.ImageFiles(
      images, {image.image_id: _file_name(image) for image in files.images}, 'masks')
  os.makedirs(directory, exist_ok=True)
  survey = instance_survey.InstanceSurvey(files.category_ids, iou_type)
  instance_files.count(survey, files, progress, num_workers)
  score = instance_files.average_precision(survey.result(), files)
  with atomic_file.writing(os.path.join(directory, TABLE)) as file:
    _write_table(file, survey, files)
  pictures = instance_pictures.Pictures(files, image_files)
  worst, best = gallery_images.worst_and_best(survey.image_ap, survey.image_truths, count)
  path = os.path.join(directory, PAGE)
  instance_page.write(path, instance_page.Content(
      title=('Boundary i' if iou_type == 'boundary' else 'I') + 'nstance segmentation in detail',
      facts=_facts(os.fspath(ground_truth), files, survey),
      figures=score.figures,
      curves=survey.precision.curves(),
      survey=survey,
      class_names=pictures.names,
      worst=pictures.images(worst, survey),
      best=pictures.images(best, survey),
      false_positives=pictures.false_positives(survey.false_positives[:count]),
      false_negatives=pictures.false_negatives(survey.false_negatives[:count]),
      table=TABLE,
      notices=[*score.omitted.sentences(), *image_files.notices]))
  return Report(path, score)


def _file_name(image: instance_files.ImageInstances) -> str:
  return image.file_name or str(image.image_id)


def _facts(ground_truth: str, files: instance_files.InstanceFiles,
           survey: instance_survey.InstanceSurvey) -> Dict[str, Any]:
  return {
      'ground truth': os.path.basename(ground_truth),
      'predictions': os.path.basename(files.predictions),
      'images': f'{len(files.images):,}',
      'classes': f'{len(files.category_ids):,}',
      'annotations': f'{int(survey.truths.sum()):,}',
      'results': f'{len(files.results):,}',
  }


def _write_table(file: Any, survey: instance_survey.InstanceSurvey,
                 files: instance_files.InstanceFiles) -> None:
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(('image_id', 'file_name', 'ap', 'tp', 'fp', 'fn'))
  for image, ap, *counts in zip(files.images, survey.image_ap, survey.image_correct,
                                survey.image_wrong, survey.image_missed):
    writer.writerow((image.image_id, _file_name(image), '' if math.isnan(ap) else f'{ap:.6f}',
                     *counts))
