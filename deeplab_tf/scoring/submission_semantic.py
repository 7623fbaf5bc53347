"""Maps of class ids for the semantic benchmarks of test servers."""

import os
import pathlib
import zipfile
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf import listing
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.formats import label_png
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import (
  category_names,
  image_pairs,
  semantic_files,
  submission_images,
  submission_zip,
)
from deeplab_tf.user_errors import DataError, MissingFileError


class SemanticPrediction(NamedTuple):
  """The prediction for one image.

  Attributes:
    image_id: Image id of the benchmark.
    categories: int [height, width], category ids; -1 where nothing is predicted.
  """
  image_id: ImageId
  categories: np.ndarray


def load(predictions: panoptic_io.PathLike, server: Any, images: Optional[panoptic_io.PathLike],
         progress: Callable[[int], None]
         ) -> Tuple[submission_images.Choice, Iterator[SemanticPrediction]]:
  """Reads the class maps that evaluation/predict.py writes for the task semantic.

  Args:
    predictions: Folder of single-channel PNGs; pixels are class ids of the data set, or its ignore
      label. NAME_overlay.png beside NAME.png is left out.
    server: The submission.Benchmark.
    images: Images of the benchmark, see submission.write.
    progress: Function that is called with 1 after each image.

  Returns:
    The images, and an iterator over their predictions.
  """
  folder = pathlib.Path(predictions)
  names = semantic_files.without_overlays(listing.files_below(folder, ('.png',)))
  if not names:
    raise MissingFileError(f'{folder}: holds neither predictions.json nor PNGs of class ids; give '
                           'the output folder of evaluation/predict.py')
  own = [image_pairs.ListedImage(server.image_id(name), name) for name in names]
  info = catalog.built_in(server.dataset)
  warnings = category_names.compare(
      os.fspath(folder), [panoptic_io.FileCategory(entry['id'], entry.get('name'), None)
                          for entry in semantic_files.listed_categories(folder)],
      f'the classes of {server.name}',
      [panoptic_io.FileCategory(c.class_id, c.name, None) for c in info.categories])
  choice = submission_images.choose(own, os.fspath(folder), server, images)
  choice = choice._replace(warnings=(*warnings, *choice.warnings))
  chosen = [(image, folder / names[image.position]) for image in choice.images
            if image.position is not None]
  return choice, _read(chosen, info, progress)


def _read(chosen: Sequence[Any], info: DatasetInfo,
          progress: Callable[[int], None]) -> Iterator[SemanticPrediction]:
  category_of = {**{c.class_id: c.category_id for c in info.categories}, info.ignore_label: -1}
  for image, path in chosen:
    classes = label_png.read(path)
    submission_images.check_size(path, classes.shape, image.size)
    values, inverse = np.unique(classes, return_inverse=True)
    unknown = sorted(set(values.tolist()) - set(category_of))
    if unknown:
      raise DataError(f'{path}: has the value {unknown[0]}, which is no class id of {info.name}: '
                      f'they are {min(info.class_ids)} to {max(info.class_ids)}, and '
                      f'{info.ignore_label} is unlabeled')
    table = np.array([category_of[value] for value in values.tolist()], np.int64)
    yield SemanticPrediction(image.image_id, table[inverse].reshape(classes.shape))
    progress(1)


def write_cityscapes(archive: zipfile.ZipFile, predictions: Iterator[SemanticPrediction],
                     method: str) -> None:
  """Writes a PNG of evaluation ids for each image."""
  del method
  _write(archive, predictions, 0)


def write_ade20k(archive: zipfile.ZipFile, predictions: Iterator[SemanticPrediction],
                 method: str) -> None:
  """Writes a PNG of the classes 1 to 150 for each image; category ids are 0 to 149."""
  del method
  _write(archive, predictions, 1)


def _write(archive: zipfile.ZipFile, predictions: Iterator[SemanticPrediction],
           offset: int) -> None:
  """Writes grayscale PNGs of category id + offset; 0 where nothing is predicted."""
  for prediction in predictions:
    values = np.where(prediction.categories < 0, 0, prediction.categories + offset)
    submission_zip.add_png(archive, f'{prediction.image_id}.png', values.astype(np.uint8))
