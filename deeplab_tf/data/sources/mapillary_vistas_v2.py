"""Mapillary Vistas 2.0 as downloaded; the classes are those of its panoptic JSON.

Class ids are 1, 2, ... as for any data set in the COCO format. A config reads images or records as
dataset "coco_format".
"""

import os

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _labeled_files, _panoptic_format, mapillary_vistas

# An image can hold more than 255 instances of a class.
LABEL_DIVISOR = 1000


def json_file(options: sources.BuildOptions) -> str:
  """Returns the path of a split's panoptic JSON; the PNGs are in the same folder."""
  folder = mapillary_vistas.FOLDERS[options.split]
  return os.path.join(options.root, folder, 'v2.0', 'panoptic', 'panoptic_2020.json')


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  if options.split == 'test':  # The test split has no JSON.
    return DatasetInfo('mapillary_vistas_v2', (), 1, 0, LABEL_DIVISOR)
  return catalog.from_annotation_file(json_file(options), LABEL_DIVISOR)


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package. Crowd regions are kept by default."""
  image_dir = os.path.join(options.root, mapillary_vistas.FOLDERS[options.split], 'images')
  if options.split == 'test':
    return _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  path = json_file(options)
  content = _panoptic_format.read_json(path)
  return _labeled_files.from_panoptic_json(
      (path, image_dir, os.path.dirname(path)), content,
      catalog.from_categories(content, path, LABEL_DIVISOR), options)
