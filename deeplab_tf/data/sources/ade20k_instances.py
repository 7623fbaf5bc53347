"""The 100 classes of things of ADE20K, from the PNGs of its instance annotation alone."""

import functools
import os

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _labeled_files, ade20k_panoptic
from deeplab_tf.user_errors import DataError


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('ade20k_instances')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package. A label is a panoptic map in which stuff is unlabeled."""
  folders = ade20k_panoptic.FOLDERS
  if options.split not in folders:
    raise DataError(f'split "{options.split}": ade20k_instances has {" and ".join(folders)}')
  folder = folders[options.split]
  label_dir = os.path.join(options.root, 'annotations_instance', folder)
  options.say(f'labels: {label_dir}')
  images = _labeled_files.unlabeled(
      _image_files.in_folder(os.path.join(options.root, 'images', folder)))
  return _labeled_files.paired(
      images, lambda image: [os.path.join(label_dir, f'{image.name}.png')],
      functools.partial(ade20k_panoptic.read_instances, info=classes(options),
                        report=options.report), options.max_missing)
