"""Panoptic predictions for test servers: for the panoptic, semantic and instance benchmarks."""

import json
import pathlib
import zipfile
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import category_names, image_pairs, submission_images, submission_zip
from deeplab_tf.scoring.submission_instance import Instance, InstancePrediction
from deeplab_tf.scoring.submission_semantic import SemanticPrediction
from deeplab_tf.user_errors import DataError


class Prediction(NamedTuple):
  """The prediction for one image.

  Attributes:
    image_id: Image id of the benchmark.
    ids: int32 [height, width], segment ids; 0 is void.
    segments: Segments of the map.
  """
  image_id: ImageId
  ids: np.ndarray
  segments: Sequence[panoptic_io.Segment]


def load(predictions: panoptic_io.PathLike, predictions_dir: Optional[panoptic_io.PathLike],
         server: Any, images: Optional[panoptic_io.PathLike], progress: Callable[[int], None]
         ) -> Tuple[submission_images.Choice, Iterator[Prediction]]:
  """Reads panoptic predictions.

  Args:
    predictions: Panoptic JSON of the predictions.
    predictions_dir: Folder of the PNGs; see coco_panoptic.png_folder.
    server: The submission.Benchmark.
    images: Images of the benchmark, see submission.write.
    progress: Function that is called with 1 after each image.

  Returns:
    The images, and an iterator over their predictions.
  """
  content = panoptic_io.load_predictions(predictions)
  warnings = category_names.compare(
      content.path, content.categories, f'the dataset of {server.name}',
      catalog.built_in(server.dataset).categories)
  own = [image_pairs.ListedImage(server.image_id(entry.image_id),
                                 content.image_files.get(entry.image_id),
                                 None if content.image_files else entry.file_name)
         for entry in content.annotations]
  choice = submission_images.choose(own, content.path, server, images)
  chosen = [(image, content.annotations[image.position]) for image in choice.images
            if image.position is not None]
  _check_categories(content.path, chosen, server)
  folder = panoptic_io.png_folder(predictions, predictions_dir)
  return (choice._replace(warnings=(*warnings, *choice.warnings)),
          _read(chosen, folder, progress))


def _check_categories(path: str, chosen: Sequence[Any], server: Any) -> None:
  known = catalog.built_in(server.dataset).by_category_id
  for image, entry in chosen:
    for segment in entry.segments:
      if segment.category_id not in known:
        raise DataError(
            f'{path}: image {image.image_id!r}: segment {segment.id} is of category '
            f'{segment.category_id}, which {server.name} does not know: its {len(known)} '
            f'categories have the ids {min(known)} to {max(known)}')


def _read(chosen: Sequence[Any], folder: pathlib.Path,
          progress: Callable[[int], None]) -> Iterator[Prediction]:
  paths = panoptic_io.find_pngs(folder, [entry for _, entry in chosen], 'prediction')
  for path, (image, entry) in zip(paths, chosen):
    ids = panoptic_io.read_panoptic_png(path)
    submission_images.check_size(path, ids.shape, image.size)
    present = set(np.unique(ids).tolist()) - {0}
    listed = {segment.id for segment in entry.segments}
    if present != listed:
      raise DataError(f'{path}: segment {min(present ^ listed)} is '
                      + ('in the PNG, but not in the JSON' if present - listed else
                         'in the JSON, but not in the PNG'))
    yield Prediction(image.image_id, ids, entry.segments)
    progress(1)


# --- Panoptic ---------------------------------------------------------------------------------


def write_coco(archive: zipfile.ZipFile, predictions: Iterator[Prediction], method: str) -> None:
  """Writes COCO's JSON and folder of PNGs."""
  _write(archive, predictions, f'panoptic_test-dev2017_{method}_results')


def write_cityscapes(archive: zipfile.ZipFile, predictions: Iterator[Prediction],
                     method: str) -> None:
  """Writes a JSON and a folder of PNGs."""
  del method
  _write(archive, predictions, 'cityscapes_panoptic_test')


def _write(archive: zipfile.ZipFile, predictions: Iterator[Prediction], stem: str) -> None:
  annotations = []
  for prediction in predictions:
    name = _padded(prediction.image_id)
    submission_zip.add_png(archive, f'{stem}/{name}.png', panoptic_io.id_to_rgb(prediction.ids))
    annotations.append({
        'image_id': prediction.image_id, 'file_name': f'{name}.png',
        'segments_info': [{'id': segment.id, 'category_id': segment.category_id}
                          for segment in prediction.segments]})
  submission_zip.add(archive, f'{stem}.json', json.dumps({'annotations': annotations}).encode())


def _padded(image_id: ImageId) -> str:
  """Returns the file name of an image id; in COCO, ids are padded to twelve digits."""
  return f'{image_id:012d}' if isinstance(image_id, int) else image_id


# --- Other tasks ------------------------------------------------------------------------------


def as_semantic(predictions: Iterator[Prediction]) -> Iterator[SemanticPrediction]:
  """Merges segments by category."""
  for prediction in predictions:
    values, inverse = np.unique(prediction.ids, return_inverse=True)
    category = {s.id: s.category_id for s in prediction.segments}
    table = np.array([category.get(value, -1) for value in values.tolist()], np.int64)
    yield SemanticPrediction(prediction.image_id, table[inverse].reshape(prediction.ids.shape))


def as_instances(predictions: Iterator[Prediction], dataset: str) -> Iterator[InstancePrediction]:
  """Takes the things with their scores.

  Args:
    predictions: Panoptic predictions.
    dataset: Data set that tells which categories are things.

  Raises:
    DataError: A segment has no score.
  """
  categories = catalog.built_in(dataset).by_category_id
  for prediction in predictions:
    instances = []
    for segment in prediction.segments:
      if not categories[segment.category_id].isthing:
        continue
      if not isinstance(segment.score, (int, float)):
        raise DataError(f'image {prediction.image_id!r}: segment {segment.id} has no "score", '
                        'which the instance benchmark ranks by; evaluation/predict.py writes it')
      instances.append(Instance(segment.category_id, segment.score,
                                prediction.ids == segment.id))
    yield InstancePrediction(prediction.image_id, instances)
