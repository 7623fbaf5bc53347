"""Classes of data sets: names, colors, class ids and label divisors.

The built-in data sets are described by the JSON files in `categories/`. "coco_format" takes its
classes from the panoptic JSON that the config names, "coco_instance_format" from the instance JSON,
"label_folders" from the config itself. Class ids are DeepLab2's where it supports the data set. It
does not support Mapillary Vistas, whose class ids are 0..64 as in the data set's label images; 65
is unlabeled and, as for Cityscapes, not counted in `num_classes`. Data sets with masks have a
DatasetInfo, data sets with one class per image an ImageClasses.
"""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, Mapping

from deeplab_tf import config as config_lib
from deeplab_tf import listing, modules, tasks
from deeplab_tf.classes import AnyInfo, Category, DatasetInfo, ImageClasses
from deeplab_tf.formats import coco_categories, image_limits
from deeplab_tf.user_errors import UserError

_FOLDER = pathlib.Path(__file__).resolve().parent / 'categories'
# Data sets of tensorflow-datasets -> the data set whose classes they have.
TFDS = {'tfds/coco/2017_panoptic': 'coco_panoptic'}
# Data sets of instances -> the data set whose thing classes they have, with the same ids.
INSTANCES = {'coco_instances': 'coco_panoptic', 'cityscapes_instances': 'cityscapes_panoptic',
             'ade20k_instances': 'ade20k_panoptic'}
# Those whose labels are masks that may overlap; the others have panoptic maps without stuff.
_OVERLAPPING = ('coco_instances',)
_INSTANCE_FORMAT = 'coco_instance_format'


def names() -> list[str]:
  """Returns the names of all data sets with masks that a config can use."""
  return sorted([*built_in_names(), 'coco_format', 'coco_instance_format', 'label_folders',
                 *TFDS])


def built_in_names() -> list[str]:
  """Returns the names of the data sets whose categories are included in the library."""
  return sorted([*(path.stem for path in _FOLDER.glob('*.json')), *INSTANCES])


@functools.cache
def built_in(name: str) -> DatasetInfo:
  """Returns a data set whose categories are included in the library.

  Raises:
    ConfigError: There is no data set of that name.
  """
  if name in INSTANCES:
    things = tasks.classes(tasks.Task.INSTANCE, built_in(INSTANCES[name]))
    return dataclasses.replace(things, name=name, masks_overlap=name in _OVERLAPPING)
  path = _FOLDER / f'{name}.json'
  if '/' in name or not path.is_file():
    known = _all_names()
    raise config_lib.ConfigError(f'unknown data set "{name}": there are {", ".join(known)}.'
                                 f'{modules.nearest(name, known)}')
  return DatasetInfo.from_json(path.read_text(encoding='utf-8'))


def _all_names() -> list[str]:
  return [*names(), *config_lib.IMAGE_CLASS_DATASETS]


def from_options(options) -> AnyInfo:
  """Returns the classes of the data set that a DatasetOptions message describes.

  Raises:
    ConfigError: The data set is unknown, or its description is invalid.
  """
  if not options.dataset:
    raise config_lib.ConfigError(f'dataset is not set: there are {", ".join(_all_names())}')
  if options.dataset == 'imagenet':
    first = options.imagenet.label_offset
    labels = range(first, first + options.imagenet.num_classes)
    return ImageClasses(options.dataset, tuple(str(label) for label in labels), first)
  if options.dataset == 'image_folders':
    path = config_lib.require_value(options.image_folders.image_dir, 'image_folders.image_dir')
    return ImageClasses(options.dataset, tuple(class_folders(path)))
  if options.dataset == 'label_folders':
    return from_label_folders(options.label_folders)
  if options.dataset == 'coco_format':
    path = _annotation_file(options.coco_format, options.dataset, 'panoptic')
    return from_annotation_file(path, options.coco_format.label_divisor)
  if options.dataset == 'coco_instance_format':
    return from_instance_file(_annotation_file(options.coco_instance_format, options.dataset,
                                               'instance'))
  return built_in(TFDS.get(options.dataset, options.dataset))


def _annotation_file(fields, name, kind):
  if not fields.annotation_file:
    raise config_lib.ConfigError(f'dataset "{name}" needs {name}.annotation_file, the {kind} JSON '
                                 'whose categories are the classes')
  return config_lib.require_value(fields.annotation_file, f'{name}.annotation_file')


