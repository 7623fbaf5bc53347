"""Scores semantic maps on disk: folders of PNGs whose grey values are class ids."""

import pathlib
from typing import List, NamedTuple, Optional

import numpy as np
from PIL import Image

from deeplab_tf import file_names, image_limits, listing
from deeplab_tf.metrics import coco_panoptic_io, mean_iou, overlap, workers
from deeplab_tf.metrics.coco_panoptic import FileScore
from deeplab_tf.user_errors import DataError, MissingFileError


class _Pair(NamedTuple):
  """One image to score."""
  ground_truth: pathlib.Path
  prediction: pathlib.Path


def label_png_score(ground_truth: coco_panoptic_io.PathLike,
                    predictions: coco_panoptic_io.PathLike, num_classes: int,
                    ignore_label: int = 255, progress: Optional[workers.Progress] = None,
                    num_workers: int = 1) -> FileScore:
  """Computes mean IoU and accuracy of semantic maps.

  Args:
    ground_truth: Folder of PNGs of one channel, 8 or 16 bits or with a palette, in subfolders
      or not. A pixel's value is its class id, 0 to num_classes - 1, or the ignore label.
    predictions: Folder of PNGs by the same names in the same subfolders. Any value but a class
      id is a prediction of no class.
    num_classes: Of the data set.
    ignore_label: Pixels of it in the ground truth are left out.
    progress: Called with a number of images whenever they are counted.
    num_workers: Processes; see workers.count.

  Returns:
    FileScore with a MeanIoU; class names are class ids.

  Raises:
    FileNotFoundError: A folder or a prediction is missing, or there is no ground truth.
    ValueError: A PNG cannot be read, two differ in size or the ground truth has another class.
  """
  metric = mean_iou.MeanIoU(range(num_classes), ignore_label)
  workers.count(metric, _update, _pairs(ground_truth, predictions), num_workers, progress)
  return FileScore(metric, {class_id: str(class_id) for class_id in range(num_classes)}, ())


def read_label_png(path: coco_panoptic_io.PathLike) -> np.ndarray:
  """Reads a semantic map.

  Returns:
    int32 [height, width], grey values; with a palette its indices.

  Raises:
    ValueError: The file is no PNG, too large, or has several channels.
  """
  image = image_limits.load(path, str(path), ('PNG',), _mode_problem)
  return np.asarray(image).astype(np.int32)


def _mode_problem(image: Image.Image) -> Optional[str]:
  if image.mode in ('1', 'L', 'P', 'I') or image.mode.startswith('I;16'):
    return None
  return (f'the picture is of mode {image.mode}; a semantic map has one channel of class ids, grey '
          'of 8 or 16 bits or with a palette')


def _pairs(ground_truth: coco_panoptic_io.PathLike,
           predictions: coco_panoptic_io.PathLike) -> List[_Pair]:
  truth_folder, folder = pathlib.Path(ground_truth), pathlib.Path(predictions)
  for path in (truth_folder, folder):
    if not path.is_dir():
      raise MissingFileError(f'{path}: there is no such folder; it should hold PNGs of class ids')
  pairs = []
  names = listing.files_below(truth_folder, ('.png',))
  on_disk = file_names.resolve(str(folder), names)
  for name in names:
    path, guess = truth_folder / name, folder / (on_disk[name] or name)
    if on_disk[name] is None:
      raise MissingFileError(f'{guess}: there is no such file; it should be the prediction for '
                             f'{path}, for names must be the same in both folders')
    pairs.append(_Pair(path, guess))
  if not pairs:
    raise MissingFileError(f'{truth_folder}: there is no PNG in this folder or below it')
  return pairs


def _update(metric: mean_iou.MeanIoU, pair: _Pair) -> None:
  maps = [read_label_png(path) for path in pair]
  if maps[0].shape != maps[1].shape:
    sizes = ' and '.join('{} x {}'.format(*labels.shape) for labels in maps)
    raise DataError(f'{pair.ground_truth} and {pair.prediction} are {sizes} pixels (height x '
                    'width); both must have one size')
  labels, pixels = overlap.pair_counts(*maps)
  try:
    metric.update(labels[:, 0], labels[:, 1], pixels)
  except DataError as error:
    raise DataError(f'{pair.ground_truth}: {error}') from error
