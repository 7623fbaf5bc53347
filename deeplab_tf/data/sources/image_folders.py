"""Folders of images whose sub-folders are the classes, read directly or built into records."""

import functools
import os
import random

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import file_names, structures
from deeplab_tf.classes import ImageClasses
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.records import tfrecord
from deeplab_tf.data.sources import _image_files
from deeplab_tf.user_errors import MissingFileError


def classes(options: sources.BuildOptions) -> ImageClasses:
  """Returns the classes; see the package."""
  return ImageClasses('image_folders', tuple(catalog.class_folders(options.root)))


def examples(options: sources.BuildOptions) -> list:
  """Returns functions that each read one image; see the package.

  The records have the format of the data set "imagenet". Their order is a fixed random permutation,
  since records sorted by class would have to be shuffled in memory.
  """
  found = list(zip(*_find(options.root, catalog.class_folders(options.root))))
  random.Random(options.seed).shuffle(found)
  return [functools.partial(_example, path, class_index) for path, class_index in found]


def _example(path, class_index):
  return _image_files.example(path, None)._replace(label=1 + class_index)


def direct(options, info: ImageClasses) -> sources.DirectSource:
  """Returns the images of DatasetOptions.image_folders."""
  folder = config_lib.require_value(options.image_folders.image_dir, 'image_folders.image_dir')
  paths, class_indices = _find(folder, info.class_names)
  files, labels = tf.constant(paths), tf.constant(class_indices, tf.int32)
  names = tf.constant([file_names.stem(path) for path in paths])

  def load(index):
    file = files[index]
    image = tfrecord.decode_or_name(tf.io.read_file(file), [file, ': '])
    return structures.LabeledImage(image, labels[index], names[index])

  return sources.DirectSource(len(paths), load, paths)


def _find(folder, class_names):
  """Returns lists of paths and class indices, sorted by class and file name."""
  paths, class_indices = [], []
  for class_index, name in enumerate(class_names):
    own = os.path.join(folder, name)
    if not os.path.isdir(own):
      raise MissingFileError(f'{own}: no such folder; the images of class "{name}" are expected '
                             'in it')
    files = _image_files.in_folder(own)
    paths += files
    class_indices += [class_index] * len(files)
  return paths, class_indices
