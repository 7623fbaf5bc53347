"""The 8 classes of things of Cityscapes; a label is a panoptic map in which stuff is unlabeled."""

import functools
from typing import Callable

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _labeled_files, cityscapes_panoptic


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('cityscapes_instances')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images and labels of cityscapes_panoptic, without stuff; see the package.

  Regions of things without an instance number are crowds. They are kept by default.
  """
  options = options._replace(treat_crowd_as_ignore=bool(options.treat_crowd_as_ignore))
  info = classes(options)
  return [file._replace(read_label=file.read_label and functools.partial(
      _without_stuff, file.read_label, info)) for file in cityscapes_panoptic.files(options)]


def _without_stuff(read_label: Callable[[], np.ndarray], info: DatasetInfo) -> np.ndarray:
  label = read_label()
  is_thing = np.isin(label // info.label_divisor, info.thing_class_ids)
  return np.where(is_thing, label, np.int32(info.void_label))
