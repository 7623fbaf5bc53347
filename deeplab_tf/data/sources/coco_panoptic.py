"""COCO panoptic 2017 as downloaded, with unpacked panoptic PNGs."""

import os

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _labeled_files, _panoptic_format
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.user_errors import DataError

# JSONs that list the images of the test split; the first that exists is used. The server scores
# test-dev, which is half of them.
_TEST_LISTS = ('image_info_test-dev2017.json', 'image_info_test2017.json')


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes; see the package."""
  del options
  return catalog.built_in('coco_panoptic')


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images; see the package.

  As in DeepLab2, crowd regions become unlabeled by default. The test split has no labels; its
  images are those listed in a JSON in annotations/, or else all images of the folder.
  """
  image_dir, folder = _folders(options)
  if options.split == 'test':
    return unlabeled_files(options)
  stem = f'panoptic_{options.split}2017'
  json_file = os.path.join(folder, f'{stem}.json')
  label_dir = os.path.join(folder, stem)
  if not os.path.isdir(label_dir):  # detectron2's layout.
    label_dir = os.path.join(options.root, stem)
  options = options._replace(treat_crowd_as_ignore=options.treat_crowd_as_ignore is not False)
  return _labeled_files.from_panoptic_json(
      (json_file, image_dir, label_dir), _panoptic_format.read_json(json_file), classes(options),
      options)


def unlabeled_files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images of the test split, without labels; see `files`."""
  image_dir, folder = _folders(options)
  lists = [os.path.join(folder, name) for name in _TEST_LISTS]
  found = next((path for path in lists if os.path.isfile(path)), None)
  if options.annotation_file:
    found = os.path.join(options.root, options.annotation_file)
  if found is None:
    options.say(f'images: all of {image_dir}')
    return _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  options.say(f'images: those of {found}')
  wanted = [os.path.join(image_dir, name) for name in _listed(found)]
  on_disk = _labeled_files.found_files(wanted)
  _labeled_files.check_missing([f'{path}: no such file; {found} names it' for path in wanted
                                if on_disk[path] is None], options.max_missing)
  return _labeled_files.unlabeled([on_disk[path] or path for path in wanted])


def _folders(options):
  """Returns the folder of the images of the split, and that of all annotations."""
  return (os.path.join(options.root, f'{options.split}2017'),
          os.path.join(options.root, 'annotations'))


def _listed(path):
  """Returns the sorted file names of the images of a JSON."""
  content = coco_panoptic.read_json(path, 'a JSON with a list "images"')
  try:
    return sorted({str(image['file_name']) for image in content['images']})
  except (KeyError, TypeError):
    raise DataError(f'{path}: has no list "images" of objects with file_name') from None
