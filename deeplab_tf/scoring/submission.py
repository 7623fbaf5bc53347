"""Converts predictions in the COCO panoptic format to zip files for test servers.

BENCHMARKS lists the supported benchmarks. Names inside the zip follow the servers' examples; image
ids are those of the benchmark's image lists.
"""

import io
import json
import os
import pathlib
import re
import zipfile
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from deeplab_tf import image_names, listing
from deeplab_tf.data import catalog
from deeplab_tf.formats import atomic_file, coco_fields
from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import category_names, image_pairs
from deeplab_tf.user_errors import DataError

_OPTIONAL_SIZE = coco_fields.SIZE._replace(optional=True)
_IMAGE = {'id': coco_fields.IMAGE_ID, 'height': _OPTIONAL_SIZE, 'width': _OPTIONAL_SIZE,
          'file_name': coco_fields.FILE_NAME._replace(optional=True)}
# Image id of the benchmark -> prediction, and height and width of the image if known.
Chosen = Dict[ImageId, Tuple[panoptic_io.Annotation, Optional[Tuple[int, int]]]]
_IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png')
_METHOD = re.compile(r'[A-Za-z0-9._-]+')


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


class Benchmark(NamedTuple):
  """A test server.

  Attributes:
    help: Description of the content of the zip, for users.
    write: Function (zip file, predictions, method) -> None.
    dataset: Name of the dataset whose categories are used.
    image_id: Function from image id or file name to the benchmark's id.
    images: Number of images in the test split, or None if unknown.
  """
  help: str
  write: Callable[[zipfile.ZipFile, Iterator[Prediction], str], None]
  dataset: str
  image_id: Callable[[ImageId], ImageId]
  images: Optional[int]


class Written(NamedTuple):
  """Summary of a submission.

  Attributes:
    images: Number of images.
    left_out: Number of predictions for images that are not in the list.
    warnings: Warnings for the user, one line each.
  """
  images: int
  left_out: int
  warnings: Tuple[str, ...]


def write(path: panoptic_io.PathLike, benchmark: str, predictions: panoptic_io.PathLike,
          *, images: Optional[panoptic_io.PathLike] = None, method: str = 'deeplab_tf',
          progress: Callable[[int], None] = lambda count: None,
          predictions_dir: Optional[panoptic_io.PathLike] = None) -> Written:
  """Writes a submission, atomically.

  Args:
    path: Path of the zip file.
    benchmark: Key of BENCHMARKS.
    predictions: Panoptic JSON of the predictions.
    images: Images of the benchmark: a JSON with `images`, or the folder of the images, which
      may have subfolders. Each must have a prediction, by id or by file name; other predictions
      are left out.
    method: Name of the method; letters, digits and . _ - are allowed.
    progress: Function that is called with 1 after each image.
    predictions_dir: Folder of the PNGs; see coco_panoptic.png_folder.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: An image has no prediction, or a prediction has an unknown category or contradicts
      its PNG.
  """
  server = BENCHMARKS[benchmark]
  if not _METHOD.fullmatch(method):
    raise DataError(f'the method\'s name is "{method}": letters, digits and . _ - are allowed')
  content = panoptic_io.load_predictions(predictions)
  warnings = list(category_names.compare(
      content.path, content.categories, f'the dataset of {benchmark}',
      catalog.built_in(server.dataset).categories))
  chosen, notes = _chosen(content, server, images)
  warnings += notes
  _check_categories(content.path, chosen, benchmark)
  if server.images is not None and len(chosen) != server.images:
    warnings.append(f'{len(chosen)} images are written; the test split of {benchmark} has '
                    f'{server.images}')
  texts = [image_id for image_id in chosen if isinstance(image_id, str)]
  if server.dataset == 'coco_panoptic' and texts:
    warnings.append(f'{len(texts)} image ids are texts, the first is {texts[0]!r}; those of '
                    f'{benchmark} are numbers: give --images, or predict files of COCO\'s names')
  folder = panoptic_io.png_folder(predictions, predictions_dir)
  _write_zip(path, lambda archive: server.write(archive, _read(chosen, folder, progress), method))
  return Written(len(chosen), len(content.annotations) - len(chosen), tuple(warnings))


def _chosen(content: panoptic_io.PanopticJson, server: Benchmark,
            images: Optional[panoptic_io.PathLike]) -> Tuple[Chosen, Sequence[str]]:
  """Returns image id -> prediction for all images to be written, and warnings."""
  own = [image_pairs.ListedImage(server.image_id(entry.image_id),
                                 content.image_files.get(entry.image_id),
                                 None if content.image_files else entry.file_name)
         for entry in content.annotations]
  if images is None:
    _check_distinct(own, content.path)
    return {image.image_id: (entry, None) for image, entry in zip(own, content.annotations)}, ()
  listed, sizes = _listed(images, server)
  _check_distinct(listed, os.fspath(images))
  found = image_pairs.assign(listed, own, os.fspath(images), content.path)
  missing = [image for image, position in zip(listed, found.positions) if position is None]
  if missing:
    named = f' ({missing[0].file_name})' if missing[0].file_name else ''
    raise DataError(f'{content.path}: {len(missing)} of the {len(listed)} images of {images} '
                    f'have no prediction, the first is {missing[0].image_id!r}{named}; '
                    + (found.hint or 'predict them too'))
  return {image.image_id: (content.annotations[position], size)
          for image, position, size in zip(listed, found.positions, sizes)
          if position is not None}, found.warnings


