"""Anybody's data set in the COCO panoptic format, read as it is or built into records."""

import functools
import os
from typing import Optional

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import structures
from deeplab_tf.data import catalog, errors, image_files, panoptic_format, sources, tfrecord


def examples(options: sources.BuildOptions) -> list:
  """Returns functions that each read one image; see the package.

  Without annotation_file and image_dir the usual places below the root are searched:
  annotations/panoptic_SPLIT.json and SPLIT/ or images/SPLIT/, or with 2017 after SPLIT.
  """
  root, split = options.root, options.split
  image_dir = options.image_dir or _first_existing(
      root, [f'{split}', f'images/{split}', f'{split}2017', 'images'], '--image_dir')
  image_dir = os.path.join(root, image_dir)
  if split == 'test' and not options.annotation_file:
    return image_files.unlabeled_examples(image_dir)
  json_file = options.annotation_file or _first_existing(
      root, [f'annotations/panoptic_{split}.json', f'panoptic_{split}.json',
             f'annotations/panoptic_{split}2017.json'], '--annotation_file')
  json_file = os.path.join(root, json_file)
  label_dir = os.path.join(root, options.annotation_dir or os.path.splitext(json_file)[0])
  content = panoptic_format.read_json(json_file)
  info = catalog.from_categories(content, json_file, options.label_divisor)
  return labeled_examples(json_file, content, image_dir, label_dir, info,
                          bool(options.treat_crowd_as_ignore))


def labeled_examples(json_file: str, content: dict, image_dir: str, label_dir: str,
                     info: catalog.DatasetInfo, treat_crowd_as_ignore: bool) -> list:
  """Returns functions that each read one image of a panoptic JSON with its label."""
  images = panoptic_format.annotated_images(json_file, content, image_dir, label_dir)
  return [functools.partial(_example, image, info, treat_crowd_as_ignore) for image in images]


def _example(image, info, treat_crowd_as_ignore):
  label = panoptic_format.read_label(image, info, treat_crowd_as_ignore)
  return image_files.example(image.image_file, label)


def _first_existing(root, candidates, flag):
  for candidate in candidates:
    if os.path.exists(os.path.join(root, candidate)):
      return candidate
  raise FileNotFoundError(f'{root}: holds none of {", ".join(candidates)}; name it with {flag}')


# --- Without records --------------------------------------------------------------------------


def direct(options, info: catalog.DatasetInfo) -> Optional[sources.DirectSource]:
  """Returns the images that DatasetOptions.coco_format names; None if it names no folders."""
  fields = options.coco_format
  if not fields.image_dir and not fields.annotation_dir:
    return None
  json_file, label_dir, image_dir = [
      _required(fields, name) for name in ('annotation_file', 'annotation_dir', 'image_dir')]
  content = panoptic_format.read_json(json_file)
  images = panoptic_format.annotated_images(json_file, content, image_dir, label_dir,
                                            max_missing=options.max_damaged_images)
  paths = [image.image_file for image in images]
  files = tf.constant(paths)
  names = tf.constant([image.name for image in images])

  def read_label(index):
    try:
      return panoptic_format.read_label(images[int(index)], info, fields.treat_crowd_as_ignore)
    except ValueError as error:
      raise ValueError(errors.marked(str(error))) from None

  def load(index):
    file = files[index]
    image = tfrecord.decode_image(tf.io.read_file(file), [file, ': '])
    if options.decode_groundtruth_label:
      label = tf.ensure_shape(tf.numpy_function(read_label, [index], tf.int32), [None, None])
    else:
      label = tf.fill(tf.shape(image)[:2], info.void_label)
    fits = errors.check(tf.reduce_all(tf.shape(label) == tf.shape(image)[:2]), lambda: [
        file, ': the image is ', tf.shape(image)[0], 'x', tf.shape(image)[1],
        ', but its panoptic PNG is ', tf.shape(label)[0], 'x', tf.shape(label)[1]])
    with tf.control_dependencies([fits]):
      return structures.LabeledImage(image, tf.identity(label), names[index])

  return sources.DirectSource(len(images), load, paths)


def _required(fields, name):
  value = getattr(fields, name)
  if not value:
    raise config_lib.ConfigError(
        f'coco_format.{name} is not set: to read images as they are, annotation_file, '
        'annotation_dir and image_dir are all needed')
  return config_lib.require_value(value, f'coco_format.{name}')
