"""Scores panoptic predictions on disk by panoptic quality and mean IoU."""

import functools
import pathlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.metrics import deeplab2_panoptic_quality, mean_iou, overlap, panoptic_quality
from deeplab_tf.scoring import category_names, image_pairs, left_out, workers
from deeplab_tf.user_errors import DataError

# Panoptic quality by mask IoU, by the smaller of mask IoU and boundary IoU, and as in DeepLab2's
# metric.
DEFINITIONS = {
    'panopticapi': panoptic_quality.PanopticQuality,
    'boundary': functools.partial(panoptic_quality.PanopticQuality,
                                  dilation_ratio=panoptic_quality.DILATION_RATIO),
    'deeplab2': deeplab2_panoptic_quality.DeepLab2PanopticQuality,
}
NO_CATEGORY = -1  # Of a pixel without a segment.


class FileScore(NamedTuple):
  """A score of files, with warnings.

  Attributes:
    metric: PanopticQuality or MeanIoU.
    class_names: Category id -> name.
    warnings: Warnings for the user, one line each.
    omitted: Pixels, classes and predictions that do not count.
  """
  metric: Any
  class_names: Dict[int, str]
  warnings: Tuple[str, ...]
  omitted: left_out.LeftOut = left_out.LeftOut()


class ImagePair(NamedTuple):
  """One image of the ground truth with its prediction.

  Attributes:
    ground_truth: Ground truth annotation.
    prediction: Predicted annotation.
    ground_truth_png: Path of the ground truth PNG, which exists.
    prediction_png: Path of the predicted PNG, which exists.
    image_file: File name of the image in the ground truth, or None if it is not listed.
  """
  ground_truth: panoptic_io.Annotation
  prediction: panoptic_io.Annotation
  ground_truth_png: pathlib.Path
  prediction_png: pathlib.Path
  image_file: Optional[str]

  @property
  def image_id(self) -> Union[int, str]:
    """Id of the image in the ground truth."""
    return self.ground_truth.image_id

  def read_maps(self) -> Tuple[np.ndarray, np.ndarray]:
    """Reads both PNGs.

    Returns:
      The segment ids of ground truth and prediction, int32 [height, width] each.

    Raises:
      ValueError: A PNG cannot be read or the two differ in size.
    """
    maps = [panoptic_io.read_panoptic_png(png)
            for png in (self.ground_truth_png, self.prediction_png)]
    if maps[0].shape != maps[1].shape:
      sizes = ' and '.join('{} x {}'.format(*ids.shape) for ids in maps)
      raise DataError(f'image {self.image_id}: {self.ground_truth_png} and '
                      f'{self.prediction_png} are {sizes} pixels (height x width); both must '
                      'have one size')
    return maps[0], maps[1]

  def read_categories(self) -> Tuple[np.ndarray, np.ndarray]:
    """Reads both PNGs as maps of category ids, int64 [height, width]; see `read_maps`."""
    maps = []
    for ids, annotation in zip(self.read_maps(), (self.ground_truth, self.prediction)):
      values, inverse = np.unique(ids, return_inverse=True)
      maps.append(_categories(values, annotation.segments)[inverse].reshape(ids.shape))
    return maps[0], maps[1]


class ImagePairs(NamedTuple):
  """All images of a ground truth with their predictions; the PNGs are not read yet.

  Attributes:
    ground_truth: Ground truth file, which defines the categories.
    predictions: File of the predictions.
    images: Images in the order of the ground truth.
    warnings: Warnings about differences between the two files, one line each.
  """
  ground_truth: panoptic_io.PanopticJson
  predictions: panoptic_io.PanopticJson
  images: Tuple[ImagePair, ...]
  warnings: Tuple[str, ...] = ()

  @property
  def class_names(self) -> Dict[int, str]:
    """Category id -> name."""
    return {category.category_id: category.name for category in self.ground_truth.categories}

  @property
  def not_scored(self) -> int:
    """Number of predictions for images that the ground truth does not have."""
    return len(self.predictions.annotations) - len(self.images)


