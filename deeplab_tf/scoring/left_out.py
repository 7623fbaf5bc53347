"""Reports what a score did not count (pixels, classes, predictions), as numbers and as text."""

import collections
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf import image_names
from deeplab_tf.formats.coco_panoptic import Annotation, PanopticJson
from deeplab_tf.metrics import mean_iou

_TITLE = 'left out of the score'


class LeftOut(NamedTuple):
  """Pixels, classes and predictions that a score left out.

  Attributes:
    figures: Numbers by name, for JSON.
    lines: Lines of text for users.
  """
  figures: Mapping[str, Any] = {}
  lines: Tuple[str, ...] = ()

  def sentences(self) -> List[str]:
    """Returns the lines as sentences; everything that was left out is one sentence."""
    inside = [line.strip() for line in self.lines if line.startswith(' ')]
    first = [f'{_TITLE}: {"; ".join(inside)}'] if inside else []
    misses = [line for line in self.lines if line != _TITLE and not line.startswith(' ')]
    return [f'{line[0].upper()}{line[1:]}.' for line in first + misses]


class ImageCounts(NamedTuple):
  """Numbers of pixels of one image, and ground truth segments with a wrong area.

  Attributes:
    pixels: Number of pixels.
    void: Number of pixels that are unlabeled in the ground truth.
    unpredicted: Number of pixels without a prediction.
    wrong_areas: Ids of the ground truth segments whose stated area differs from their number of
      pixels.
  """
  pixels: int
  void: int
  unpredicted: int
  wrong_areas: Tuple[int, ...]


def image_counts(ground_truth: np.ndarray, prediction: np.ndarray,
                 wrong_areas: Tuple[int, ...]) -> ImageCounts:
  """Counts the pixels of two maps of segment ids, where 0 is void."""
  return ImageCounts(ground_truth.size, ground_truth.size - np.count_nonzero(ground_truth),
                     prediction.size - np.count_nonzero(prediction), wrong_areas)


# --- Panoptic ---------------------------------------------------------------------------------


def panoptic(ground_truth: PanopticJson, ground_truths: Sequence[Annotation],
             predictions: Sequence[Annotation], not_scored: int,
             counts: Sequence[ImageCounts]) -> LeftOut:
  """Reports what a panoptic quality left out.

  Args:
    ground_truth: Ground truth file, which defines the categories.
    ground_truths: Annotations of the scored images.
    predictions: Predictions for the scored images, in the same order.
    not_scored: Number of predictions for images that the ground truth does not have.
    counts: Numbers of pixels of each scored image.
  """
  pixels, void, unpredicted = (sum(getattr(each, name) for each in counts)
                               for name in ('pixels', 'void', 'unpredicted'))
  occurring = {segment.category_id for annotation in ground_truths
               for segment in annotation.segments if not segment.iscrowd}
  crowds = sum(segment.iscrowd for annotation in ground_truths for segment in annotation.segments)
  absent = [category.category_id for category in ground_truth.categories
            if category.category_id not in occurring]
  predicted = {segment.category_id for annotation in predictions
               for segment in annotation.segments}
  names = {category.category_id: category.name for category in ground_truth.categories}
  figures = {
      'pixels': pixels, 'void_pixels': void, 'void_share': _share(void, pixels),
      'unpredicted_pixels': unpredicted, 'unpredicted_share': _share(unpredicted, pixels),
      'crowd_segments': crowds, 'classes_not_in_ground_truth': absent,
      'predictions_not_scored': not_scored}
  return LeftOut(figures, _laid_out([
      _pixel_line('void pixels of the ground truth', void, pixels),
      _class_line(absent, len(names), names, predicted),
      _count_line('crowd segments of the ground truth', crowds),
      _count_line('predictions of images without ground truth', not_scored),
  ], [_pixel_line('pixels without a prediction', unpredicted, pixels)]))


def split_stuff_warnings(ground_truth: PanopticJson, ground_truths: Sequence[Annotation],
                         predictions: Sequence[Annotation]) -> Tuple[str, ...]:
  """Returns warnings about stuff classes that have several segments in one image."""
  stuff = {category.category_id: category.name for category in ground_truth.categories
           if not category.isthing}
  warnings = []
  for side, annotations in (('ground truth', ground_truths), ('predictions', predictions)):
    split = [(annotation.image_id, *found) for annotation in annotations
             if (found := _most_split(annotation, stuff))]
    if split:
      image_id, name, times = split[0]
      warnings.append(
          f'stuff lies in several segments in {len(split)} of the {len(annotations)} images of '
          f'the {side} (image {image_id!r}: "{name}" in {times}); each counts by itself here, as '
          'in panopticapi, but a training and --definition=deeplab2 count a class of stuff as one '
          'segment, so their PQ differs')
  return tuple(warnings)