def from_config(config) -> AnyInfo:
  """Returns the classes of an experiment's training data, or else of its evaluation data.

  They are the classes that its task predicts; see tasks.classes.

  Raises:
    ConfigError: Neither data set is described, or their classes differ.
  """
  train, evaluation = config.train_dataset_options, config.eval_dataset_options
  if not train.dataset and not evaluation.dataset:
    raise config_lib.ConfigError('train_dataset_options.dataset is not set: there are '
                                 f'{", ".join(_all_names())}')
  if not train.dataset or not evaluation.dataset:
    return _of_task(config, from_options(train if train.dataset else evaluation))
  info, other = from_options(train), from_options(evaluation)
  if info != other:
    raise config_lib.ConfigError(
        'train_dataset_options and eval_dataset_options describe data sets of different classes: '
        f'{_difference(info, other)}')
  return _of_task(config, info)


def _of_task(config, info: AnyInfo) -> AnyInfo:
  task = tasks.of(config)
  if getattr(info, 'masks_overlap', False) and task is not tasks.Task.INSTANCE:
    raise config_lib.ConfigError(
        f'task is {task.name}, and data set "{info.name}" has masks of instances that may overlap: '
        'set task: INSTANCE, or name a data set with a class for every pixel')
  found = tasks.classes(task, info)
  if isinstance(found, DatasetInfo) and not found.categories and info.categories:
    raise config_lib.ConfigError(
        f'task is {task.name}, and data set "{info.name}" has no thing classes: set task: SEMANTIC')
  return found


def _difference(info: AnyInfo, other: AnyInfo) -> str:
  if type(info) is not type(other):
    return f'those of "{info.name}" and of "{other.name}"'
  for field in dataclasses.fields(info):
    one, two = getattr(info, field.name), getattr(other, field.name)
    if one != two and field.name == 'categories':
      one, two = [sorted(set(a) - set(b))[:3] for a, b in ((one, two), (two, one))]
      one, two = [[f'{c.category_id} "{c.name}"' for c in found] for found in (one, two)]
    elif one != two and field.name == 'class_names':
      return (f'{len(one)} and {len(two)} classes, of which {sorted(set(one) - set(two))[:3]} are '
              f'only in the first and {sorted(set(two) - set(one))[:3]} only in the second')
    if one != two:
      return f'{field.name} {one} and {two}'
  return 'unknown'


# --- image_folders ----------------------------------------------------------------------------


def class_folders(path: str) -> list[str]:
  """Returns the sorted sub-folders of a folder, which are the classes of "image_folders".

  Raises:
    ConfigError: The folder does not exist, or has fewer than two sub-folders.
  """
  if not path:
    raise config_lib.ConfigError('image_folders.image_dir is not set: name the folder whose '
                                 'sub-folders are the classes')
  if not os.path.isdir(path):
    raise config_lib.ConfigError(f'{path}: no such folder (image_folders.image_dir)')
  found = listing.folders(path)
  if len(found) < 2:
    raise config_lib.ConfigError(f'{path}: has {len(found)} sub-folders; at least two are needed, '
                                 'one for each class (image_folders.image_dir)')
  return found


# --- coco_format and coco_instance_format -----------------------------------------------------


def from_annotation_file(path: str, label_divisor: int = 256,
                         name: str = 'coco_format') -> DatasetInfo:
  """Reads the classes of a panoptic JSON.

  Class ids are 1, 2, ... in the order of category ids; 0 is unlabeled. Colors are those of the
  JSON, and generated where it has none.

  Args:
    path: Path of the JSON.
    label_divisor: A number larger than the number of instances of a class in an image.
    name: Name of the data set.

  Raises:
    ConfigError: The file does not exist, is not JSON or has no valid categories.
  """
  try:
    modified = os.stat(path).st_mtime_ns
  except FileNotFoundError:
    raise config_lib.ConfigError(f'{path}: no such file ({name}.annotation_file)') from None
  return _read_categories(os.fspath(path), modified, label_divisor, name)


@functools.lru_cache(maxsize=16)
def _read_categories(path: str, modified: int, label_divisor: int, name: str) -> DatasetInfo:
  del modified  # Part of the cache's key.
  if name == _INSTANCE_FORMAT:
    return from_instance_categories(_read_json(path), path)
  return from_categories(_read_json(path), path, label_divisor, name)


