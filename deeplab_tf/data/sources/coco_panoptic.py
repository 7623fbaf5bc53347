"""COCO panoptic 2017 as it is downloaded, the panoptic PNGs unpacked."""

import os

from deeplab_tf.data import catalog, image_files, panoptic_format, sources
from deeplab_tf.data.sources import coco_format


def examples(options: sources.BuildOptions) -> list:
  """Returns functions that each read one image; see the package.

  As in DeepLab2, crowd regions become unlabelled unless the options say otherwise. The test split
  has no labels.
  """
  image_dir = os.path.join(options.root, f'{options.split}2017')
  if options.split == 'test':
    return image_files.unlabeled_examples(image_dir)
  stem = f'panoptic_{options.split}2017'
  json_file = os.path.join(options.root, 'annotations', f'{stem}.json')
  label_dir = os.path.join(options.root, 'annotations', stem)
  if not os.path.isdir(label_dir):  # Where detectron2 has them.
    label_dir = os.path.join(options.root, stem)
  content = panoptic_format.read_json(json_file)
  info = catalog.built_in('coco_panoptic')
  treat_crowd_as_ignore = options.treat_crowd_as_ignore is not False
  return coco_format.labeled_examples(json_file, content, image_dir, label_dir, info,
                                      treat_crowd_as_ignore)
