"""ADE20K scene parsing data (150 classes), as downloaded or prepared by Mask2Former's scripts."""

import functools
import os
from typing import Callable

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _label_images, _labeled_files, _panoptic_format
from deeplab_tf.formats import label_png
from deeplab_tf.user_errors import DataError

# Folder of each split.
FOLDERS = {'train': 'training', 'val': 'validation'}
# The values of the two PNGs are combined; values from here on are 256 x class + instance number.
_FIRST_INSTANCE = 256


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('ade20k_panoptic')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package.

  Labels are read from ade20k_panoptic_SPLIT.json and its PNGs if they exist, and otherwise from the
  two folders that these are made from. The result is the same.
  """
  if options.split not in FOLDERS:
    raise DataError(f'split "{options.split}": ade20k_panoptic has {" and ".join(FOLDERS)}')
  folder, info = FOLDERS[options.split], classes(options)
  image_dir = os.path.join(options.root, 'images', folder)
  stem = os.path.join(options.root, f'ade20k_panoptic_{options.split}')
  json_file = f'{stem}.json'
  if os.path.isfile(json_file):
    options.say(f'labels: {json_file}')
    # Areas were counted before later segments were painted over earlier ones.
    return _labeled_files.from_panoptic_json(
        (json_file, image_dir, stem), _panoptic_format.read_json(json_file), info, options,
        check_area=False)
  label_dirs = [os.path.join(options.root, name, folder)
                for name in ('annotations', 'annotations_instance')]
  options.say(f'labels: {" and ".join(label_dirs)}')
  images = _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  return _labeled_files.paired(
      images, lambda image: [os.path.join(label_dir, f'{image.name}.png')
                             for label_dir in label_dirs],
      functools.partial(_read_pair, info=info, report=options.report), options.max_missing)


def _read_pair(semantic_file, instance_file, info, report):
  """Paints instances over stuff; thing pixels without an instance stay unlabeled.

  The semantic PNG contains class ids (0 is unlabeled). In the instance PNG, R is the position of
  the class among the things, from 1 on, and G the number of the instance in the image.
  """
  semantic = label_png.read(semantic_file)
  instances = label_png.read_rgb(instance_file).astype(np.int32)
  if semantic.shape != instances.shape[:2]:
    raise DataError(f'{instance_file}: is {instances.shape[0]}x{instances.shape[1]}, but '
                    f'{semantic_file} is {semantic.shape[0]}x{semantic.shape[1]}')
  values = np.where(instances[..., 0] > 0, _numbered(instances), semantic)

  def meaning(value):
    if value < _FIRST_INSTANCE:
      category = info.by_class_id.get(value)
      is_void = value == info.ignore_label or (category and category.isthing)
      return _label_images.Meaning(None if is_void else value - 1)
    return _meaning(value, info)

  def where(value):
    if value < _FIRST_INSTANCE:
      return f'{semantic_file}: value {value}'
    return _where(instance_file, value)

  return _label_images.label_map(values, meaning, info, where=where, report=report)


# --- The instance PNG -------------------------------------------------------------------------


def read_instances(path: str, info: DatasetInfo,
                   report: Callable[[str], None] = sources.stop) -> np.ndarray:
  """Returns the panoptic map of an instance PNG, int32 [height, width]; stuff is unlabeled.

  Args:
    path: Path of the PNG.
    info: The classes, with all things.
    report: Called with one line for each value that is not allowed.

  Raises:
    ValueError: The file is not such a PNG, or `report` raised it.
  """
  instances = label_png.read_rgb(path).astype(np.int32)
  values = np.where(instances[..., 0] > 0, _numbered(instances), 0)
  return _label_images.label_map(
      values, lambda value: _meaning(value, info) if value else _label_images.Meaning(None), info,
      where=lambda value: _where(path, value), report=report)


def _numbered(instances):
  return _FIRST_INSTANCE * instances[..., 0] + instances[..., 1]


def _meaning(value, info):
  place, things = value // _FIRST_INSTANCE, info.thing_class_ids
  # A position beyond the things gets an id that no class has.
  return _label_images.Meaning(things[place - 1] - 1 if place <= len(things) else place + 999)


def _where(path, value):
  return f'{path}: (R, G) = ({value // _FIRST_INSTANCE}, {value % _FIRST_INSTANCE})'