def from_instance_file(path: str) -> DatasetInfo:
  """Reads the classes of an instance JSON, which are all things; class ids as in a panoptic JSON.

  Args:
    path: Path of the JSON.

  Raises:
    ConfigError: The file does not exist, is not JSON or has no valid categories.
  """
  return from_annotation_file(path, name=_INSTANCE_FORMAT)


def from_instance_categories(content: Mapping[str, Any], path: str) -> DatasetInfo:
  """Does what `from_instance_file` does, with the parsed content of the JSON."""
  entries = content.get('categories') if isinstance(content, dict) else None
  if isinstance(entries, list):
    # Tools do not write isthing.
    entries = [{**entry, 'isthing': 1} if isinstance(entry, dict) else entry for entry in entries]
  info = from_categories({'categories': entries}, path, name=_INSTANCE_FORMAT)
  return dataclasses.replace(info, masks_overlap=True)


def _read_json(path: str) -> Any:
  try:
    return json.loads(image_limits.read_bytes(path))  # In UTF-8, 16 or 32.
  except UserError as error:
    reason = str(error).removeprefix(f'{path}: ')
    raise config_lib.ConfigError(f'{path}: cannot be read as JSON ({reason})') from None
  except (ValueError, RecursionError) as error:
    raise config_lib.ConfigError(f'{path}: cannot be read as JSON ({error})') from None


def from_categories(content: Mapping[str, Any], path: str, label_divisor: int = 256,
                    name: str = 'coco_format') -> DatasetInfo:
  """Does what `from_annotation_file` does, with the parsed content of the JSON."""
  if label_divisor < 2:
    raise config_lib.ConfigError(f'{name}.label_divisor is {label_divisor}: it must be at least 2')
  entries = content.get('categories') if isinstance(content, dict) else None
  if not isinstance(entries, list) or not entries:
    kind = 'an instance' if name == _INSTANCE_FORMAT else 'a panoptic'
    raise config_lib.ConfigError(f'{path}: has no list "categories"; {kind} JSON of the COCO '
                                 'format is expected')
  problem = coco_categories.isthing_problem(content)
  if problem:
    raise config_lib.ConfigError(f'{path}: {problem}')
  found = {}
  for entry in entries:
    problem = coco_categories.problem(entry, found)
    if problem:
      raise config_lib.ConfigError(f'{path}: {problem}')
    found[entry['id']] = entry
  colors = coco_categories.distinct_colors([found[i].get('color') for i in sorted(found)])
  categories = tuple(
      Category(class_id, category_id, str(found[category_id]['name']),
               bool(found[category_id]['isthing']), colors[class_id - 1])
      for class_id, category_id in enumerate(sorted(found), start=1))
  return DatasetInfo(name, categories, len(categories) + 1, 0, label_divisor)


def from_label_folders(options) -> DatasetInfo:
  """Reads the classes of LabelFoldersOptions; class ids are those of `from_annotation_file`.

  Raises:
    ConfigError: The classes are missing or invalid.
  """
  entries, where = [_entry(category) for category in options.categories], 'label_folders.categories'
  if bool(entries) == bool(options.categories_file):
    raise config_lib.ConfigError('dataset "label_folders" needs its classes: either '
                                 'label_folders.categories or label_folders.categories_file')
  if options.categories_file:
    where = config_lib.require_value(options.categories_file, 'label_folders.categories_file')
    entries = _read_json(where)
  content = {'categories': entries} if isinstance(entries, list) else entries
  info = from_categories(content, where, options.label_divisor, 'label_folders')
  problem = _label_folders_problem(options, info)
  if problem:
    raise config_lib.ConfigError(f'{where}: {problem}')
  return info


def _entry(category):
  entry = {'name': category.name, 'isthing': int(category.isthing)}
  if category.HasField('id'):
    entry['id'] = category.id
  if category.color:
    entry['color'] = list(category.color)
  return entry


def _label_folders_problem(options, info):
  semantic = options.encoding == options.SEMANTIC
  for category in info.categories:
    if category.category_id in options.ignore_category_id:
      return f'category id {category.category_id} is also in label_folders.ignore_category_id'
    if semantic and category.isthing:
      return (f'category {category.category_id} "{category.name}" is a thing, but '
              'label_folders.encoding SEMANTIC holds no instances; set isthing to false')
    if not semantic and category.category_id > 255:
      return (f'category id {category.category_id} does not fit into the channel R of '
              'label_folders.encoding TWO_CHANNEL or THREE_CHANNEL; it is 0 to 255')
  return None
