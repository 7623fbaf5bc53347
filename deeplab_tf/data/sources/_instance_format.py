"""COCO's instance format: one JSON with an annotation per instance, whose masks may overlap.

Every statement of the JSON is checked; problems are reported with file, annotation and class.
"""

import functools
import os
from typing import Any, NamedTuple, Optional, Union

from deeplab_tf import file_names
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import sources
from deeplab_tf.data.sources import _labeled_files, _panoptic_format
from deeplab_tf.formats import coco_fields, coco_instances, coco_masks, instance_masks
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import DataError

_EXPECTED = ('an instance JSON of the COCO format (images, annotations with segmentation, '
             'categories)')


class Instance(NamedTuple):
  """An annotation whose image and class are known.

  Attributes:
    annotation_id: Id in the file; None if it has none.
    category: The class.
    segmentation: Polygons or run lengths as in the file, not checked yet.
    is_crowd: Whether the mask stands for several instances.
    area: Area in pixels; None if the file states none.
  """
  annotation_id: Union[int, str, None]
  category: Category
  segmentation: Any
  is_crowd: bool
  area: Optional[float]


def files(path: str, image_dir: str, content: dict[str, Any], info: DatasetInfo,
          options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images of an instance JSON, sorted by file name; some may have no instance.

  Args:
    path: Path of the JSON.
    image_dir: Folder of the images.
    content: Content of the JSON, from `read_json`.
    info: The classes, whose category ids are those of the JSON.
    options: treat_crowd_as_ignore (crowds are left out), max_missing, report and note are used.

  Raises:
    ValueError: There are no images, or `report` raised it.
    FileNotFoundError: An image is missing.
  """
  images = content['images']
  if not images:
    raise DataError(f'{path}: has no images')
  _check_names(path, content['categories'], info, options.report)
  by_image = _by_image(path, content, info, options)
  found = _panoptic_format.existing_files(image_dir, [image['file_name'] for image in images],
                                          'the image', options)
  result = [_labeled_files.LabeledFile(
      file_names.stem(image['file_name']), found[image['file_name']], functools.partial(
          read_label, path, image['file_name'], (image['height'], image['width']),
          by_image[image['id']], options=options)) for image in images]
  return sorted(result, key=lambda file: os.path.basename(file.image_file))


def read_json(path: str) -> dict[str, Any]:
  """Reads an instance JSON; the fields of its annotations are not checked yet.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not an instance JSON.
  """
  return coco_instances.read_json(path, _EXPECTED, coco_instances.IMAGE)


def _check_names(path, categories, info, report):
  """Reports categories that have another name in the data set: those of other data."""
  for entry in categories:
    own = info.by_category_id.get(entry['id'])
    if own is not None and str(entry.get('name', own.name)) != own.name:
      report(f'{path}: category {entry["id"]} is {coco_fields.shown(entry["name"])}, but '
             f'"{own.name}" in data set "{info.name}"; data of other classes are read as '
             'coco_instance_format')


def _by_image(path, content, info, options):
  """Returns the valid annotations of each image, by image id."""
  annotations, problem = coco_instances.without_mask(content['annotations'])
  if problem:
    options.report(f'{path}: {problem}')
  ids, by_category = coco_instances.known(content), info.by_category_id
  result = {image['id']: [] for image in content['images']}
  for annotation in annotations:
    name = f'annotation {_shown(annotation.get("id"))}'
    try:
      coco_fields.check([annotation], coco_instances.ANY_ANNOTATION, path, name)
      coco_instances.check_known(annotation, ids, f'{path}: {name}', path)
    except DataError as error:
      options.report(str(error))
      continue
    category = by_category.get(annotation['category_id'])
    if category is None:
      options.report(f'{path}: {name} has category id {annotation["category_id"]}, which data set '
                     f'"{info.name}" does not have')
    elif not annotation.get('iscrowd') or not options.treat_crowd_as_ignore:
      result[annotation['image_id']].append(Instance(
          annotation.get('id'), category, annotation['segmentation'],
          bool(annotation.get('iscrowd')), annotation.get('area')))
  return result


def read_label(path: str, file_name: str, size: tuple[int, int], instances: list[Instance],
               *, options: sources.BuildOptions = sources.STRICT) -> InstanceMasks:
  """Returns the instances of an image.

  Args:
    path: Path of the JSON, for errors.
    file_name: Name of the image in the JSON, for errors.
    size: Height and width in the JSON.
    instances: The annotations of the image.
    options: `report` is called with one line for each mask that is invalid; if it returns, the
      instance is left out.

  Raises:
    ValueError: The image is too large, or `report` raised the error.
  """
  problem = instance_masks.size_problem(size, len(instances))
  if problem:
    raise DataError(f'{path}: the image {file_name} {problem}')
  from pycocotools import mask
  valid, runs = [], []
  for instance in instances:
    problem = coco_masks.problem(instance.segmentation, size)
    if problem:
      category = f'category {instance.category.category_id} "{instance.category.name}"'
      options.report(f'{path}: annotation {_shown(instance.annotation_id)} of {file_name} '
                     f'({category}): the mask {problem}')
    else:
      valid.append(instance)
      runs.append(instance_masks.run_lengths(instance.segmentation, size))
  areas = [float(mask.area(run)) if instance.area is None else float(instance.area)
           for instance, run in zip(valid, runs)]
  return InstanceMasks(tuple(size), tuple(_bytes(run['counts']) for run in runs),
                       tuple(instance.category.class_id for instance in valid),
                       tuple(instance.is_crowd for instance in valid), tuple(areas))


def _shown(annotation_id):
  return 'without id' if annotation_id is None else coco_fields.shown(annotation_id)


def _bytes(counts):
  return counts.encode() if isinstance(counts, str) else counts
