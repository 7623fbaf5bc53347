"""Predictions in COCO's panoptic format as the zip files that test servers take.

A benchmark is a name of BENCHMARKS. Names inside of the zip are those of the servers' own
examples; image ids are those of the benchmark's lists.
"""

import io
import json
import os
import pathlib
import re
import zipfile
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from deeplab_tf import whole_file
from deeplab_tf.data import catalog
from deeplab_tf.metrics import coco_panoptic_io as panoptic_io
from deeplab_tf.user_errors import DataError

ImageId = Union[int, str]
_IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png')
# Ends of file names that are no part of Cityscapes' image ids.
_CITYSCAPES_ENDS = ('_leftImg8bit', '_gtFine_panoptic', '_gtFine')
_METHOD = re.compile(r'[A-Za-z0-9._-]+')


class Prediction(NamedTuple):
  """What is known of one image.

  Attributes:
    image_id: As the benchmark writes it.
    ids: int32 [height, width], segment ids; 0 is void.
    segments: What the map holds.
  """
  image_id: ImageId
  ids: np.ndarray
  segments: Sequence[panoptic_io.Segment]


class Benchmark(NamedTuple):
  """A test server.

  Attributes:
    help: What the zip holds, for people.
    write: (zip file, predictions, method) -> None.
    dataset: Whose categories it has.
    image_id: Image id or file name without extension -> the benchmark's id.
    images: How many its test split has; None where that is not known.
  """
  help: str
  write: Callable[[zipfile.ZipFile, Iterator[Prediction], str], None]
  dataset: str
  image_id: Callable[[ImageId], ImageId]
  images: Optional[int]


class Written(NamedTuple):
  """What went into a submission.

  Attributes:
    images: Their number.
    left_out: Predictions for images that are not in the list.
    warnings: Lines for the user.
  """
  images: int
  left_out: int
  warnings: Tuple[str, ...]


def write(path: panoptic_io.PathLike, benchmark: str, predictions: panoptic_io.PathLike,
          images: Optional[panoptic_io.PathLike] = None, method: str = 'deeplab_tf',
          progress: Callable[[int], None] = lambda count: None,
          predictions_dir: Optional[panoptic_io.PathLike] = None) -> Written:
  """Writes a submission, whole or not at all.

  Args:
    path: The zip file.
    benchmark: A name of BENCHMARKS.
    predictions: Panoptic JSON of the predictions.
    images: What the benchmark asks for: a JSON with `images`, or the folder of the images, which
      may lie in sub-folders. Each must have a prediction; others are left out.
    method: Name of the method; letters, digits and . _ -
    progress: Called with 1 after each image.
    predictions_dir: Folder of the PNGs; see coco_panoptic_io.png_folder.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: An image has no prediction, or a prediction is of a category that the benchmark
      does not know or contradicts its PNG.
  """
  server = BENCHMARKS[benchmark]
  if not _METHOD.fullmatch(method):
    raise DataError(f'the method\'s name is "{method}": letters, digits and . _ - are allowed')
  annotations = panoptic_io.load_predictions(predictions).annotations
  entries = {server.image_id(entry.image_id): entry for entry in annotations}
  if len(entries) != len(annotations):
    raise DataError(f'{predictions}: two predictions have one image id of {benchmark}')
  _check_categories(predictions, entries, benchmark)
  chosen, sizes, warnings = list(entries), {}, []
  if images is not None:
    sizes = {server.image_id(image_id): size for image_id, size in _listed(images).items()}
    chosen = list(sizes)
    missing = [image_id for image_id in chosen if image_id not in entries]
    if missing:
      raise DataError(f'{predictions}: {len(missing)} of the {len(chosen)} images of {images} '
                      f'have no prediction, the first is {missing[0]!r}; predict them too')
  if server.images is not None and len(chosen) != server.images:
    warnings.append(f'{len(chosen)} images are written; the test split of {benchmark} has '
                    f'{server.images}')
  folder = panoptic_io.png_folder(predictions, predictions_dir)
  _write_zip(path, lambda archive: server.write(
      archive, _read({i: (entries[i], sizes.get(i)) for i in chosen}, folder, progress), method))
  return Written(len(chosen), len(entries) - len(set(chosen)), tuple(warnings))


