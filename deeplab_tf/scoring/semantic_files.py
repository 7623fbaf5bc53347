"""Scores semantic maps on disk: folders of PNGs whose gray values are class ids."""

import os
import pathlib
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from deeplab_tf import image_names, listing
from deeplab_tf.formats import coco_fields, coco_panoptic, label_png
from deeplab_tf.metrics import mean_iou, overlap
from deeplab_tf.scoring import instance_files, left_out, workers
from deeplab_tf.scoring.panoptic_files import FileScore
from deeplab_tf.user_errors import DataError, MissingFileError

# Value of pixels without a prediction; larger than any gray value.
_NO_CLASS = 2**31 - 2
_OVERLAY, _LIST = '_overlay.png', 'predictions.json'


class LabelPair(NamedTuple):
  """One image to score.

  Attributes:
    name: Path of the ground truth map below its folder.
    ground_truth: Path of the ground truth map of class ids.
    prediction: Path of the predicted map.
    category_of: Segment id -> category id, if the prediction is a map of segment ids.
  """
  name: str
  ground_truth: pathlib.Path
  prediction: pathlib.Path
  category_of: Optional[Dict[int, int]] = None

  def read_maps(self) -> Tuple[np.ndarray, np.ndarray]:
    """Reads both maps.

    Returns:
      The class ids of ground truth and prediction, int32 [height, width] each.

    Raises:
      ValueError: A PNG cannot be read or the two differ in size.
    """
    maps = label_png.read(self.ground_truth), _predicted_map(self)
    if maps[0].shape != maps[1].shape:
      sizes = ' and '.join('{} x {}'.format(*labels.shape) for labels in maps)
      raise DataError(f'{self.ground_truth} and {self.prediction} are {sizes} pixels (height x '
                      'width); both must have one size')
    return maps


class LabelPairs(NamedTuple):
  """All images of a ground truth with their predictions; the PNGs are not read yet.

  Attributes:
    images: Images, sorted by name.
    not_scored: Number of predictions of images that the ground truth does not have.
    warnings: Warnings about how they were paired, one line each.
    class_names: Class id -> name, of the classes that the predictions list.
  """
  images: List[LabelPair]
  not_scored: int = 0
  warnings: Tuple[str, ...] = ()
  class_names: Dict[int, str] = {}


class _Predictions(NamedTuple):
  """Predicted maps.

  Attributes:
    names: Names of the images or of their maps.
    files: Paths of the maps.
    category_of: Segment id -> category id for each map of segment ids; None for a map of class ids.
  """
  names: Sequence[str]
  files: Sequence[pathlib.Path]
  category_of: Sequence[Optional[Dict[int, int]]]


def label_png_score(ground_truth: coco_panoptic.PathLike,
                    predictions: coco_panoptic.PathLike, num_classes: int,
                    *, ignore_label: int = 255, progress: Optional[workers.Progress] = None,
                    num_workers: int = 1) -> FileScore:
  """Computes mean IoU and accuracy of semantic maps.

  Args:
    ground_truth: Folder of single-channel PNGs with 8 or 16 bits or a palette, possibly in
      subfolders. The value of a pixel is its class id, 0 to num_classes - 1, or the ignore label.
    predictions: See `pairs`. Any value but a class id is a prediction of no class.
    num_classes: Number of classes.
    ignore_label: Ground truth label of pixels that are left out.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.

  Returns:
    A FileScore with a MeanIoU; class names are those that the predictions list, or class ids.

  Raises:
    FileNotFoundError: A folder or a prediction is missing, or there is no ground truth.
    ValueError: A PNG cannot be read, prediction and ground truth differ in size, a name is
      ambiguous, or the ground truth has an unknown class.
  """
  return score_pairs(pairs(ground_truth, predictions),
                     mean_iou.MeanIoU(range(num_classes), ignore_label), progress, num_workers)


