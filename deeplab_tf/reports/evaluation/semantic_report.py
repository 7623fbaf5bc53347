"""Writes the report of an evaluation of semantic maps: a page, and a table of all images."""

import csv
import math
import os
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.formats import atomic_file, coco_panoptic
from deeplab_tf.metrics import confusion, semantic_survey
from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import gallery_images, semantic_page
from deeplab_tf.scoring import panoptic_files, semantic_files, workers
from deeplab_tf.visualization import palette

PAGE, TABLE = 'index.html', 'images.csv'
_CONFUSED_CLASSES = 16
_MOST_PAIRS = 3


class SemanticImage(NamedTuple):
  """One image.

  Attributes:
    image_id: Id of the image.
    name: Name of the image.
    read: Function that returns the class ids of ground truth and prediction, int [height, width].
  """
  image_id: Any
  name: str
  read: Callable[[], Tuple[np.ndarray, np.ndarray]]


class Source(NamedTuple):
  """Images to compare, and how they are scored.

  Attributes:
    ground_truth: Path of the ground truth.
    predictions: Path of the predictions.
    images: Images in the order in which `score` counts them.
    categories: Classes in ascending order of their class ids; only ids, names and colors are used.
    ignore_label: Class id of unlabeled pixels in the ground truth.
    score: Function (progress, number of workers) -> FileScore whose metric is a SemanticSurvey.
  """
  ground_truth: str
  predictions: str
  images: Sequence[SemanticImage]
  categories: Sequence[Category]
  ignore_label: int
  score: Callable[[Optional[workers.Progress], int], panoptic_files.FileScore]


class Report(NamedTuple):
  """A written report.

  Attributes:
    page: Path of the page.
    score: Scores of the predictions; the metric is a MeanIoU.
  """
  page: str
  score: panoptic_files.FileScore


def from_panoptic(ground_truth: coco_panoptic.PathLike, predictions: coco_panoptic.PathLike,
                  ground_truth_dir: Optional[coco_panoptic.PathLike] = None,
                  predictions_dir: Optional[coco_panoptic.PathLike] = None) -> Source:
  """Returns the images of panoptic files; see panoptic_files.semantic_score."""
  files = panoptic_files.pairs(ground_truth, predictions, ground_truth_dir, predictions_dir)
  colors = {category.category_id: category.color
            for category in catalog.from_annotation_file(files.ground_truth.path).categories}
  return Source(
      files.ground_truth.path, files.predictions.path,
      [SemanticImage(image.image_id, image.image_file or image.ground_truth.file_name,
                     image.read_categories) for image in files.images],
      [Category(category_id, category_id, name, False, colors[category_id])
       for category_id, name in sorted(files.class_names.items())],
      panoptic_files.NO_CATEGORY,
      lambda progress, number: panoptic_files.score_categories(
          files, semantic_survey.SemanticSurvey, progress, number))


def from_label_pngs(ground_truth: coco_panoptic.PathLike, predictions: coco_panoptic.PathLike,
                    num_classes: int, ignore_label: int = 255) -> Source:
  """Returns the images of folders of semantic PNGs; see semantic_files.label_png_score."""
  files = semantic_files.pairs(ground_truth, predictions)
  return Source(
      os.fspath(ground_truth), os.fspath(predictions),
      [SemanticImage(image.name, image.name, image.read_maps) for image in files.images],
      [Category(class_id, class_id, files.class_names.get(class_id, str(class_id)), False,
                palette.generated_color(class_id)) for class_id in range(num_classes)],
      ignore_label,
      lambda progress, number: semantic_files.score_pairs(
          files, semantic_survey.SemanticSurvey(range(num_classes), ignore_label), progress,
          number))


def write(directory: coco_panoptic.PathLike, source: Source,
          images: Optional[coco_panoptic.PathLike] = None,
          progress: Optional[workers.Progress] = None, count: int = 6,
          num_workers: int = 1) -> Report:
  """Compares semantic maps with a ground truth, and writes index.html and images.csv.

  Args:
    directory: Output folder; created if it does not exist.
    source: Return value of `from_panoptic` or `from_label_pngs`.
    images: Folder of the images, possibly in subfolders. If None, classes are shown on gray.
    progress: Function that is called with the number of newly counted images.
    count: Number of worst images, and of best images, to show.
    num_workers: Number of processes; see workers.count.

  Raises:
    FileNotFoundError: A file or folder is missing, or `images` has no image of the ground truth.
    ValueError: The input is invalid, see semantic_score and label_png_score.
  """
  image_files = gallery_images.ImageFiles(
      images, {image.image_id: image.name for image in source.images}, 'classes')
  os.makedirs(directory, exist_ok=True)
  score = source.score(progress, num_workers)
  survey = score.metric
  with atomic_file.writing(os.path.join(directory, TABLE)) as file:
    _write_table(file, survey, source.images)
  pictures = _Pictures(source, image_files)
  worst, best = gallery_images.worst_and_best(survey.image_miou, survey.image_classes, count)
  path = os.path.join(directory, PAGE)
  semantic_page.write(path, semantic_page.Content(
      facts=_facts(source, survey),
      metric=survey,
      class_names=pictures.names,
      confusion=confusion.most_confused(survey.class_ids, survey.confusion, _CONFUSED_CLASSES),
      pairs=confusion.pairs(survey.class_ids, survey.confusion),
      image_miou=[miou for miou in survey.image_miou if not math.isnan(miou)],
      worst=pictures.entries(worst, survey),
      best=pictures.entries(best, survey),
      table=TABLE,
      notices=[*score.warnings, *score.omitted.sentences(), *image_files.notices]))
  return Report(path, score)


