"""Custom data sets of images and label PNGs with equal names, whose classes the config lists."""

import functools
import os
from typing import Optional

import numpy as np

from deeplab_tf import config as config_lib
from deeplab_tf import file_names, listing
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _label_images, _labeled_files
from deeplab_tf.formats import label_png
from deeplab_tf.user_errors import DataError

# Number of values of the instance number in a pixel's number.
_INSTANCES = {'TWO_CHANNEL': 2**8, 'THREE_CHANNEL': 2**16, 'SEMANTIC': 1}


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  return catalog.from_label_folders(options.label_folders)


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package."""
  fields, info = options.label_folders, classes(options)
  image_dir, label_dir = [_required(fields, name) for name in ('image_dir', 'label_dir')]
  images = _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  _check_names(images, label_dir, options)
  read = functools.partial(_read, fields=fields, info=info, options=options)
  return _labeled_files.paired(images, lambda image: [os.path.join(label_dir, f'{image.name}.png')],
                               read, options.max_missing)


def direct(options, info: DatasetInfo) -> Optional[sources.DirectSource]:
  """Returns the images that DatasetOptions.label_folders names; None if it names no folders."""
  fields = options.label_folders
  if not fields.image_dir and not fields.label_dir:
    return None
  found = files(sources.BuildOptions(label_folders=fields, max_missing=options.max_damaged_images))
  return _labeled_files.direct(found, info, options.decode_groundtruth_label)


def _required(fields, name):
  value = config_lib.require_value(getattr(fields, name), f'label_folders.{name}')
  if not value:
    raise config_lib.ConfigError(f'label_folders.{name} is not set: images and their labels are '
                                 'each in a folder')
  if not os.path.isdir(value):
    raise config_lib.ConfigError(f'{value}: no such folder (label_folders.{name})')
  return value


def _check_names(images, label_dir, options):
  """Reports images with equal names and labels without an image."""
  by_name, stems = {}, set()
  for image in images:
    if image.name in by_name:
      options.report(f'{image.image_file}: has the name of {by_name[image.name]}, and so the same '
                     'label')
    by_name[image.name] = image.image_file
    stems.add(file_names.key(image.name))
  alone = [name for name in listing.files(label_dir, ('.png',))
           if file_names.key(file_names.stem(name)) not in stems]
  if alone:
    more = f' (and {len(alone) - 1} more like it)' if len(alone) > 1 else ''
    options.report(f'{os.path.join(label_dir, alone[0])}: there is no image of that name{more}')


def _read(path, fields, info, options):
  """Returns the panoptic map of a label PNG."""
  encoding = fields.Encoding.Name(fields.encoding)
  values = _values(path, encoding)
  scale = _INSTANCES[encoding]
  ignored = set(fields.ignore_category_id) or {0} - set(info.by_category_id)
  crowd = fields.crowd_instance_number if fields.HasField('crowd_instance_number') else None

  def meaning(value):
    category_id, number = divmod(value, scale)
    return _label_images.Meaning(None if category_id in ignored else category_id, number == crowd)

  def where(value):
    if scale == 1:
      return f'{path}: value {value}'
    category_id, number = divmod(value, scale)
    return f'{path}: (category, instance) = ({category_id}, {number})'

  return _label_images.label_map(values, meaning, info, where=where,
                                 treat_crowd_as_ignore=bool(options.treat_crowd_as_ignore),
                                 report=options.report)


def _values(path, encoding):
  """Returns category id x _INSTANCES[encoding] + instance number, int32 [height, width]."""
  if encoding == 'SEMANTIC':
    return label_png.read(path)
  red, green, blue = np.moveaxis(label_png.read_rgb(path).astype(np.int32), -1, 0)
  if encoding == 'THREE_CHANNEL':
    return red * 2**16 + green * 2**8 + blue
  if blue.any():
    raise DataError(
        f'{path}: channel B is not 0, as label_folders.encoding TWO_CHANNEL (R: category, G: '
        'instance) requires. If colors are segment ids, as in the COCO panoptic format, the '
        'classes are listed in the JSON: read it as dataset "coco_format"')
  return red * 2**8 + green
