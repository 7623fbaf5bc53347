"""The COCO panoptic format: one JSON, and one PNG per image whose colours are segment ids.

Every statement of the JSON is checked against the PNG, and the first that is wrong is named with
its file, segment and class.
"""

import json
import os
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from PIL import Image

from deeplab_tf.data import catalog


class AnnotatedImage(NamedTuple):
  """An image and its entry in the JSON.

  Attributes:
    name: File name of the image without extension.
    image_file: Path of the image.
    label_file: Path of the panoptic PNG, or None where there are no labels.
    height, width: As the JSON states them; 0 where it does not.
    segments: `segments_info` of the annotation.
  """
  name: str
  image_file: str
  label_file: Optional[str]
  height: int
  width: int
  segments: tuple


def read_json(path: Union[str, os.PathLike]) -> dict[str, Any]:
  """Reads a panoptic JSON and checks that it is one.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is no panoptic JSON.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: no such file; the panoptic JSON is expected there')
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except ValueError as error:
    raise ValueError(f'{path}: is no JSON ({error})') from None
  for key in ('images', 'annotations', 'categories'):
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise ValueError(f'{path}: has no list "{key}"; a panoptic JSON of the COCO format is '
                       'expected')
  wrong = next((a for a in content['annotations'] if 'segments_info' not in a), None)
  if wrong is not None:
    hint = ' (it looks like a detection JSON)' if 'bbox' in wrong else ''
    raise ValueError(f'{path}: an annotation has no segments_info{hint}; the panoptic JSON is '
                     'expected')
  _check_keys(path, content['images'], ('id', 'file_name'), 'an image')
  _check_keys(path, content['annotations'], ('image_id', 'file_name'), 'an annotation')
  for annotation in content['annotations']:
    _check_keys(path, annotation['segments_info'], ('id', 'category_id'),
                f'a segment of {annotation["file_name"]}')
  return content


def _check_keys(path, entries, keys, what):
  for entry in entries:
    for key in keys:
      if key not in entry:
        raise ValueError(f'{path}: {what} has no "{key}": {str(entry)[:80]}')


def annotated_images(path: str, content: dict[str, Any], image_dir: str,
                     label_dir: str, max_missing: int = 0) -> list[AnnotatedImage]:
  """Joins images with their annotations, sorted by file name, and checks that all files exist.

  Args:
    path: The JSON, for errors.
    content: What is in it.
    image_dir: Folder of the images.
    label_dir: Folder of the PNGs.
    max_missing: So many of each may be missing.

  Raises:
    ValueError: Ids that occur twice or do not match.
    FileNotFoundError: An image or a PNG is missing.
  """
  annotations = {}
  for annotation in content['annotations']:
    if annotation['image_id'] in annotations:
      raise ValueError(f'{path}: image id {annotation["image_id"]} has two annotations')
    annotations[annotation['image_id']] = annotation
  seen, result = set(), []
  for image in content['images']:
    annotation = annotations.pop(image['id'], None)
    if image['id'] in seen:
      raise ValueError(f'{path}: image id {image["id"]} occurs twice')
    if annotation is None:
      raise ValueError(f'{path}: image id {image["id"]} ({image["file_name"]}) has no annotation')
    seen.add(image['id'])
    result.append(AnnotatedImage(
        os.path.splitext(os.path.basename(image['file_name']))[0],
        os.path.join(image_dir, image['file_name']),
        os.path.join(label_dir, annotation['file_name']), image.get('height', 0),
        image.get('width', 0), tuple(annotation['segments_info'])))
  if annotations:
    raise ValueError(f'{path}: the annotation of image id {next(iter(annotations))} has no image')
  if not result:
    raise ValueError(f'{path}: has no images')
  _check_exist([r.image_file for r in result], 'the image', max_missing)
  _check_exist([r.label_file for r in result], 'the panoptic PNG', max_missing)
  return sorted(result, key=lambda r: os.path.basename(r.image_file))


def _check_exist(paths, what, max_missing):
  listings, missing = {}, []
  for path in paths:
    folder, name = os.path.split(path)
    if folder not in listings:
      if not os.path.isdir(folder):
        raise FileNotFoundError(f'{folder}: no such folder; {what} {name} is expected in it')
      listings[folder] = set(os.listdir(folder))
    if name not in listings[folder]:
      missing.append(path)
  if len(missing) > max_missing:
    more = f' (and {len(missing) - 1} more like it)' if len(missing) > 1 else ''
    raise FileNotFoundError(f'{missing[0]}: no such file; the JSON names it as {what}{more}')


# --- Label maps -------------------------------------------------------------------------------


def read_label(image: AnnotatedImage, info: catalog.DatasetInfo, treat_crowd_as_ignore: bool,
               check_area: bool = True) -> np.ndarray:
  """Reads a panoptic PNG and returns the label map, int32 [height, width].

  Things are numbered from 1 per class in the order of segments_info; stuff, crowd and unlabelled
  pixels have number 0.

  Args:
    image: What to read.
    info: The classes; the JSON's category ids are its category ids.
    treat_crowd_as_ignore: Whether crowd regions become unlabelled.
    check_area: Whether `area` must be the number of pixels.

  Raises:
    ValueError: JSON and PNG contradict each other; one line with file, segment id and class.
  """
  ids = read_segment_ids(image.label_file)
  if image.height and ids.shape != (image.height, image.width):
    raise ValueError(f'{image.label_file}: is {ids.shape[0]}x{ids.shape[1]}, but the JSON states '
                     f'{image.height}x{image.width} for the image')
  values = _segment_values(image, info, treat_crowd_as_ignore)
  known = np.array([0, *(s['id'] for s in image.segments)], np.int64)
  order = np.argsort(known)
  position = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
  unlisted = known[order][position] != ids
  if unlisted.any():
    raise ValueError(f'{image.label_file}: segment id {ids[unlisted][0]} '
                     f'({int(unlisted.sum())} pixels) is not in the JSON')
  pixels = np.bincount(position.ravel(), minlength=len(known))
  for rank, row in enumerate(order):
    if row:
      _check_pixels(image, image.segments[row - 1], info, pixels[rank], check_area)
  table = np.array([info.void_label, *values], np.int32)[order]
  return table[position]


def read_segment_ids(path: str) -> np.ndarray:
  """Reads a panoptic PNG: int32 [height, width], R + 256 G + 65536 B."""
  try:
    with Image.open(path) as file:
      if file.mode != 'RGB':
        raise ValueError(f'{path}: has colour mode {file.mode}; a panoptic PNG is 8-bit RGB')
      rgb = np.asarray(file)
  except (OSError, SyntaxError) as error:  # Pillow has both for broken files.
    raise ValueError(f'{path}: cannot be read as an image ({error})') from None
  # As the numbers of a little-endian int32 whose highest byte is 0.
  padded = np.zeros((*rgb.shape[:2], 4), np.uint8)
  padded[..., :3] = rgb
  return padded.view('<i4')[..., 0]


def _segment_values(image, info, treat_crowd_as_ignore):
  """The panoptic label of each segment, in order."""
  by_category, seen, counts, values = info.by_category_id, set(), {}, []
  for segment in image.segments:
    category = by_category.get(segment['category_id'])
    where = f'{image.label_file}: segment id {segment["id"]}'
    if category is None:
      raise ValueError(f'{where} has category id {segment["category_id"]}, which data set '
                       f'"{info.name}" does not have')
    if segment['id'] in seen or not 0 < segment['id'] < 256**3:
      problem = 'occurs twice' if segment['id'] in seen else 'must be from 1 to 16777215'
      raise ValueError(f'{where} ({_class(category)}) {problem} in segments_info')
    seen.add(segment['id'])
    crowd = bool(segment.get('iscrowd', 0))
    if crowd and not category.isthing:
      raise ValueError(f'{where} ({_class(category)}) is crowd, but its class is stuff')
    number = 0
    if category.isthing and not crowd:
      number = counts[category.class_id] = counts.get(category.class_id, 0) + 1
    if number >= info.label_divisor:
      raise ValueError(f'{where} ({_class(category)}) is instance {number} of its class in one '
                       f'image; label_divisor {info.label_divisor} allows '
                       f'{info.label_divisor - 1}')
    values.append(info.void_label if crowd and treat_crowd_as_ignore else
                  category.class_id * info.label_divisor + number)
  return values


def _check_pixels(image, segment, info, pixels, check_area):
  where = (f'{image.label_file}: segment id {segment["id"]} '
           f'({_class(info.by_category_id[segment["category_id"]])})')
  if not pixels:
    raise ValueError(f'{where} is in the JSON, but no pixel of the PNG has it')
  if check_area and segment.get('area', pixels) != pixels:
    raise ValueError(f'{where} has {pixels} pixels in the PNG, but area {segment["area"]} in the '
                     'JSON')


def _class(category):
  return f'category {category.category_id} "{category.name}"'
