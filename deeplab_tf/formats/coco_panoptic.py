"""Reads and writes the COCO panoptic format: a JSON and a folder of PNGs.

A PNG stores segment ids as R + 256 G + 65536 B; id 0 is void. The JSON has one annotation per
image with `segments_info`: id, category_id and, in the ground truth, area and iscrowd. Image
ids are integers in COCO and strings in Cityscapes and ADE20K.
"""

import json
import os
import pathlib
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from deeplab_tf import file_names
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import atomic_file, coco_categories, coco_fields, image_limits
from deeplab_tf.user_errors import DataError, MissingFileError

PathLike = Union[str, os.PathLike]
MAX_ID = 256**3 - 1


class Segment(NamedTuple):
  """One segment of an image.

  Attributes:
    id: Value of the segment in the map of ids; not 0, which is void.
    category_id: Category id of the dataset.
    iscrowd: Whether the segment is a group of instances of a thing class.
    area: Number of pixels stated by the JSON, or None to count them in the map.
    score: Confidence in [0, 1] of a predicted segment, if the JSON states one.
  """
  id: int
  category_id: int
  iscrowd: bool = False
  area: Optional[int] = None
  score: Optional[float] = None


class FileCategory(NamedTuple):
  """A category listed by a JSON; predictions may leave out `name` and `isthing`."""
  category_id: int
  name: Optional[str]
  isthing: Optional[bool]


class Annotation(NamedTuple):
  """The segments of one image and the name of its PNG."""
  image_id: Union[int, str]
  file_name: str
  segments: Tuple[Segment, ...]


class PanopticJson(NamedTuple):
  """A panoptic JSON.

  Attributes:
    path: Path of the file.
    categories: Categories listed by the file; predictions may list none.
    annotations: Annotations, one per image.
    image_files: Image id -> file name of the image, for images that are listed with a file name.
  """
  path: str
  categories: Tuple[FileCategory, ...]
  annotations: Tuple[Annotation, ...]
  image_files: Dict[Any, str] = {}


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
  """Converts colors to segment ids.

  Args:
    rgb: uint8 [..., 3 or more], colors; channels after the third are not read.

  Returns:
    int32 [...], R + 256 G + 65536 B.
  """
  red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
  return red | green << 8 | blue << 16


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
  """Converts segment ids to colors.

  Args:
    ids: int [...] in [0, 256**3), segment ids.

  Returns:
    uint8 [..., 3].

  Raises:
    ValueError: An id is negative or does not fit into three bytes.
  """
  ids = np.asarray(ids)
  if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
    raise DataError(f'segment ids reach from {ids.min()} to {ids.max()}: a panoptic PNG holds '
                    f'0 to {MAX_ID}; number the segments 1, 2, 3, ...')
  ids = ids.astype(np.int32)
  return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def read_panoptic_png(path: PathLike) -> np.ndarray:
  """Reads the segment ids of a panoptic PNG.

  Returns:
    int32 [height, width].

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not a PNG, exceeds formats.image_limits, or is not 8-bit RGB(A).
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise MissingFileError(f'{path}: there is no such panoptic PNG')
  image = image_limits.load(path, path, ('PNG',), _mode_problem)
  # Pillow stores four bytes per RGB pixel, which can be read as one integer without arithmetic.
  raw = image.tobytes('raw', 'RGBX' if image.mode == 'RGB' else 'RGBA')
  ids = np.frombuffer(raw, '<u4').reshape(image.height, image.width)
  return (ids & MAX_ID).view('<i4')


def _mode_problem(image: Image.Image) -> Optional[str]:
  """Describes what is wrong with the color mode of an image, before its pixels are read."""
  sixteen_bit = bool(image.tile) and '16' in str(image.tile[0][3])
  if image.mode in ('RGB', 'RGBA') and not sixteen_bit:
    return None
  mode = f'{image.mode} with 16 bits' if sixteen_bit and 'RGB' in image.mode else image.mode
  return (f'the image has mode {mode}; a panoptic PNG is RGB with 8 bits (id = R + 256 G + '
          '65536 B)')


def write_panoptic_png(path: PathLike, ids: np.ndarray) -> None:
  """Writes segment ids as a panoptic PNG, atomically.

  Args:
    path: Path of the file.
    ids: int [height, width] in [0, 256**3), segment ids.
  """
  with atomic_file.replacing(path) as temporary:
    Image.fromarray(id_to_rgb(ids)).save(temporary, format='PNG')


def write_json(path: PathLike, content: Any) -> None:
  """Writes JSON atomically; numpy numbers become Python numbers."""
  with atomic_file.writing(path) as file:
    json.dump(content, file, indent=1, default=_plain)
    file.write('\n')


def _plain(value: Any) -> Any:
  if isinstance(value, (np.generic, np.ndarray)):
    return value.tolist()
  raise TypeError(f'{type(value).__name__} cannot be written to JSON')


def read_json(path: PathLike, expected: str) -> Any:
  """Reads any JSON file.

  Args:
    path: Path of the file.
    expected: Noun phrase for the expected content, for the error message.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not valid JSON.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise MissingFileError(f'{path}: there is no such file; expected {expected}')
  content = image_limits.read_bytes(path)
  try:
    return json.loads(content)  # Accepts UTF-8, UTF-16 and UTF-32.
  except (ValueError, RecursionError) as error:
    raise DataError(f'{path}: not valid JSON ({error}); expected {expected}') from error


