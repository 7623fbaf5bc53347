"""Cityscapes as downloaded (gtFine and leftImg8bit), with or without its panoptic files."""

import dataclasses
import functools
import os

from deeplab_tf import listing
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _label_images, _labeled_files, _panoptic_format
from deeplab_tf.formats import label_png
from deeplab_tf.user_errors import MissingFileError

_IMAGE = '_leftImg8bit.png'
# Smaller values of an instanceIds PNG are label ids, of which only some are classes; other values
# are label id x 1000 + instance number.
_FIRST_INSTANCE = 1000
_NUM_LABELS = 34


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('cityscapes_panoptic')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images, named CITY_SEQUENCE_FRAME; see the package.

  Labels are read from the panoptic files with train ids, else from those with evaluation ids, else
  from the downloaded *_instanceIds.png; all three contain the same labels. As in DeepLab2, crowd
  regions become unlabeled by default. The test split has no public labels.
  """
  options = options._replace(treat_crowd_as_ignore=options.treat_crowd_as_ignore is not False)
  image_dir = os.path.join(options.root, 'leftImg8bit', options.split)
  if options.split == 'test':
    return _images(image_dir)
  stem = os.path.join(options.root, 'gtFine', f'cityscapes_panoptic_{options.split}')
  info = classes(options)
  if os.path.isfile(f'{stem}_trainId.json'):
    in_train_ids = tuple(c._replace(category_id=c.class_id) for c in info.categories)
    info = dataclasses.replace(info, categories=in_train_ids)
    stem = f'{stem}_trainId'
  if os.path.isfile(f'{stem}.json'):
    return _from_json(stem, image_dir, info, options)
  return _from_instance_ids(image_dir, info, options)


def _from_json(stem, image_dir, info, options):
  json_file = f'{stem}.json'
  options.say(f'labels: {json_file}')
  content = _panoptic_format.read_json(json_file)
  # The JSON's file_name ends in _gtFine_leftImg8bit.png, unlike any file, and lacks the city.
  content['images'] = [{**image, 'file_name': _image_file(str(image['id']))}
                       for image in content['images']]
  found = _labeled_files.from_panoptic_json((json_file, image_dir, stem), content, info, options)
  return [file._replace(name=_name(file.image_file)) for file in found]


def _from_instance_ids(image_dir, info, options):
  label_dir = os.path.join(options.root, 'gtFine', options.split)
  options.say(f'labels: {os.path.join(label_dir, "*", "*_gtFine_instanceIds.png")}')
  return _labeled_files.paired(
      _images(image_dir), lambda image: [os.path.join(
          label_dir, image.name.split('_')[0], f'{image.name}_gtFine_instanceIds.png')],
      functools.partial(_read_instance_ids, info=info, options=options), options.max_missing)


def _read_instance_ids(path, info, options):
  known = set(info.by_category_id)

  def meaning(value):
    label_id = value // _FIRST_INSTANCE if value >= _FIRST_INSTANCE else value
    if label_id < _NUM_LABELS and label_id not in known:
      return _label_images.Meaning(None)
    is_thing = label_id in known and info.by_category_id[label_id].isthing
    return _label_images.Meaning(label_id, is_thing and value < _FIRST_INSTANCE)

  return _label_images.label_map(label_png.read(path), meaning, info,
                                 where=lambda value: f'{path}: value {value}',
                                 treat_crowd_as_ignore=options.treat_crowd_as_ignore,
                                 report=options.report)


def _images(folder):
  there = os.path.isdir(folder)
  found = [os.path.join(folder, city, name)
           for city in (listing.folders(folder) if there else ())
           for name in listing.files(os.path.join(folder, city), (_IMAGE.lower(),))]
  if not found:
    raise MissingFileError(f'{folder}: holds no CITY/*{_IMAGE}; the images of Cityscapes are '
                           'expected there')
  return [_labeled_files.LabeledFile(_name(path), path)
          for path in sorted(found, key=os.path.basename)]


def _name(path):
  return os.path.basename(path)[:-len(_IMAGE)]


def _image_file(image_id):
  return os.path.join(image_id.split('_')[0], image_id + _IMAGE)
