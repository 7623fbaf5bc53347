"""Checks of the entries of COCO's JSON files, made once when a file is read.

An error is one line with the file, the entry and the allowed values.
"""

from typing import Any, Callable, Dict, Mapping, NamedTuple

from deeplab_tf.formats import image_limits
from deeplab_tf.user_errors import DataError

# Maximum length of a file name in bytes on common file systems.
_LONGEST = 255
_LONGEST_PATH = 3000
# COCO has annotation ids above 2**31.
_LARGEST = 2**53


class Field(NamedTuple):
  """A field of an entry.

  Attributes:
    is_right: Function that returns whether a value is valid.
    allowed: Description of the valid values, for error messages.
    optional: Whether the field may be absent.
  """
  is_right: Callable[[Any], bool]
  allowed: str
  optional: bool = False


def _is_integer(value: Any) -> bool:
  return type(value) is int and abs(value) <= _LARGEST  # Not bool: True equals 1.


def _is_id(value: Any) -> bool:
  return _is_text(value) or _is_integer(value)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= _LONGEST


def _is_number(value: Any) -> bool:
  return (isinstance(value, (int, float)) and not isinstance(value, bool)
          and -1e15 < value < 1e15)  # False for NaN.


def _is_size(value: Any) -> bool:
  return _is_integer(value) and 0 < value <= image_limits.MAX_SIDE


def _is_area(value: Any) -> bool:
  return value is None or _is_number(value) and value >= 0


def _is_box(value: Any) -> bool:
  return (isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
          and min(value[2:]) >= 0)


def _is_file_name(value: Any) -> bool:
  if not isinstance(value, str) or len(value) > _LONGEST_PATH:
    return False
  *folders, name = value.split('/')
  return _is_text(name) and all(_is_text(folder) for folder in folders if folder)


INTEGER = Field(_is_integer, 'a whole number below 2**53')
IMAGE_ID = Field(_is_id, 'a whole number below 2**53 or a short text')
NUMBER = Field(_is_number, 'a number')
FLAG = Field(lambda value: value in (0, 1), '0 or 1')
AREA = Field(_is_area, 'a number of pixels')
SIZE = Field(_is_size, f'a number of pixels, 1 to {image_limits.MAX_SIDE}')
LIST = Field(lambda value: isinstance(value, list), 'a list')
# The path may lead out of the folder, as in files of some tools: files are only read there.
FILE_NAME = Field(_is_file_name, 'the name of a file')

BOX = Field(_is_box, 'x, y, width and height in pixels')

CATEGORY = {'id': INTEGER, 'isthing': FLAG}
# Category of predictions, which need not state whether it is a thing.
STATED_CATEGORY = {'id': INTEGER, 'isthing': FLAG._replace(optional=True)}
IMAGE = {'id': IMAGE_ID, 'file_name': FILE_NAME}
ANNOTATION = {'image_id': IMAGE_ID, 'file_name': FILE_NAME, 'segments_info': LIST}
_NAMED_IMAGE = {key: field._replace(optional=True) for key, field in IMAGE.items()}
SEGMENT = {'id': INTEGER, 'category_id': INTEGER, 'iscrowd': FLAG._replace(optional=True),
           'area': AREA._replace(optional=True)}


def check(entries: Any, fields: Mapping[str, Field], where: str, what: str) -> None:
  """Checks the entries of a list.

  Args:
    entries: List of entries.
    fields: Fields that each entry must have, by key.
    where: Prefix of error messages: the file, and the part of it that holds the list.
    what: Noun phrase for an entry, with article.

  Raises:
    ValueError: The entries are not a list of objects with these fields.
  """
  if not isinstance(entries, list):
    raise DataError(f'{where}: a list is expected, with each entry {what}, not {shown(entries)}')
  for entry in entries:
    if not isinstance(entry, dict):
      raise DataError(f'{where}: {what} is {shown(entry)}; an object with '
                      f'{", ".join(fields)} is expected')
    for key, field in fields.items():
      if key not in entry and not field.optional:
        raise DataError(f'{where}: {what} has no "{key}": {shown(entry)}')
      if key in entry and not field.is_right(entry[key]):
        raise DataError(f'{where}: {what} has {shown(entry[key])} as "{key}", which must be '
                        f'{field.allowed}: {shown(entry)}')


def check_distinct_categories(categories: Any, path: Any) -> None:
  """Checks that no category id is listed twice; see `check`."""
  names: Dict[int, Any] = {}
  for category in categories:
    if category.category_id in names:
      raise DataError(f'{path}: the category id {category.category_id} is listed twice in '
                      f'"categories", as {shown(names[category.category_id])} and as '
                      f'{shown(category.name)}; ids must be distinct')
    names[category.category_id] = category.name


def image_file_names(content: Mapping[str, Any], path: Any) -> Dict[Any, str]:
  """Returns image id -> file name of the images that a JSON lists with a file name.

  Args:
    content: Content of the file; the list "images" may be absent.
    path: Path of the file, for error messages.

  Raises:
    DataError: "images" is not a list, or two images have the same id.
  """
  images = content.get('images') or []
  check(images, _NAMED_IMAGE, path, 'an image')
  names: Dict[Any, str] = {}
  for image in images:
    if {'id', 'file_name'} <= set(image):
      name = names.setdefault(image['id'], image['file_name'])
      if name != image['file_name']:
        raise DataError(f'{path}: the image id {image["id"]!r} is listed twice in "images", for '
                        f'{name} and for {image["file_name"]}; ids must be distinct')
  return names


def check_panoptic_annotations(annotations: Any, path: str, expected: str) -> None:
  """Checks the annotations and segments of a panoptic JSON; see `check`."""
  for annotation in annotations if isinstance(annotations, list) else ():
    if isinstance(annotation, dict) and 'segments_info' not in annotation:
      is_instance = {'segmentation', 'bbox'} & set(annotation)
      hint = ' (it looks like an instance JSON)' if is_instance else ''
      raise DataError(f'{path}: an annotation has no segments_info{hint}; expected {expected}')
  check(annotations, ANNOTATION, path, 'an annotation')
  for annotation in annotations:
    check(annotation['segments_info'], SEGMENT, path, f'a segment of {annotation["file_name"]}')


def shown(value: Any) -> str:
  """Returns a value as text for error messages, shortened if it is long."""
  text = repr(value)
  return text if len(text) <= 100 else f'{text[:90]} ...'