def load_ground_truth(path: PathLike) -> PanopticJson:
  """Reads and validates the JSON of a panoptic ground truth.

  Raises:
    ValueError: The file is invalid. The message is one line that names the file and, if they
      matter, image, segment and category.
  """
  content = _load(path, 'a panoptic ground truth (images, annotations, categories)')
  entries = content.get('categories') or []
  problem = coco_categories.isthing_problem(content)
  if problem:
    raise DataError(f'{path}: {problem}')
  coco_fields.check(entries, coco_fields.CATEGORY, path, 'a category (of a panoptic JSON)')
  categories = [FileCategory(entry['id'], str(entry.get('name', entry['id'])),
                             bool(entry['isthing'])) for entry in entries]
  if not categories:
    raise DataError(f'{path}: no "categories"; the ground truth JSON must list them with id, '
                    'name and isthing')
  coco_fields.check_distinct_categories(categories, path)
  known = {category.category_id for category in categories}
  annotations = _annotations(path, content)
  for annotation in annotations:
    for segment in annotation.segments:
      if segment.category_id not in known:
        raise DataError(f'{path}: image {annotation.image_id}: segment {segment.id} is of '
                        f'category {segment.category_id}, which "categories" does not list')
  return PanopticJson(os.fspath(path), tuple(categories), annotations,
                      coco_fields.image_file_names(content, path))


def load_predictions(path: PathLike) -> PanopticJson:
  """Reads and validates the JSON of panoptic predictions; area and iscrowd are not read.

  Raises:
    ValueError: The file is invalid. The message is one line that names the file and, if they
      matter, image and segment.
  """
  content = _load(path, 'panoptic predictions (annotations with segments_info)')
  annotations = tuple(
      annotation._replace(segments=tuple(
          segment._replace(iscrowd=False, area=None) for segment in annotation.segments))
      for annotation in _annotations(path, content))
  entries = content.get('categories') or []
  coco_fields.check(entries, coco_fields.STATED_CATEGORY, path, 'a category')
  categories = tuple(
      FileCategory(entry['id'], str(entry['name']) if 'name' in entry else None,
                   bool(entry['isthing']) if 'isthing' in entry else None) for entry in entries)
  coco_fields.check_distinct_categories(categories, path)
  return PanopticJson(os.fspath(path), categories, annotations,
                      coco_fields.image_file_names(content, path))


def _load(path: PathLike, expected: str) -> Dict[str, Any]:
  content = read_json(path, expected)
  if not isinstance(content, dict) or 'annotations' not in content:
    kind = 'a list (instance results?)' if isinstance(content, list) else 'without "annotations"'
    raise DataError(f'{path}: the JSON is {kind}; expected {expected}')
  coco_fields.check_panoptic_annotations(content['annotations'], path, expected)
  return content


def _annotations(path: PathLike, content: Dict[str, Any]) -> Tuple[Annotation, ...]:
  annotations: Dict[Any, Annotation] = {}
  for entry in content['annotations']:
    image_id = entry['image_id']
    if image_id in annotations:
      raise DataError(f'{path}: image {image_id} has two annotations; one is allowed')
    segments = _segments(f'{path}: image {image_id}', entry['segments_info'])
    annotations[image_id] = Annotation(image_id, entry['file_name'], segments)
  return tuple(annotations.values())


def _segments(where: str, entries: Sequence[Dict[str, Any]]) -> Tuple[Segment, ...]:
  segments: List[Segment] = []
  seen = set()
  for entry in entries:
    segment = Segment(entry['id'], entry['category_id'], bool(entry.get('iscrowd', 0)),
                      entry.get('area'), entry.get('score'))
    if not 0 < segment.id <= MAX_ID:
      raise DataError(f'{where}: segment id {segment.id} of category {segment.category_id}: ids '
                      f'are 1 to {MAX_ID}, 0 is void')
    if segment.id in seen:
      raise DataError(f'{where}: segment id {segment.id} of category {segment.category_id} is '
                      'listed twice')
    seen.add(segment.id)
    segments.append(segment)
  return tuple(segments)