def _most_split(annotation: Annotation,
                stuff: Mapping[int, Optional[str]]) -> Optional[Tuple[Optional[str], int]]:
  """Returns name and count of the stuff class with the most segments, if more than one."""
  times = collections.Counter(segment.category_id for segment in annotation.segments
                              if segment.category_id in stuff)
  for category_id, number in times.most_common(1):
    if number > 1:
      return stuff[category_id], number
  return None


# --- Semantic ---------------------------------------------------------------------------------


def semantic(metric: mean_iou.MeanIoU, names: Mapping[int, Any], not_scored: int) -> LeftOut:
  """Reports what a mean IoU left out.

  Args:
    metric: Metric that has counted all images.
    names: Class id -> name.
    not_scored: Number of predictions for images that the ground truth does not have.
  """
  counted = int(metric.confusion.sum())
  pixels = counted + metric.ignored
  no_class = int(metric.confusion[:, -1].sum())
  in_truth, predicted = metric.confusion.sum(axis=1), metric.confusion[:, :-1].sum(axis=0)
  absent = [metric.class_ids[index] for index in np.flatnonzero(in_truth == 0)]
  figures = {
      'pixels': pixels, 'ignored_pixels': metric.ignored,
      'ignored_share': _share(metric.ignored, pixels), 'no_class_pixels': no_class,
      'no_class_share': _share(no_class, counted), 'classes_not_in_ground_truth': absent,
      'predictions_not_scored': not_scored}
  seen = {metric.class_ids[index] for index in np.flatnonzero(predicted)}
  return LeftOut(figures, _laid_out([
      _pixel_line('ignored pixels of the ground truth', metric.ignored, pixels),
      _class_line(absent, len(metric.class_ids), names, seen),
      _count_line('predictions of images without ground truth', not_scored),
  ], [_pixel_line('scored pixels predicted as no class', no_class, counted)]))


# --- Instances --------------------------------------------------------------------------------


def instances(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]],
              names: Mapping[int, Any], most: int) -> LeftOut:
  """Reports what an average precision left out.

  Args:
    ground_truth: COCO instance JSON.
    results: Predicted instances.
    names: Category id -> name.
    most: Maximum number of results per image and category that count.
  """
  is_crowd = [bool(entry.get('iscrowd', 0)) for entry in ground_truth['annotations']]
  occurring = {entry['category_id'] for entry, crowd in zip(ground_truth['annotations'], is_crowd)
               if not crowd}
  absent = sorted(set(names) - occurring)
  times = collections.Counter((entry['image_id'], entry['category_id']) for entry in results)
  beyond = sum(max(0, number - most) for number in times.values())
  images = {entry['image_id'] for entry, crowd in zip(ground_truth['annotations'], is_crowd)
            if not crowd}
  without = len(images - {image_id for image_id, _ in times})
  figures = {'crowd_annotations': sum(is_crowd), 'classes_not_in_ground_truth': absent,
             'results_beyond_limit': beyond, 'images_without_results': without}
  return LeftOut(figures, _laid_out([
      _class_line(absent, len(names), names, {category for _, category in times}),
      _count_line('crowd annotations of the ground truth', sum(is_crowd)),
      _count_line(f'results beyond {most} of an image and class', beyond),
  ], [f'images with annotations but without a result: {without:,} of {len(images):,}'
      if without else None]))


# --- Text -------------------------------------------------------------------------------------


def _laid_out(lines: Iterable[Optional[str]], counted: Iterable[Optional[str]]) -> Tuple[str, ...]:
  """Returns `lines` under their title, then `counted`, which are errors and not left out."""
  kept = [f'  {line}' for line in lines if line]
  misses: List[str] = [line for line in counted if line]
  return (*((_TITLE, *kept) if kept else ()), *misses)


def _share(part: int, whole: int) -> Optional[float]:
  return part / whole if whole else None


def _pixel_line(title: str, part: int, whole: int) -> Optional[str]:
  return f'{title}: {100 * part / whole:.2f} % ({part:,} of {whole:,})' if part else None


def _count_line(title: str, count: int) -> Optional[str]:
  return f'{title}: {count:,}' if count else None


def _class_line(absent: Sequence[int], count: int, names: Mapping[int, Any],
                predicted: Iterable[int]) -> Optional[str]:
  if not absent:
    return None
  line = (f'classes that the ground truth never has: {len(absent)} of {count} '
          f'({image_names.shown(_named(absent, names))})')
  seen = set(predicted)
  vain = [class_id for class_id in absent if class_id in seen]
  return line + (f'; predicted nevertheless: {image_names.shown(_named(vain, names))}'
                 if vain else '')


def _named(class_ids: Iterable[int], names: Mapping[int, Any]) -> List[str]:
  return [str(names.get(class_id, class_id)) for class_id in class_ids]


def with_figures(result: Mapping[str, Any], left_out: LeftOut) -> Dict[str, Any]:
  """Returns a result with the numbers of what was left out added under "left_out"."""
  return {**result, 'left_out': dict(left_out.figures)}
