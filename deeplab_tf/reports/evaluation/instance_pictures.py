"""The pictures of the page about instances: masks of ground truth and prediction over images."""

import math
from typing import (
  Any,
  Dict,
  Iterable,
  Iterator,
  List,
  Mapping,
  Optional,
  Sequence,
  Tuple,
)

import numpy as np

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.formats import instance_masks
from deeplab_tf.metrics.instance_survey import CONFIDENT, Finding, InstanceSurvey
from deeplab_tf.reports.evaluation import gallery_images
from deeplab_tf.scoring.instance_files import ImageInstances, InstanceFiles
from deeplab_tf.visualization import draw, instances, palette

# Names of instance_survey.KINDS, and of annotations without a match, on the page.
NAMES = {'correct': 'true positives', 'duplicate': 'duplicates',
         'wrong_class': 'classification errors', 'imprecise': 'localization errors',
         'invented': 'no overlap with the class', 'missed': 'false negatives'}
_KINDS = {'duplicate': 'duplicate', 'wrong_class': 'classification error',
          'imprecise': 'localization error', 'invented': 'no overlap with the class'}
_SMALLEST_SIDE = 360  # Pixels of a picture; smaller ones are enlarged.
# A picture of one instance shows its box enlarged by this factor, but at least this part of the
# image.
_MARGIN, _LEAST_PART = 2.0, 0.3
_Entries = Sequence[Mapping[str, Any]]


class Pictures:
  """Creates the entries of the galleries, one at a time."""

  def __init__(self, files: InstanceFiles, image_files: gallery_images.ImageFiles):
    """Initializes the pictures.

    Args:
      files: Ground truth and predictions.
      image_files: Images by image id.
    """
    self._images = files.images
    self._image_files = image_files
    self.names = gallery_images.short_names(files.class_names)
    self._info = DatasetInfo(
        'instances', tuple(
            Category(position, category_id, self.names[category_id], True,
                     palette.generated_color(position))
            for position, category_id in enumerate(files.category_ids)),
        num_classes=len(files.category_ids), ignore_label=len(files.category_ids),
        label_divisor=2)
    self._class_of = {c.category_id: c.class_id for c in self._info.categories}

  def images(self, positions: Iterable[int], survey: InstanceSurvey) -> Iterator[Dict[str, Any]]:
    """Yields entries of whole images for page.gallery_article."""
    for position in positions:
      image = self._images[position]
      confident = [entry for entry in image.results if entry['score'] >= CONFIDENT]
      yield {**self._entry(image, (image.annotations, confident),
                           _counts(image, survey, position)),
             'measure': 'AP', 'score': survey.image_ap[position]}

  def false_positives(self, findings: Iterable[Finding]) -> Iterator[Dict[str, Any]]:
    """Yields entries that show one prediction and all annotations near it."""
    for finding in findings:
      image = self._images[finding.image]
      result = image.results[finding.position]
      note = (f'{self.names[result["category_id"]]} with a score of {result["score"]:.3f}: '
              f'{_KINDS[finding.kind]}, largest IoU with an annotation {finding.iou:.2f}')
      yield self._entry(image, (image.annotations, [result]), note, result)

  def false_negatives(self, findings: Iterable[Finding]) -> Iterator[Dict[str, Any]]:
    """Yields entries that show one annotation and the confident predictions near it."""
    for finding in findings:
      image = self._images[finding.image]
      truth = image.annotations[finding.position]
      confident = [entry for entry in image.results if entry['score'] >= CONFIDENT]
      note = f'{self.names[truth["category_id"]]} of {finding.weight:,.0f} pixels'
      yield self._entry(image, ([truth], confident), note, truth)

  def _entry(self, image: ImageInstances, sides: Tuple[_Entries, _Entries], note: str,
             center: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """Draws annotations and predictions on an image, or on the part of it around one instance."""
    step = gallery_images.step(image.size)
    pixels, problem = self._image_files.read(
        image.image_id, tuple(-(-side // step) for side in image.size))
    window = _window(np.ones(image.size, bool) if center is None else _decoded(center, image.size))
    shape = [-(-(span.stop - span.start) // step) for span in window]
    ground = gallery_images.gray(tuple(shape)) if pixels is None else pixels[tuple(
        slice(span.start // step, span.start // step + side)
        for span, side in zip(window, shape))]
    ground = draw.enlarge(ground, _SMALLEST_SIDE)
    truths, results = (self._drawn(entries, image.size, window) for entries in sides)
    return {'name': image.file_name or str(image.image_id), 'note': note + problem,
            'image': None if pixels is None else ground,
            'ground_truth': instances.overlay(ground, truths, self._info),
            'prediction': instances.overlay(ground, results, self._info, min_score=-math.inf),
            'error': (instances.error_map(ground, truths, results, CONFIDENT)
                      if center is None else None)}

  def _drawn(self, entries: _Entries, size: Tuple[int, int],
             window: Tuple[slice, ...]) -> instances.Instances:
    """Returns instances in a part of an image."""
    from pycocotools import mask
    masks = [mask.encode(np.asfortranarray(_decoded(entry, size)[window], np.uint8))
             for entry in entries]
    return instances.Instances(
        tuple(span.stop - span.start for span in window), masks,
        [self._class_of[entry['category_id']] for entry in entries],
        [entry['score'] for entry in entries if 'score' in entry],
        [bool(entry.get('iscrowd', 0)) for entry in entries])


def _decoded(entry: Mapping[str, Any], size: Tuple[int, int]) -> np.ndarray:
  """Returns the mask of an instance; bool [height, width]."""
  from pycocotools import mask
  return mask.decode(instance_masks.run_lengths(entry['segmentation'], size)).astype(bool)


def _window(mask: np.ndarray) -> Tuple[slice, ...]:
  """Returns the part of an image around a mask, as slices of its rows and columns."""
  return tuple(_span(np.flatnonzero(mask.any(axis=axis)), side)
               for axis, side in zip((1, 0), mask.shape))


def _span(places: np.ndarray, side: int) -> slice:
  if not places.size:
    return slice(0, side)
  length = min(side, max(round(_MARGIN * (places[-1] + 1 - places[0])),
                         round(_LEAST_PART * side), 1))
  start = min(max(0, round((places[0] + places[-1] + 1 - length) / 2)), side - length)
  return slice(int(start), int(start + length))


def _counts(image: ImageInstances, survey: InstanceSurvey, position: int) -> str:
  found, wrong = survey.image_correct[position], survey.image_wrong[position]
  lines: List[str] = [f'Matched {found} of {survey.image_truths[position]} annotations']
  if wrong:
    lines.append(f'False positives: {wrong}')
  confident = sum(entry['score'] >= CONFIDENT for entry in image.results)
  lines.append(f'{confident} of {len(image.results)} predictions have a score of '
               f'{CONFIDENT:g} or more and are shown')
  return '\n'.join(lines)