def from_label_map(label: np.ndarray,
                   dataset_info: DatasetInfo) -> Tuple[np.ndarray, List[Dict[str, Any]]]:
  """Converts a panoptic map to the COCO panoptic format.

  Args:
    label: int [height, width], class id * label divisor + instance number.
    dataset_info: Description of the classes.

  Returns:
    ids: int32 [height, width], segments numbered 1, 2, 3, ... in ascending order of their
      label; 0 is void.
    segments_info: One dictionary per segment: id, category_id, area, bbox (x, y, width,
      height; pixels) and iscrowd (1 for instance number 0 of a thing class).

  Raises:
    ValueError: A label belongs to no class of the dataset.
  """
  label = np.asarray(label)
  values, inverse = np.unique(label, return_inverse=True)
  ids = np.zeros(len(values), np.int32)
  segments = []
  for position, value in enumerate(values.tolist()):
    segment = label_segment(value, dataset_info, 'panoptic map')
    if segment is not None:
      ids[position] = len(segments) + 1
      segments.append({'id': len(segments) + 1, 'category_id': segment.category_id, 'area': 0,
                       'bbox': [0, 0, 0, 0], 'iscrowd': int(segment.iscrowd)})
  ids = ids[inverse].reshape(label.shape)
  _fill_boxes(ids, segments)
  return ids, segments


def _fill_boxes(ids: np.ndarray, segments: List[Dict[str, Any]]) -> None:
  rows, columns = np.nonzero(ids)
  owners = ids[rows, columns]
  areas = np.bincount(owners, minlength=len(segments) + 1)
  low = np.full((2, len(segments) + 1), np.iinfo(np.int64).max)
  high = np.zeros((2, len(segments) + 1), np.int64)
  for axis, positions in enumerate((columns, rows)):
    np.minimum.at(low[axis], owners, positions)
    np.maximum.at(high[axis], owners, positions)
  for segment in segments:
    x, y = low[:, segment['id']].tolist()
    right, bottom = high[:, segment['id']].tolist()
    segment['area'] = int(areas[segment['id']])
    segment['bbox'] = [x, y, right - x + 1, bottom - y + 1]


def label_segment(label: int, dataset_info: DatasetInfo, what: str) -> Optional[Segment]:
  """Returns the segment of a panoptic label.

  Args:
    label: Panoptic label, class id * label divisor + instance number.
    dataset_info: Description of the classes.
    what: Noun phrase for the origin of the label, for the error message.

  Returns:
    The segment with the id label + 1, since id 0 is void; None for void.

  Raises:
    ValueError: The label belongs to no class of the dataset.
  """
  class_id, instance = divmod(label, dataset_info.label_divisor)
  if class_id == dataset_info.ignore_label:
    return None
  category = dataset_info.by_class_id.get(class_id)
  if category is None:
    raise DataError(
        f'{what}: label {label} is of class {class_id} (label divisor '
        f'{dataset_info.label_divisor}); {dataset_info.name} has the classes '
        f'{dataset_info.class_ids[0]} to {dataset_info.class_ids[-1]} and ignores '
        f'{dataset_info.ignore_label}')
  return Segment(label + 1, category.category_id, bool(category.isthing) and instance == 0)


def png_folder(json_path: PathLike, folder: Optional[PathLike] = None) -> pathlib.Path:
  """Returns the folder of a JSON's PNGs, by default the JSON's path without `.json`.

  The PNGs of `predictions.json`, written by evaluation/predict.py, may be in the same folder as the
  JSON.

  Raises:
    FileNotFoundError: The folder does not exist.
  """
  path = pathlib.Path(folder) if folder else pathlib.Path(json_path).with_suffix('')
  if path.is_dir():
    return path
  if not folder and pathlib.Path(json_path).name == 'predictions.json':
    return pathlib.Path(json_path).parent
  raise MissingFileError(f'{path}: there is no such folder; it should hold the panoptic PNGs of '
                         f'{os.fspath(json_path)}')


def find_pngs(folder: PathLike, annotations: Sequence[Annotation],
              what: str) -> List[pathlib.Path]:
  """Returns the paths of PNGs; case, separators and Unicode normalization may differ.

  Args:
    folder: Folder of the PNGs.
    annotations: Annotations with the file names of the PNGs.
    what: Noun phrase for the kind of PNGs, for error messages.

  Raises:
    FileNotFoundError: A PNG is missing.
  """
  found = file_names.resolve(os.fspath(folder), [each.file_name for each in annotations])
  paths = [pathlib.Path(folder) / (found[each.file_name] or each.file_name)
           for each in annotations]
  for annotation, path in zip(annotations, paths):
    if not path.is_file():
      raise MissingFileError(f'{path}: the {what} PNG of image {annotation.image_id} is missing.'
                             + file_names.nearest(os.fspath(folder), annotation.file_name))
  return paths


def predictions_json(path: PathLike) -> PathLike:
  """Returns the JSON of predictions: the path itself, or predictions.json in a folder.

  Raises:
    FileNotFoundError: The folder has no predictions.json.
  """
  if not os.path.isdir(path):
    return path
  inside = os.path.join(path, 'predictions.json')
  if not os.path.isfile(inside):
    raise MissingFileError(f'{inside}: there is no such file; --predictions takes a JSON or a '
                           'folder that holds predictions.json')
  return inside
