"""Mapillary Vistas 1.2 as downloaded."""

import functools
import os

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _label_images, _labeled_files, _panoptic_format
from deeplab_tf.formats import label_png
from deeplab_tf.user_errors import MissingFileError

FOLDERS = {'train': 'training', 'val': 'validation', 'test': 'testing'}
# A pixel of an instance PNG is label x 256 + instance number.
_INSTANCES = 256


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('mapillary_vistas')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package.

  Labels are read from panoptic/panoptic_2018.json, or else from the PNGs in instances/. These do
  not mark crowd regions, so each value is an instance. Both are in the folder of the split, or in
  v1.2/ below it, as in version 2.0 of the data set. Crowd regions are kept by default.
  """
  folder = os.path.join(options.root, FOLDERS[options.split])
  image_dir = os.path.join(folder, 'images')
  if options.split == 'test':
    return _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  below = os.path.join(folder, 'v1.2')
  label_dir = below if os.path.isdir(below) else folder
  panoptic_dir, instance_dir = [os.path.join(label_dir, name) for name in ('panoptic', 'instances')]
  json_file = os.path.join(panoptic_dir, 'panoptic_2018.json')
  if os.path.isfile(json_file):
    options.say(f'labels: {json_file}')
    return _labeled_files.from_panoptic_json(
        (json_file, image_dir, panoptic_dir), _panoptic_format.read_json(json_file),
        classes(options), options)
  if not os.path.isdir(instance_dir):
    hint = ('; for the classes of version 2.0, which is there, use --dataset=mapillary_vistas_v2'
            if os.path.isdir(os.path.join(folder, 'v2.0')) else '')
    raise MissingFileError(f'{label_dir}: holds neither panoptic/panoptic_2018.json nor '
                           f'instances/{hint}')
  options.say(f'labels: {instance_dir}; what is a crowd region there becomes an instance')
  images = _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  return _labeled_files.paired(
      images, lambda image: [os.path.join(instance_dir, f'{image.name}.png')],
      functools.partial(_read_instances, options=options), options.max_missing)


def _read_instances(path, options):
  info = classes(options)

  def meaning(value):
    label = value // _INSTANCES  # The class id; category ids are one more.
    return _label_images.Meaning(None if label == info.ignore_label else label + 1)

  return _label_images.label_map(label_png.read(path), meaning, info,
                                 where=lambda value: f'{path}: value {value}',
                                 report=options.report)