def _check_distinct(images: Sequence[image_pairs.ListedImage], path: str) -> None:
  seen = {}
  for image in images:
    if image.image_id in seen:
      names = ' and '.join(str(each.file_name or each.png or each.image_id)
                           for each in (seen[image.image_id], image))
      raise DataError(f'{path}: two images have one image id of the benchmark, '
                      f'{image.image_id!r}: {names}')
    seen[image.image_id] = image


def _check_categories(path: str, chosen: Chosen, benchmark: str) -> None:
  known = catalog.built_in(BENCHMARKS[benchmark].dataset).by_category_id
  for image_id, (entry, _) in chosen.items():
    for segment in entry.segments:
      if segment.category_id not in known:
        raise DataError(
            f'{path}: image {image_id!r}: segment {segment.id} is of category '
            f'{segment.category_id}, which {benchmark} does not know: its {len(known)} '
            f'categories have the ids {min(known)} to {max(known)}')


def _listed(images: panoptic_io.PathLike, server: Benchmark
            ) -> Tuple[Sequence[image_pairs.ListedImage], Sequence[Optional[Tuple[int, int]]]]:
  """Returns the images in a JSON or a folder, and their heights and widths if known."""
  if os.path.isdir(images):
    names = listing.files_below(images, _IMAGE_EXTENSIONS)
    found = [image_pairs.ListedImage(server.image_id(name), name) for name in names]
    sizes: Sequence[Optional[Tuple[int, int]]] = [None] * len(found)
  else:
    content = panoptic_io.read_json(images, 'a JSON with the list "images"')
    entries = content.get('images') if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and 'id' in e for e in entries):
      raise DataError(f'{images}: has no list "images" of objects with "id"')
    coco_fields.check(entries, _IMAGE, images, 'an image')
    found = [image_pairs.ListedImage(server.image_id(entry['id']), entry.get('file_name'))
             for entry in entries]
    sizes = [(entry['height'], entry['width']) if {'height', 'width'} <= set(entry) else None
             for entry in entries]
  if not found:
    raise DataError(f'{images}: lists no images')
  return found, sizes


def _read(chosen, folder: pathlib.Path, progress: Callable[[int], None]) -> Iterator[Prediction]:
  paths = panoptic_io.find_pngs(folder, [entry for entry, _ in chosen.values()], 'prediction')
  for path, (image_id, (entry, size)) in zip(paths, chosen.items()):
    ids = panoptic_io.read_panoptic_png(path)
    if size is not None and ids.shape != size:
      raise DataError('{}: is {} x {} pixels (height x width), and its image {} x {}; the server '
                      'compares pixel by pixel'.format(path, *ids.shape, *size))
    present = set(np.unique(ids).tolist()) - {0}
    listed = {segment.id for segment in entry.segments}
    if present != listed:
      raise DataError(f'{path}: segment {min(present ^ listed)} is '
                      + ('in the PNG, but not in the JSON' if present - listed else
                         'in the JSON, but not in the PNG'))
    yield Prediction(image_id, ids, entry.segments)
    progress(1)


def _write_zip(path: panoptic_io.PathLike, fill: Callable[[zipfile.ZipFile], None]) -> None:
  with atomic_file.replacing(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
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
  """Returns the file name of an image id; in COCO, ids are padded to twelve digits."""
  return f'{image_id:012d}' if isinstance(image_id, int) else image_id


def _coco_panoptic(archive, predictions, method: str) -> None:
  _write_panoptic(archive, predictions, f'panoptic_test-dev2017_{method}_results')


def _cityscapes_panoptic(archive, predictions, method: str) -> None:
  del method
  _write_panoptic(archive, predictions, 'cityscapes_panoptic_test')


# --- Semantic ---------------------------------------------------------------------------------


def _write_semantic(archive: zipfile.ZipFile, predictions: Iterator[Prediction],
                    offset: int) -> None:
  """Writes grayscale PNGs of category id + offset; 0 where nothing is predicted."""
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
  """Writes a text file of "mask path, class, confidence" per image, and a PNG per instance."""
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
  # The time is fixed, so that equal predictions give equal files.
  archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, compression)


# --- Names ------------------------------------------------------------------------------------


def _coco_id(image_id: ImageId) -> ImageId:
  name = image_names.stem(str(image_id))
  return int(name) if name.isascii() and name.isdigit() else name


def _cityscapes_id(image_id: ImageId) -> ImageId:
  return image_names.without_cityscapes_ends(image_names.stem(str(image_id)))


def _ade20k_id(image_id: ImageId) -> ImageId:
  return image_names.stem(str(image_id))


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
        _ade20k_semantic, 'ade20k_panoptic', _ade20k_id, None),
}