def pairs(ground_truth: panoptic_io.PathLike, predictions: panoptic_io.PathLike,
          ground_truth_dir: Optional[panoptic_io.PathLike] = None,
          predictions_dir: Optional[panoptic_io.PathLike] = None) -> ImagePairs:
  """Pairs a ground truth and predictions in the COCO panoptic format by image.

  Images are paired by id, or by file name if ids differ or contradict names; see image_pairs.

  Args:
    ground_truth: JSON of the ground truth, which defines the categories.
    predictions: JSON of the predictions; those for images without ground truth are not read.
    ground_truth_dir: Folder of the ground truth PNGs; by default the JSON's path without `.json`.
    predictions_dir: Folder of the predicted PNGs; by default the JSON's path without `.json`.

  Raises:
    FileNotFoundError: A file, folder or PNG is missing.
    ValueError: An image has no prediction, or a predicted category is unknown or numbered
      differently. The message names the file, image, segment and category.
  """
  truth = panoptic_io.load_ground_truth(ground_truth)
  if not truth.annotations:
    raise DataError(f'{truth.path}: "annotations" is empty, so there is nothing to score')
  predicted = panoptic_io.load_predictions(predictions)
  warnings = category_names.compare(predicted.path, predicted.categories, truth.path,
                                    truth.categories)
  images, notes = _pair(truth, predicted, panoptic_io.png_folder(ground_truth, ground_truth_dir),
                        panoptic_io.png_folder(predictions, predictions_dir))
  _check_categories(truth, predicted.path, images)
  return ImagePairs(truth, predicted, tuple(images), (*notes, *warnings))


def panoptic_score(ground_truth: panoptic_io.PathLike, predictions: panoptic_io.PathLike,
                   ground_truth_dir: Optional[panoptic_io.PathLike] = None,
                   predictions_dir: Optional[panoptic_io.PathLike] = None,
                   progress: Optional[workers.Progress] = None, num_workers: int = 1,
                   definition: str = 'panopticapi') -> FileScore:
  """Computes the panoptic quality of predictions in the COCO panoptic format.

  Args:
    ground_truth: JSON of the ground truth, which defines the categories.
    predictions: JSON of the predictions; those for images without ground truth are not read.
    ground_truth_dir: Folder of the ground truth PNGs; by default the JSON's path without `.json`.
    predictions_dir: Folder of the predicted PNGs; by default the JSON's path without `.json`.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.
    definition: Definition of panoptic quality, one of DEFINITIONS.

  Returns:
    A FileScore with a PanopticQuality.

  Raises:
    FileNotFoundError: A file or folder is missing.
    ValueError: The input is invalid (panopticapi rejects it, too): an image has no prediction, a
      category is not in the ground truth, or the segments in JSON and PNG differ. The message names
      the file, image, segment and category.
  """
  if definition not in DEFINITIONS:
    raise DataError(f'unknown definition "{definition}" of panoptic quality; allowed are '
                    f'{", ".join(DEFINITIONS)}')
  files = pairs(ground_truth, predictions, ground_truth_dir, predictions_dir)
  metric = DEFINITIONS[definition](files.ground_truth.categories)
  update = functools.partial(_update_panoptic, path=files.predictions.path)
  counts = workers.count(metric, update, files.images, num_workers, progress)
  return file_score(metric, files, counts, as_deeplab2=definition == 'deeplab2')


def file_score(metric: panoptic_quality.PanopticQuality, files: ImagePairs,
               counts: Sequence[left_out.ImageCounts], as_deeplab2: bool = False) -> FileScore:
  """Returns a panoptic quality together with its warnings.

  Args:
    metric: Metric that has counted the images.
    files: Images that were scored.
    counts: Numbers of pixels of each image.
    as_deeplab2: Whether the metric follows DeepLab2: a stuff class is one segment, and areas are
      counted in the map.
  """
  truths = [image.ground_truth for image in files.images]
  predictions = [image.prediction for image in files.images]
  odd: Tuple[str, ...] = ()
  if not as_deeplab2:
    odd = (*area_warnings(files, [each.wrong_areas for each in counts]),
           *left_out.split_stuff_warnings(files.ground_truth, truths, predictions))
  return FileScore(metric, files.class_names, (*files.warnings, *odd),
                   left_out.panoptic(files.ground_truth, truths, predictions, files.not_scored,
                                     counts))


def semantic_score(ground_truth: panoptic_io.PathLike, predictions: panoptic_io.PathLike,
                   ground_truth_dir: Optional[panoptic_io.PathLike] = None,
                   predictions_dir: Optional[panoptic_io.PathLike] = None,
                   progress: Optional[workers.Progress] = None,
                   num_workers: int = 1) -> FileScore:
  """Computes the mean IoU of panoptic maps, with segments merged by category.

  Crowd segments count as their category; unlabeled pixels of the ground truth are left out; pixels
  without a prediction are false negatives. See panoptic_score for the arguments.

  Returns:
    A FileScore with a MeanIoU.
  """
  return score_categories(pairs(ground_truth, predictions, ground_truth_dir, predictions_dir),
                          mean_iou.MeanIoU, progress, num_workers)