def score_pairs(files: LabelPairs, metric: mean_iou.MeanIoU,
                progress: Optional[workers.Progress] = None, num_workers: int = 1) -> FileScore:
  """Counts images in a metric; see `label_png_score`.

  Args:
    files: Images to score.
    metric: Empty metric, which counts the images one by one, in their order.
    progress: Function that is called with the number of newly counted images.
    num_workers: Number of processes; see workers.count.
  """
  strays = workers.count(metric, _update, files.images, num_workers, progress)
  names = {class_id: files.class_names.get(class_id, str(class_id))
           for class_id in metric.class_ids}
  warnings = (*files.warnings,
              *_value_warnings(metric, metric.ignore_label, set().union(*strays)))
  return FileScore(metric, names, warnings, left_out.semantic(metric, names, files.not_scored))


def _value_warnings(metric: mean_iou.MeanIoU, ignore_label: int, strays: Set[int]) -> List[str]:
  """Returns warnings about values that are no class, but may be intended as one."""
  warnings = []
  occurring = [metric.class_ids[index]
               for index in np.flatnonzero(metric.confusion.sum(axis=1)).tolist()]
  if len(metric.class_ids) > 1 and len(occurring) == 1 and metric.ignored:
    warnings.append(
        f'the ground truth has the values {occurring[0]} and {ignore_label} alone, and '
        f'{ignore_label} is ignored (--ignore_label): one class is left to score. If '
        f'{ignore_label} is meant as a class, write it as {_others(metric, occurring[0])}')
  if strays:
    listed = image_names.shown(sorted(strays))
    warnings.append(
        f'the predictions have values that are no class (classes are 0 to '
        f'{len(metric.class_ids) - 1}): {listed}; their pixels are false negatives')
  return warnings


def _others(metric: mean_iou.MeanIoU, class_id: int) -> str:
  others = [other for other in metric.class_ids if other != class_id]
  return f'one of {others[0]} to {others[-1]}' if len(others) > 1 else str(others[0])


def pairs(ground_truth: coco_panoptic.PathLike,
          predictions: coco_panoptic.PathLike) -> LabelPairs:
  """Pairs semantic maps by name.

  Args:
    ground_truth: Folder of PNGs, possibly in subfolders.
    predictions: Folder of PNGs with the same names, which are compared by whole paths first, and by
      the ends of paths last; NAME_overlay.png beside NAME.png is no map. Alternatively, panoptic
      predictions, as a JSON or a folder with predictions.json: their segments are merged by
      category, whose ids are the class ids.

  Raises:
    FileNotFoundError: A folder or a prediction is missing, or there is no ground truth.
    ValueError: A name is ambiguous, or predictions.json is invalid.
  """
  folder = pathlib.Path(ground_truth)
  _check_folder(folder)
  names = listing.files_below(folder, ('.png',))
  if not names:
    raise MissingFileError(f'{folder}: there is no PNG in this folder or below it')
  found = _predictions(predictions)
  pairing = image_names.pair(names, found.names)
  paired, unlike = [], []
  for index, (name, position) in enumerate(zip(names, pairing.found)):
    if position is None:
      raise _unpaired(index, names, found.names, pairing, (folder, pathlib.Path(predictions)))
    if found.category_of[position] is None and name != found.names[position]:
      unlike.append(f'{name} with {found.names[position]}')
    paired.append(LabelPair(name, folder / name, found.files[position],
                            found.category_of[position]))
  warnings: Tuple[str, ...] = ()
  if unlike:
    warnings = (f'{len(unlike)} of the {len(paired)} images have other names in {predictions} '
                f'than in {folder} and are paired by what is alike: '
                f'{image_names.shown(unlike)}',)
  listed = ([] if os.path.isfile(predictions) or not holds_class_maps(predictions)
            else listed_categories(predictions))
  return LabelPairs(paired, len(found.names) - len(paired), warnings,
                    {entry['id']: str(entry.get('name', entry['id'])) for entry in listed})


def _check_folder(path: pathlib.Path) -> None:
  if not path.is_dir():
    raise MissingFileError(f'{path}: there is no such folder; it should hold PNGs of class ids')


