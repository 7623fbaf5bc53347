"""The COCO panoptic format: one JSON, and one PNG per image whose colors are segment ids.

Every statement of the JSON is checked against the PNG; problems are reported with file, segment and
class.
"""

import os
from typing import Any, NamedTuple, Optional, Sequence, Union

import numpy as np

from deeplab_tf import file_names
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import sources
from deeplab_tf.formats import coco_fields, coco_panoptic, image_limits, orientation
from deeplab_tf.user_errors import DataError, MissingFileError, UserError

_EXPECTED = 'a panoptic JSON of the COCO format'
_SIZE = coco_fields.SIZE._replace(optional=True)
# Causes of notes.
WRONG_AREA = ('segments whose "area" is not their number of pixels, as where it comes from '
              'polygons; nothing that is built or trained uses it')
SPLIT_STUFF = ('stuff of one class in several segments of an image, which become one here, while '
               'panopticapi\'s scores count each segment')
_IMAGE = {**coco_fields.IMAGE, 'height': _SIZE, 'width': _SIZE}


class AnnotatedImage(NamedTuple):
  """An image and its entry in the JSON.

  Attributes:
    name: File name of the image without extension.
    image_file: Path of the image.
    label_file: Path of the panoptic PNG, or None where there are no labels.
    height, width: Size stated in the JSON; 0 if it states none.
    segments: `segments_info` of the annotation.
  """
  name: str
  image_file: str
  label_file: Optional[str]
  height: int
  width: int
  segments: tuple


def read_json(path: Union[str, os.PathLike]) -> dict[str, Any]:
  """Reads and validates a panoptic JSON.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not a panoptic JSON.
  """
  content = coco_panoptic.read_json(path, _EXPECTED)
  for key in ('images', 'annotations', 'categories'):
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise DataError(f'{path}: has no list "{key}"; expected {_EXPECTED}')
  coco_fields.check(content['images'], _IMAGE, path, 'an image')
  coco_fields.check_panoptic_annotations(content['annotations'], path, _EXPECTED)
  return content


def annotated_images(path: str, content: dict[str, Any], image_dir: str, label_dir: str,
                     options: sources.BuildOptions = sources.STRICT) -> list[AnnotatedImage]:
  """Joins images with their annotations, sorted by file name, and checks that all files exist.

  Args:
    path: Path of the JSON, for errors.
    content: Content of the JSON.
    image_dir: Folder of the images.
    label_dir: Folder of the PNGs.
    options: max_missing, report and note are used.

  Raises:
    ValueError: There are no images, or `report` raised it.
    FileNotFoundError: An image or a PNG is missing.
  """
  pairs = _pairs(path, content, options.report)
  if not pairs:
    raise DataError(f'{path}: has no images' + ' with annotations' * bool(content['images']))
  image_files = existing_files(image_dir, [image['file_name'] for image, _ in pairs], 'the image',
                          options)
  label_files = existing_files(label_dir, [annotation['file_name'] for _, annotation in pairs],
                          'the panoptic PNG', options)
  result = [AnnotatedImage(
      name=file_names.stem(image['file_name']), image_file=image_files[image['file_name']],
      label_file=label_files[annotation['file_name']], height=image.get('height', 0),
      width=image.get('width', 0),
      segments=tuple(annotation['segments_info'])) for image, annotation in pairs]
  return sorted(result, key=lambda r: os.path.basename(r.image_file))


def _pairs(path, content, report):
  """Returns pairs of the entries of images and of their annotations."""
  annotations, images = {}, {}
  for annotation in content['annotations']:
    if annotation['image_id'] in annotations:
      report(f'{path}: image id {annotation["image_id"]} has two annotations')
    annotations[annotation['image_id']] = annotation
  for image in content['images']:
    if image['id'] in images:
      report(f'{path}: image id {image["id"]} occurs twice')
      continue
    images[image['id']] = image
  lonely = [image_id for image_id in images if image_id not in annotations]
  without_image = [image_id for image_id in annotations if image_id not in images]
  _report_types(path, lonely, without_image, report)
  _report_lonely(path, [f'image id {image_id} ({images[image_id]["file_name"]})'
                        for image_id in lonely], 'has no annotation', report)
  _report_lonely(path, [f'the annotation of image id {image_id}' for image_id in without_image],
                 'has no image', report)
  return [(image, annotations[image_id]) for image_id, image in images.items()
          if image_id in annotations]