def _check_categories(path, entries, benchmark: str) -> None:
  known = catalog.built_in(BENCHMARKS[benchmark].dataset).by_category_id
  for image_id, entry in entries.items():
    for segment in entry.segments:
      if segment.category_id not in known:
        raise DataError(
            f'{path}: image {image_id!r}: segment {segment.id} is of category '
            f'{segment.category_id}, which {benchmark} does not know: its {len(known)} '
            f'categories have the ids {min(known)} to {max(known)}')


def _listed(images: panoptic_io.PathLike) -> Dict[ImageId, Optional[Tuple[int, int]]]:
  """The ids of the images that a JSON or a folder holds, with height and width if it tells them."""
  if os.path.isdir(images):
    found = dict.fromkeys(sorted(path.stem for path in pathlib.Path(images).rglob('*')
                                 if path.suffix.lower() in _IMAGE_EXTENSIONS))
  else:
    content = panoptic_io.read_json(images, 'a JSON with the list "images"')
    entries = content.get('images') if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and 'id' in e for e in entries):
      raise DataError(f'{images}: has no list "images" of objects with "id"')
    found = {entry['id']: (entry['height'], entry['width'])
             if 'height' in entry and 'width' in entry else None for entry in entries}
  if not found:
    raise DataError(f'{images}: lists no images')
  return found


def _read(chosen, folder: pathlib.Path, progress: Callable[[int], None]) -> Iterator[Prediction]:
  for image_id, (entry, size) in chosen.items():
    path = folder / entry.file_name
    ids = panoptic_io.read_panoptic_png(path)
    if size is not None and ids.shape != size:
      raise DataError('{}: is {} x {} pixels (height x width), and its image {} x {}; the server '
                      'compares pixel by pixel'.format(path, *ids.shape, *size))
    drawn = set(np.unique(ids).tolist()) - {0}
    listed = {segment.id for segment in entry.segments}
    if drawn != listed:
      raise DataError(f'{path}: segment {min(drawn ^ listed)} is '
                      + ('drawn, but not in the JSON' if drawn - listed else
                         'in the JSON, but not drawn'))
    yield Prediction(image_id, ids, entry.segments)
    progress(1)


