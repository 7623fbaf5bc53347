"""COCO's instance format: one JSON with images, categories and one annotation per instance.

A mask is a list of polygons or run lengths; see coco_masks. COCO and labeling tools write such
files; results of models are lists of similar entries.
"""

import os
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from deeplab_tf import image_names
from deeplab_tf.formats import coco_fields, coco_panoptic
from deeplab_tf.user_errors import DataError

# Image id -> height and width, and category ids, of a file.
Known = Mapping[str, Mapping[Any, Any]]

IMAGE = {'id': coco_fields.IMAGE_ID, 'height': coco_fields.SIZE, 'width': coco_fields.SIZE,
         'file_name': coco_fields.FILE_NAME}
# Image of which only the masks are used.
UNNAMED_IMAGE = {**IMAGE, 'file_name': coco_fields.FILE_NAME._replace(optional=True)}
# An instance of a model's results.
INSTANCE = {'image_id': coco_fields.IMAGE_ID, 'category_id': coco_fields.INTEGER,
            'bbox': coco_fields.BOX._replace(optional=True)}
# An annotation of COCO or of a labeling tool.
ANY_ANNOTATION = {'image_id': coco_fields.IMAGE_ID, 'category_id': coco_fields.INTEGER,
                  'id': coco_fields.IMAGE_ID._replace(optional=True),
                  'area': coco_fields.AREA._replace(optional=True),
                  'iscrowd': coco_fields.FLAG._replace(optional=True)}
# An annotation whose box is used too.
ANNOTATION = {**ANY_ANNOTATION, 'bbox': INSTANCE['bbox']}


def read_json(path: Union[str, os.PathLike], expected: str,
              image: Mapping[str, coco_fields.Field]) -> Dict[str, Any]:
  """Reads an instance JSON and validates all but the fields of its annotations.

  Args:
    path: Path of the file.
    expected: Noun phrase for the expected content, for error messages.
    image: Fields of an image, IMAGE or UNNAMED_IMAGE.

  Returns:
    Content of the file. images, annotations and categories are lists of objects; the ids of images
    and of categories are distinct.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is no such JSON. The message is one line that names the file.
  """
  content = coco_panoptic.read_json(path, expected)
  missing = [key for key in ('images', 'annotations', 'categories')
             if not isinstance(content, dict) or not isinstance(content.get(key), list)]
  if missing:
    raise DataError(f'{path}: no list "{missing[0]}"; expected {expected}')
  coco_fields.check(content['images'], image, path, 'an image')
  coco_fields.check(content['categories'], {'id': coco_fields.INTEGER}, path, 'a category')
  coco_fields.check(content['annotations'], {}, path, 'an annotation')
  ids = known(content)
  if len(ids['image_id']) < len(content['images']):
    raise DataError(f'{path}: an image id is listed twice in "images"; ids must be distinct')
  if len(ids['category_id']) < len(content['categories']):
    raise DataError(f'{path}: a category id is listed twice in "categories"; ids must be distinct')
  if any('segments_info' in annotation for annotation in content['annotations']):
    raise DataError(f'{path}: this is a panoptic JSON; expected {expected}')
  return content


def known(content: Mapping[str, Any]) -> Known:
  """Returns the ids of images, with their heights and widths, and the ids of categories."""
  return {'image_id': {entry['id']: (entry['height'], entry['width'])
                       for entry in content['images']},
          'category_id': {entry['id']: None for entry in content['categories']}}


def check_known(entry: Mapping[str, Any], ids: Known, where: str, path: Any) -> None:
  """Checks that a file lists the image and the category of an annotation or a result.

  Args:
    entry: The annotation or result, with image_id and category_id.
    ids: Result of `known`.
    where: Prefix of the error message.
    path: Path of the file that lists them.

  Raises:
    ValueError: It does not list one of them.
  """
  for key, values in ids.items():
    if entry[key] not in values:
      raise DataError(f'{where} has {key} {entry[key]!r}, which {path} does not list'
                      + image_names.type_hint(entry[key], values))


def without_mask(annotations: List[Dict[str, Any]]) -> Tuple[List[Dict[str, Any]], Optional[str]]:
  """Separates annotations that have a box only.

  Args:
    annotations: Annotations of a file.

  Returns:
    The annotations with a mask, and a line that describes the others, or None if there are none.
  """
  with_mask = [entry for entry in annotations if _has_mask(entry)]
  count = len(annotations) - len(with_mask)
  if not count:
    return with_mask, None
  first = next(entry for entry in annotations if not _has_mask(entry))
  return with_mask, (
      f'{count} of {len(annotations)} annotations have no mask ("segmentation" is missing or '
      f'empty), e.g. annotation {coco_fields.shown(first.get("id"))}: they are detection '
      'annotations, which have boxes only. Export polygons or run lengths from the labeling tool, '
      'or remove these annotations')


def _has_mask(annotation):
  return annotation.get('segmentation') not in (None, [], {}, '')