def score_categories(files: ImagePairs, metric_class: Callable[..., mean_iou.MeanIoU],
                     progress: Optional[workers.Progress] = None,
                     num_workers: int = 1) -> FileScore:
  """Computes the mean IoU of paired panoptic maps; see `semantic_score`.

  Args:
    files: Images to score.
    metric_class: MeanIoU or a class derived from it, which counts the images one by one.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.
  """
  category_ids = [category.category_id for category in files.ground_truth.categories]
  metric = metric_class(category_ids, NO_CATEGORY)
  workers.count(metric, _update_semantic, files.images, num_workers, progress)
  return FileScore(metric, files.class_names, files.warnings,
                   left_out.semantic(metric, files.class_names, files.not_scored))


def _update_panoptic(metric: panoptic_quality.PanopticQuality, image: ImagePair,
                     path: str) -> left_out.ImageCounts:
  truth, prediction = image.read_maps()
  try:
    wrong = metric.update(truth, image.ground_truth.segments, prediction, image.prediction.segments)
    return left_out.image_counts(truth, prediction, wrong)
  except DataError as error:
    raise DataError(f'{path}: image {image.image_id} ({image.prediction_png}): '
                    f'{error}') from error


def _update_semantic(metric: mean_iou.MeanIoU, image: ImagePair) -> None:
  ids, pixels = overlap.pair_counts(*image.read_maps())
  metric.update(_categories(ids[:, 0], image.ground_truth.segments),
                _categories(ids[:, 1], image.prediction.segments), pixels)


def _categories(ids: np.ndarray, segments: Sequence[panoptic_io.Segment]) -> np.ndarray:
  """Replaces segment ids by category ids; -1 for unlisted segments."""
  category_of = {segment.id: segment.category_id for segment in segments}
  return np.array([category_of.get(value, NO_CATEGORY) for value in ids.tolist()], np.int64)


def _pair(truth: panoptic_io.PanopticJson, predictions: panoptic_io.PanopticJson,
          truth_folder: pathlib.Path,
          folder: pathlib.Path) -> Tuple[List[ImagePair], Tuple[str, ...]]:
  """Pairs the annotations of both files and finds their PNGs; also returns warnings."""
  found = image_pairs.assign(listed_images(truth), listed_images(predictions), truth.path,
                             predictions.path)
  for annotation, position in zip(truth.annotations, found.positions):
    if position is None:
      count = len(predictions.annotations)
      known = image_pairs.first_ids(prediction.image_id for prediction in predictions.annotations)
      raise DataError(
          f'{predictions.path}: no prediction for image {annotation.image_id!r} '
          f'({annotation.file_name}) of {truth.path}; the file has {count} predictions'
          + (f', for images {known}, ...' if count else '')
          + (f'; {found.hint}' if found.hint else ''))
  chosen = [predictions.annotations[position] for position in found.positions
            if position is not None]
  pngs = (panoptic_io.find_pngs(truth_folder, truth.annotations, 'ground truth'),
          panoptic_io.find_pngs(folder, chosen, 'prediction'))
  work = [ImagePair(annotation, prediction, *paths, truth.image_files.get(annotation.image_id))
          for annotation, prediction, *paths in zip(truth.annotations, chosen, *pngs)]
  return work, found.warnings


def listed_images(content: panoptic_io.PanopticJson) -> List[image_pairs.ListedImage]:
  """Returns the ids and names of the annotated images of a JSON, in the order of the file."""
  # If the JSON lists image names, the name of the PNG is not used as another one.
  return [image_pairs.ListedImage(annotation.image_id,
                                  content.image_files.get(annotation.image_id),
                                  None if content.image_files else annotation.file_name)
          for annotation in content.annotations]


def _check_categories(truth: panoptic_io.PanopticJson, path: str,
                      work: Sequence[ImagePair]) -> None:
  known = {category.category_id for category in truth.categories}
  for item in work:
    for segment in item.prediction.segments:
      if segment.category_id not in known:
        raise DataError(f'{path}: image {item.prediction.image_id}: segment {segment.id} is of '
                        f'category {segment.category_id}, which {truth.path} does not list; it '
                        f'has {len(known)} categories from {min(known)} to {max(known)}')


def area_warnings(files: ImagePairs, wrong: Sequence[Tuple[int, ...]]) -> Tuple[str, ...]:
  """Returns a warning about ground truth segments with a wrong area, if there are any.

  Args:
    files: Images that were scored.
    wrong: Ids of the segments with a wrong area, for each image.
  """
  first = next(((image.image_id, ids[0]) for image, ids in zip(files.images, wrong) if ids), None)
  if first is None:
    return ()
  return (f'{files.ground_truth.path}: the stated "area" of {sum(map(len, wrong))} ground truth '
          f'segments is not their number of pixels (first: image {first[0]}, segment {first[1]}); '
          'the score uses the stated areas, as panopticapi does, and may be wrong, even above 100',)
