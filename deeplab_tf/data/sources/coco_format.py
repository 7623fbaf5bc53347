"""Custom data sets in the COCO panoptic format, read directly or built into records."""

import os
from typing import Optional

from deeplab_tf import config as config_lib
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _labeled_files, _panoptic_format
from deeplab_tf.user_errors import MissingFileError


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes of the panoptic JSON; see the package."""
  if options.split == 'test' and not options.annotation_file:
    return DatasetInfo('coco_format', (), 1, 0, options.label_divisor)  # It has no JSON.
  return catalog.from_annotation_file(_json_file(options), options.label_divisor)


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package.

  If annotation_file and image_dir are not set, the usual paths below the root are tried:
  annotations/panoptic_SPLIT.json, and SPLIT/ or images/SPLIT/, also with 2017 after SPLIT.
  """
  root, split = options.root, options.split
  image_dir = image_folder(options)
  if split == 'test' and not options.annotation_file:
    return _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  json_file = _json_file(options)
  label_dir = os.path.join(root, options.annotation_dir or os.path.splitext(json_file)[0])
  content = _panoptic_format.read_json(json_file)
  info = catalog.from_categories(content, json_file, options.label_divisor)
  return _labeled_files.from_panoptic_json((json_file, image_dir, label_dir), content, info,
                                           options)


def image_folder(options: sources.BuildOptions) -> str:
  """Returns the folder of the images; see `files`.

  Raises:
    FileNotFoundError: It is not set, and there is no folder of a usual name.
  """
  root, split = options.root, options.split
  return os.path.join(root, options.image_dir or _first_existing(
      root, [f'{split}', f'images/{split}', f'{split}2017', 'images'], '--image_dir'))


def annotation_file(options: sources.BuildOptions, kind: str) -> str:
  """Returns the path of the JSON; see `files`.

  Args:
    options: root, split and annotation_file are used.
    kind: Start of its usual name, before the split.

  Raises:
    FileNotFoundError: It is not set, and there is no file of a usual name.
  """
  split = options.split
  return os.path.join(options.root, options.annotation_file or _first_existing(
      options.root, [f'annotations/{kind}_{split}.json', f'{kind}_{split}.json',
                     f'annotations/{kind}_{split}2017.json'], '--annotation_file'))


def _json_file(options):
  return annotation_file(options, 'panoptic')


def _first_existing(root, candidates, flag):
  for candidate in candidates:
    if os.path.exists(os.path.join(root, candidate)):
      return candidate
  raise MissingFileError(f'{root}: holds none of {", ".join(candidates)}; name it with {flag}')


# --- Without records --------------------------------------------------------------------------


def direct(options, info: DatasetInfo) -> Optional[sources.DirectSource]:
  """Returns the images that DatasetOptions.coco_format names; None if it names no folders."""
  fields = options.coco_format
  if not fields.image_dir and not fields.annotation_dir:
    return None
  named = {name: _required(fields, name)
           for name in ('annotation_file', 'annotation_dir', 'image_dir')}
  found = files(sources.BuildOptions(
      **named, treat_crowd_as_ignore=fields.treat_crowd_as_ignore,
      label_divisor=fields.label_divisor, max_missing=options.max_damaged_images))
  return _labeled_files.direct(found, info, options.decode_groundtruth_label)


def _required(fields, name):
  value = getattr(fields, name)
  if not value:
    raise config_lib.ConfigError(
        f'coco_format.{name} is not set: to read images as they are, annotation_file, '
        'annotation_dir and image_dir are all needed')
  return config_lib.require_value(value, f'coco_format.{name}')