def _report_types(path, lonely, without_image, report):
  """Reports ids that differ only in being text or a number, and drops them from both lists."""
  written = {str(image_id): image_id for image_id in without_image}
  alike = [(one, written[str(one)]) for one in lonely if str(one) in written]
  if not alike:
    return
  one, other = ('text' if isinstance(image_id, str) else 'numbers' for image_id in alike[0])
  report(f'{path}: ids of images are {one} in "images" and {other} in "annotations", e.g. '
         f'{alike[0][0]!r} and {alike[0][1]!r} ({len(alike)} images): write them alike in both '
         'lists')
  for image_id, annotated in alike:
    lonely.remove(image_id)
    without_image.remove(annotated)


def _report_lonely(path, names, what, report):
  """Reports many problems of one kind in one line, and few in one line each."""
  if len(names) <= sources.LISTED:
    for name in names:
      report(f'{path}: {name} {what}')
  else:
    listed = ', '.join(names[:sources.LISTED])
    report(f'{path}: {listed} {what} (and {len(names) - sources.LISTED} more like it)')


def existing_files(folder: str, names: Sequence[str], what: str,
                   options: sources.BuildOptions) -> dict[str, str]:
  """Returns name -> path of the files that a JSON names; missing ones have the expected path.

  Args:
    folder: Folder of the files.
    names: File names in the JSON, at least one.
    what: Noun phrase for such a file, with article.
    options: max_missing and note are used.

  Raises:
    FileNotFoundError: The folder or more than max_missing files do not exist.
  """
  if not os.path.isdir(folder):
    raise MissingFileError(f'{folder}: no such folder; {what} {names[0]} is expected in it')
  found = file_names.resolve(folder, names)
  missing = [name for name in found if found[name] is None]
  if len(missing) > options.max_missing:
    more = f' (and {len(missing) - 1} more like it)' if len(missing) > 1 else ''
    raise MissingFileError(
        f'{os.path.join(folder, missing[0])}: no such file; the JSON names it as {what}{more}.'
        f'{file_names.nearest(folder, missing[0])}')
  for name in missing:
    hint = file_names.nearest(folder, name) if name in missing[:sources.LISTED] else ''
    options.note(f'files that the JSON names as {what} and that are not there', name + hint)
  return {name: os.path.join(folder, found[name] or name) for name in found}


# --- Label maps -------------------------------------------------------------------------------


def read_label(image: AnnotatedImage, info: DatasetInfo, treat_crowd_as_ignore: bool,
               check_area: bool = True,
               options: sources.BuildOptions = sources.STRICT) -> np.ndarray:
  """Reads a panoptic PNG and returns the label map, int32 [height, width].

  Things are numbered from 1 per class in the order of segments_info; stuff, crowd and unlabeled
  pixels have instance number 0.

  Args:
    image: The image and its annotation.
    info: The classes; their category ids are those of the JSON.
    treat_crowd_as_ignore: Whether crowd regions become unlabeled.
    check_area: Whether each segment must have pixels, and whether `area` is compared with their
      number; false if segments were painted over others after their areas were counted.
    options: `report` is called with one line, with file, segment id and class, for each
      contradiction between JSON and PNG; if it returns, the segment becomes unlabeled. `note` is
      called for wrong areas, which are not used, and for stuff in several segments.

  Raises:
    ValueError: The PNG is invalid, or `report` raised the error.
  """
  ids = read_segment_ids(image.label_file)
  return label_from_ids(ids, image, info, treat_crowd_as_ignore=treat_crowd_as_ignore,
                        check_area=check_area, options=options)


def label_from_ids(ids: np.ndarray, image: AnnotatedImage, info: DatasetInfo,
                   *, treat_crowd_as_ignore: bool, check_area: bool = True,
                   options: sources.BuildOptions = sources.STRICT) -> np.ndarray:
  """Returns the same label map as `read_label`, from the segment ids of the PNG.

  Args:
    ids: int32 [height, width], segment ids.
    image, info, treat_crowd_as_ignore, check_area, options: Same arguments as for `read_label`.
  """
  if image.height and ids.shape != (image.height, image.width):
    raise DataError(f'{image.label_file}: is {ids.shape[0]}x{ids.shape[1]}, but the JSON states '
                    f'{image.height}x{image.width} for the image{_exif_reason(image, ids.shape)}')
  report = options.report
  segments = _segments(image, info, treat_crowd_as_ignore, report)
  _note_split_stuff(image, segments, options.note)
  known = np.array([0, *(segment.id for segment in segments)], np.int64)
  order = np.argsort(known)  # Id 0, unlabeled, comes first.
  position = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
  unlisted = known[order][position] != ids
  if unlisted.any():
    for segment_id, count in zip(*np.unique(ids[unlisted], return_counts=True)):
      report(f'{image.label_file}: segment id {segment_id} ({count} pixels) is not in the JSON')
    position = np.where(unlisted, 0, position)
  pixels = np.bincount(position.ravel(), minlength=len(known))
  for rank, row in enumerate(order):
    if row and check_area and segments[row - 1].category is not None:
      _check_pixels(image, segments[row - 1], pixels[rank], options)
  table = np.array([info.void_label, *(segment.value for segment in segments)], np.int32)[order]
  return table[position]