def _write_zip(path: panoptic_io.PathLike, fill: Callable[[zipfile.ZipFile], None]) -> None:
  with whole_file.replacing(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
    fill(archive)


# --- Panoptic ---------------------------------------------------------------------------------


def _write_panoptic(archive: zipfile.ZipFile, predictions: Iterator[Prediction],
                    stem: str) -> None:
  annotations = []
  for prediction in predictions:
    name = _padded(prediction.image_id)
    _add_png(archive, f'{stem}/{name}.png', panoptic_io.id_to_rgb(prediction.ids))
    annotations.append({
        'image_id': prediction.image_id, 'file_name': f'{name}.png',
        'segments_info': [{'id': segment.id, 'category_id': segment.category_id}
                          for segment in prediction.segments]})
  _add(archive, f'{stem}.json', json.dumps({'annotations': annotations}).encode())


def _padded(image_id: ImageId) -> str:
  """COCO names files by ids of twelve digits."""
  return f'{image_id:012d}' if isinstance(image_id, int) else image_id


def _coco_panoptic(archive, predictions, method: str) -> None:
  _write_panoptic(archive, predictions, f'panoptic_test-dev2017_{method}_results')


def _cityscapes_panoptic(archive, predictions, method: str) -> None:
  del method
  _write_panoptic(archive, predictions, 'cityscapes_panoptic_test')


# --- Semantic ---------------------------------------------------------------------------------


def _write_semantic(archive: zipfile.ZipFile, predictions: Iterator[Prediction],
                    offset: int) -> None:
  """Grey PNGs of category id + offset; 0 where nothing is predicted."""
  for prediction in predictions:
    _add_png(archive, f'{prediction.image_id}.png', _category_map(prediction, offset))


def _category_map(prediction: Prediction, offset: int) -> np.ndarray:
  values, inverse = np.unique(prediction.ids, return_inverse=True)
  category = {s.id: s.category_id + offset for s in prediction.segments}
  table = np.array([category.get(value, 0) for value in values.tolist()], np.uint8)
  return table[inverse].reshape(prediction.ids.shape)


def _cityscapes_semantic(archive, predictions, method: str) -> None:
  del method
  _write_semantic(archive, predictions, 0)


def _ade20k_semantic(archive, predictions, method: str) -> None:
  del method
  # The server's classes are 1 to 150, and those of the panoptic JSON 0 to 149.
  _write_semantic(archive, predictions, 1)


# --- Instances --------------------------------------------------------------------------------


def _cityscapes_instance(archive, predictions, method: str) -> None:
  """Per image a text file of "mask path, class, confidence", and a PNG per instance."""
  del method
  categories = catalog.built_in('cityscapes_panoptic').by_category_id
  for prediction in predictions:
    lines = []
    for segment in prediction.segments:
      if not categories[segment.category_id].isthing:
        continue
      if not isinstance(segment.score, (int, float)):
        raise DataError(f'image {prediction.image_id!r}: segment {segment.id} has no "score", '
                        'which the instance benchmark ranks by; evaluation/predict.py writes it')
      name = f'{prediction.image_id}_{len(lines):03d}.png'
      mask = np.where(prediction.ids == segment.id, 255, 0).astype(np.uint8)
      _add_png(archive, f'masks/{name}', mask)
      lines.append(f'masks/{name} {segment.category_id} {segment.score:.6f}\n')
    _add(archive, f'{prediction.image_id}.txt', ''.join(lines).encode())


# --- Files ------------------------------------------------------------------------------------


def _add_png(archive: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'png')
  _add(archive, name, stream.getvalue(), zipfile.ZIP_STORED)


def _add(archive: zipfile.ZipFile, name: str, data: bytes,
         compression: int = zipfile.ZIP_DEFLATED) -> None:
  # Without the time of day equal predictions make equal files.
  archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, compression)


# --- Names ------------------------------------------------------------------------------------


def _coco_id(image_id: ImageId) -> ImageId:
  return int(image_id) if str(image_id).isdecimal() else image_id


def _cityscapes_id(image_id: ImageId) -> ImageId:
  name = str(image_id)
  for end in _CITYSCAPES_ENDS:
    name = name[:-len(end)] if name.endswith(end) else name
  return name


BENCHMARKS = {
    'coco_panoptic': Benchmark(
        'panoptic_test-dev2017_METHOD_results.json and a folder of PNGs of that name',
        _coco_panoptic, 'coco_panoptic', _coco_id, 20288),
    'cityscapes_panoptic': Benchmark(
        'cityscapes_panoptic_test.json and a folder of PNGs of that name, evaluation ids',
        _cityscapes_panoptic, 'cityscapes_panoptic', _cityscapes_id, 1525),
    'cityscapes_semantic': Benchmark(
        'a PNG of evaluation ids for each image',
        _cityscapes_semantic, 'cityscapes_panoptic', _cityscapes_id, 1525),
    'cityscapes_instance': Benchmark(
        'a text file for each image and a PNG mask for each thing, with its score',
        _cityscapes_instance, 'cityscapes_panoptic', _cityscapes_id, 1525),
    'ade20k_semantic': Benchmark(
        'a PNG of classes 1 to 150 for each image',
        _ade20k_semantic, 'ade20k_panoptic', str, None),
}