def _predictions(path: coco_panoptic.PathLike) -> _Predictions:
  """Lists the semantic maps of a folder, or the segment maps of panoptic predictions."""
  folder = pathlib.Path(path)
  if folder.suffix.lower() != '.json' and holds_class_maps(folder):
    _check_folder(folder)
    names = without_overlays(listing.files_below(folder, ('.png',)))
    return _Predictions(names, [folder / name for name in names], [None] * len(names))
  json_path = coco_panoptic.predictions_json(path)
  content = coco_panoptic.load_predictions(json_path)
  annotations = content.annotations
  names = [content.image_files.get(each.image_id, each.file_name) for each in annotations]
  folder = coco_panoptic.png_folder(json_path)
  return _Predictions(
      names, coco_panoptic.find_pngs(folder, annotations, 'prediction'),
      [{segment.id: segment.category_id for segment in each.segments} for each in annotations])


def holds_class_maps(folder: coco_panoptic.PathLike) -> bool:
  """Returns whether the PNGs of a folder are class maps, and not those of panoptic predictions."""
  path = os.path.join(folder, _LIST)
  return (not os.path.isfile(path) or instance_files.is_results(path)
          or 'annotations' not in (_content(path) or {'annotations': ()}))


def listed_categories(folder: coco_panoptic.PathLike) -> List[Dict[str, Any]]:
  """Returns the categories that evaluation/predict.py lists for its class maps.

  Args:
    folder: Folder of class maps.

  Returns:
    Dictionaries of id, which is the value in the maps, and name; none if there is no list.
  """
  path = os.path.join(folder, _LIST)
  if not os.path.isfile(path) or instance_files.is_results(path):
    return []
  entries = _content(path).get('categories') or []
  coco_fields.check(entries, coco_fields.STATED_CATEGORY, path, 'a category')
  return entries


def _content(path: str) -> Dict[str, Any]:
  content = coco_panoptic.read_json(path, 'predictions')
  return content if isinstance(content, dict) else {}


def without_overlays(names: Sequence[str]) -> List[str]:
  """Removes the names of overlays, NAME_overlay.png beside NAME.png."""
  known = set(names)
  return [name for name in names if not (
      name.endswith(_OVERLAY) and f'{name[:-len(_OVERLAY)]}.png' in known)]


def _unpaired(index: int, names: Sequence[str], own: Sequence[str], pairing: image_names.Pairing,
              folders: Tuple[pathlib.Path, pathlib.Path]) -> DataError:
  """Returns the error for an image without a prediction."""
  path = folders[0] / names[index]
  if index in pairing.ambiguous:
    fitting = image_names.shown(own[each] for each in pairing.ambiguous[index])
    return DataError(f'{path}: the name is ambiguous: in {folders[1]} its prediction may be '
                     f'{fitting}; names must be the same in both folders')
  for position, wanting in pairing.others.items():
    if index in wanting:
      return DataError(f'{folders[1] / own[position]}: the name is ambiguous: it may be the '
                       f'prediction for any of {image_names.shown(names[each] for each in wanting)}'
                       f' in {folders[0]}; names must be the same in both folders')
  return MissingFileError(f'{folders[1] / names[index]}: there is no such file; it should be the '
                          f'prediction for {path}, for names must be the same in both folders')


def _update(metric: mean_iou.MeanIoU, pair: LabelPair) -> Set[int]:
  """Adds an image; returns the values of scored predicted pixels that are no class."""
  labels, pixels = overlap.pair_counts(*pair.read_maps())
  try:
    metric.update(labels[:, 0], labels[:, 1], pixels)
  except DataError as error:
    raise DataError(f'{pair.ground_truth}: {error}') from error
  # Where the ground truth is ignored, any prediction is valid.
  scored = metric.is_scored(labels[:, 0])
  return set(labels[scored, 1].tolist()) - {*metric.class_ids, _NO_CLASS}


def _predicted_map(pair: LabelPair) -> np.ndarray:
  if pair.category_of is None:
    return label_png.read(pair.prediction)
  ids = coco_panoptic.read_panoptic_png(pair.prediction)
  values, inverse = np.unique(ids, return_inverse=True)
  classes = [pair.category_of.get(value, _NO_CLASS) for value in values.tolist()]
  table = np.array([each if 0 <= each < _NO_CLASS else _NO_CLASS for each in classes], np.int32)
  return table[inverse].reshape(ids.shape)
