"""The synthetic data set "shapes", generated on the fly or built into records."""

import functools
import io
import os
from typing import Iterable

import tensorflow as tf
from PIL import Image

from deeplab_tf import structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.records import tfrecord
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.user_errors import DataError

generate = _shape_scenes.generate


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('shapes')


def examples(options: sources.BuildOptions) -> list:
  """Returns functions that each generate one image; see the package."""
  if options.split not in _shape_scenes.SPLITS:
    raise DataError(f'--split={options.split}: shapes has {" and ".join(_shape_scenes.SPLITS)}')
  return [functools.partial(_example, options, index) for index in range(options.num_images)]


def _example(options, index):
  image, label = _shape_scenes.generate(options.split, index, options.seed)
  if options.treat_crowd_as_ignore:
    things = (label > 0) & (label // _shape_scenes.LABEL_DIVISOR <= len(_shape_scenes.THINGS))
    label[things & (label % _shape_scenes.LABEL_DIVISOR == 0)] = 0
  encoded = io.BytesIO()
  Image.fromarray(image).save(encoded, 'png')
  return tfrecord.SourceExample(f'{_prefix(options.split, options.seed)}{index:06d}',
                                encoded.getvalue(), 'png', *label.shape, label)


def _prefix(split, seed):
  return f'shapes_{split}_{seed}_'


def direct(options, info: DatasetInfo) -> sources.DirectSource:
  """Returns the images of DatasetOptions.shapes, generated when they are needed."""
  del info
  split, seed = options.shapes.split, options.shapes.seed

  def load(index):
    image, label = tf.numpy_function(
        lambda i: _shape_scenes.generate(split, int(i), seed), [index], [tf.uint8, tf.int32])
    image = tf.ensure_shape(image, [_shape_scenes.HEIGHT, _shape_scenes.WIDTH, 3])
    label = tf.ensure_shape(label, [_shape_scenes.HEIGHT, _shape_scenes.WIDTH])
    name = tf.strings.join([_prefix(split, seed), tf.strings.as_string(index, width=6, fill='0')])
    return structures.LabeledImage(image, label, name)

  return sources.DirectSource(options.shapes.num_images, load)


def write_coco_format(folder: str, split: str, indices: Iterable[int]) -> None:
  """Writes images and their ground truth as a data set in the COCO panoptic format.

  Args:
    folder: A folder that does not exist. It gets images/*.png, panoptic/*.png and panoptic.json.
    split: "train" or "val".
    indices: Numbers of the images.

  Raises:
    OSError: The folder exists, or cannot be written to.
  """
  info = catalog.built_in('shapes')
  for part in ('images', 'panoptic'):
    os.makedirs(os.path.join(folder, part))
  images, annotations = [], []
  for index in indices:
    image, label = generate(split, index)
    name = f'{split}_{index:06d}'
    file = {'file_name': f'{name}.png'}
    Image.fromarray(image).save(os.path.join(folder, 'images', file['file_name']))
    ids, segments = coco_panoptic.from_label_map(label, info)
    coco_panoptic.write_panoptic_png(os.path.join(folder, 'panoptic', file['file_name']), ids)
    images.append({'id': name, **file, 'height': label.shape[0], 'width': label.shape[1]})
    annotations.append({'image_id': name, **file, 'segments_info': segments})
  categories = [{'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing),
                 'color': list(c.color)} for c in info.categories]
  coco_panoptic.write_json(os.path.join(folder, 'panoptic.json'), {
      'images': images, 'annotations': annotations, 'categories': categories})