def _facts(source: Source, survey: semantic_survey.SemanticSurvey) -> Dict[str, Any]:
  in_truth = int(np.count_nonzero(survey.confusion.sum(axis=1)))
  return {
      'ground truth': os.path.basename(os.path.normpath(source.ground_truth)),
      'predictions': os.path.basename(os.path.normpath(source.predictions)),
      'images': f'{len(source.images):,}',
      'classes': f'{len(survey.class_ids):,}',
      'classes in the ground truth': f'{in_truth:,}',
      'scored pixels': f'{int(survey.confusion.sum()):,}',
  }


def _write_table(file: Any, survey: semantic_survey.SemanticSurvey,
                 images: Sequence[SemanticImage]) -> None:
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(('image_id', 'file_name', 'miou', 'pixel_accuracy', 'classes'))
  for image, miou, accuracy, classes in zip(images, survey.image_miou, survey.image_accuracy,
                                            survey.image_classes):
    scores = ('' if math.isnan(score) else f'{score:.6f}' for score in (miou, accuracy))
    writer.writerow((image.image_id, image.name, *scores, classes))


class _Pictures:
  """Creates the entries of the galleries, one image at a time."""

  def __init__(self, source: Source, image_files: gallery_images.ImageFiles):
    self._source = source
    self._image_files = image_files
    self.names = gallery_images.short_names({c.class_id: c.name for c in source.categories})
    # Class ids of the pictures are positions, and the one after them is void.
    self._void = len(source.categories)
    self._ids = np.array([c.class_id for c in source.categories], np.int64)
    self._info = DatasetInfo(
        'classes', tuple(c._replace(class_id=position)
                         for position, c in enumerate(source.categories)),
        num_classes=self._void, ignore_label=self._void, label_divisor=1)

  def entries(self, positions: Sequence[int],
              survey: semantic_survey.SemanticSurvey) -> Iterator[Dict[str, Any]]:
    """Yields entries for page.gallery_article."""
    for position in positions:
      yield self._entry(self._source.images[position], survey, position)

  def _entry(self, image: SemanticImage, survey: semantic_survey.SemanticSurvey,
             position: int) -> Dict[str, Any]:
    truth, prediction = image.read()
    note = self._describe(truth, prediction, survey.image_accuracy[position])
    step = gallery_images.step(truth.shape)
    truth, prediction = truth[::step, ::step], prediction[::step, ::step]
    labels = np.where(truth == self._source.ignore_label, self._void, self._positions(truth))
    pixels, problem = self._image_files.read(image.image_id, labels.shape)
    ground = gallery_images.gray(labels.shape) if pixels is None else pixels
    entry = page.gallery_item(image.name, ground, ground_truth=labels,
                              prediction=self._positions(prediction), dataset_info=self._info,
                              score=survey.image_miou[position])
    if pixels is None:
      entry['image'] = None
    return {**entry, 'measure': 'mIoU', 'note': note + problem}

  def _positions(self, classes: np.ndarray) -> np.ndarray:
    """Replaces class ids by their positions, and anything else by void."""
    found = np.minimum(np.searchsorted(self._ids, classes), len(self._ids) - 1)
    return np.where(self._ids[found] == classes, found, self._void)

  def _describe(self, truth: np.ndarray, prediction: np.ndarray, accuracy: float) -> str:
    """Describes the pixel accuracy and the errors with the most pixels in words."""
    single = semantic_survey.SemanticSurvey(self._ids.tolist(), self._source.ignore_label)
    single.update(truth, prediction)
    pixels = max(1, int(single.confusion.sum()))
    wrong: List[Tuple[int, str]] = [
        (pair['pixels'], f'{self.names[pair["ground_truth"]]} as {self.names[pair["prediction"]]}')
        for pair in confusion.pairs(single.class_ids, single.confusion)]
    wrong += [(int(number), f'{self.names[class_id]} as no class')
              for class_id, number in zip(single.class_ids, single.confusion[:, -1]) if number]
    words = [f'{text} ({percent(number / pixels)} %)'
             for number, text in sorted(wrong, reverse=True)[:_MOST_PAIRS]]
    return f'Pixel accuracy {percent(accuracy)} %' + (
        f'\nMost pixels: {", ".join(words)}' if words else '')
