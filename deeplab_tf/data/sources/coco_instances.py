"""COCO's instances 2017 as downloaded: 80 classes of things, whose masks may overlap."""

import os

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _instance_format, _labeled_files, coco_panoptic


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('coco_instances')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images, also those without instances; see the package.

  Crowds are kept by default: training leaves them out, and average precision needs them. The test
  split has no labels; its images are those of coco_panoptic.
  """
  if options.split == 'test':
    return coco_panoptic.unlabeled_files(options)
  json_file = os.path.join(options.root, 'annotations', f'instances_{options.split}2017.json')
  return _instance_format.files(
      json_file, os.path.join(options.root, f'{options.split}2017'),
      _instance_format.read_json(json_file), classes(options), options)