def _exif_reason(image, label_size):
  """Returns a hint if the JSON states the size of the image before it is rotated upright."""
  if label_size != (image.width, image.height):
    return ''
  try:
    turned = orientation.stated(image_limits.read_bytes(image.image_file))
  except UserError:
    return ''
  return (f' as it is stored; its EXIF orientation {turned} turns it, so state the upright size'
          if turned in orientation.TRANSPOSED else '')


def read_segment_ids(path: str) -> np.ndarray:
  """Returns the segment ids of a panoptic PNG, R + 256 G + 65536 B, int32 [height, width]."""
  try:
    return coco_panoptic.read_panoptic_png(path)
  except FileNotFoundError as error:  # Like any corrupt file, since images were listed before.
    raise DataError(str(error)) from None


class _Segment(NamedTuple):
  """A segment of an image with its panoptic label; category is None if it is unknown."""
  id: int
  category: Optional[Category]
  value: int
  area: Optional[int]


def _segments(image, info, treat_crowd_as_ignore, report):
  """Returns the valid segments of `segments_info`, in order."""
  by_category, seen, counts, result = info.by_category_id, set(), {}, []
  for segment in image.segments:
    category = by_category.get(segment['category_id'])
    where = f'{image.label_file}: segment id {segment["id"]}'
    if category is None:
      report(f'{where} has category id {segment["category_id"]}, which data set "{info.name}" '
             'does not have')
    if segment['id'] in seen or not 0 < segment['id'] < 256**3:
      problem = 'occurs twice' if segment['id'] in seen else 'must be from 1 to 16777215'
      report(f'{where} ({_class(category)}) {problem} in segments_info')
      continue
    seen.add(segment['id'])
    value = info.void_label
    if category is not None:
      value = _segment_value(segment, category, info, counts, report, where)
    if segment.get('iscrowd', 0) and treat_crowd_as_ignore:
      value = info.void_label
    result.append(_Segment(segment['id'], category, value, segment.get('area')))
  return result


def _segment_value(segment, category, info, counts, report, where):
  """Returns the panoptic label of a segment; `counts` has the instances per class so far."""
  crowd = bool(segment.get('iscrowd', 0))
  if crowd and not category.isthing:
    report(f'{where} ({_class(category)}) is crowd, but its class is stuff')
  number = 0
  if category.isthing and not crowd:
    number = counts[category.class_id] = counts.get(category.class_id, 0) + 1
  if number >= info.label_divisor:
    report(f'{where} ({_class(category)}) is instance {number} of its class in one image; '
           f'label_divisor {info.label_divisor} allows {info.label_divisor - 1}')
    return info.void_label
  return category.class_id * info.label_divisor + number


def _note_split_stuff(image, segments, note):
  """Notes the stuff classes that have several segments."""
  stuff = [segment.category for segment in segments
           if segment.category is not None and not segment.category.isthing]
  for category in dict.fromkeys(stuff):
    if stuff.count(category) > 1:
      note(SPLIT_STUFF, f'{image.label_file}: {_class(category)} has {stuff.count(category)}')


def _check_pixels(image, segment, pixels, options):
  where = f'{image.label_file}: segment id {segment.id} ({_class(segment.category)})'
  if not pixels:
    options.report(f'{where} is in the JSON, but no pixel of the PNG has it')
  elif segment.area is not None and segment.area != pixels:
    options.note(WRONG_AREA, f'{where} has {pixels} pixels in the PNG, but area {segment.area} in '
                 'the JSON')


def _class(category):
  if category is None:
    return 'unknown category'
  return f'category {category.category_id} "{category.name}"'
