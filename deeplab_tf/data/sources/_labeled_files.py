"""Image files with functions that read their labels, for making records and for direct reading."""

import functools
import os
import types
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import file_names, structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import errors, label_maps, sources
from deeplab_tf.data.records import instance_labels, tfrecord
from deeplab_tf.data.sources import _image_files, _panoptic_format
from deeplab_tf.formats import orientation
from deeplab_tf.user_errors import DataError, MissingFileError, UserError


class LabeledFile(NamedTuple):
  """An image of a raw data set.

  Attributes:
    name: Name of the image in records and predictions.
    image_file: Path of the image.
    read_label: Function that returns the panoptic map, int32 [height, width], or InstanceMasks for
      data sets whose masks may overlap; None in a split without labels.
  """
  name: str
  image_file: str
  read_label: Optional[Callable[[], _image_files.Label]] = None


def from_panoptic_json(paths: Sequence[str], content: dict, info: DatasetInfo,
                       options: sources.BuildOptions, check_area: bool = True) -> list[LabeledFile]:
  """Returns the images of a panoptic JSON, sorted by file name.

  Args:
    paths: Paths of the JSON, of the folder of images and of the folder of PNGs.
    content: Content of the JSON.
    info: The classes, whose category ids are those of the JSON.
    options: treat_crowd_as_ignore, max_missing, report and note are used.
    check_area: Whether areas are checked; see _panoptic_format.read_label.

  Raises:
    ValueError, FileNotFoundError: See _panoptic_format.annotated_images.
  """
  json_file, image_dir, label_dir = paths
  images = _panoptic_format.annotated_images(json_file, content, image_dir, label_dir, options)
  return [LabeledFile(image.name, image.image_file, functools.partial(
      _panoptic_format.read_label, image, info, bool(options.treat_crowd_as_ignore), check_area,
      options)) for image in images]


def unlabeled(paths: Sequence[str]) -> list[LabeledFile]:
  """Returns images without labels, with the names of their files."""
  return [LabeledFile(file_names.stem(path), path) for path in paths]


def paired(images: Sequence[LabeledFile], label_files: Callable[[LabeledFile], Sequence[str]],
           read: Callable[..., np.ndarray], max_missing: int = 0) -> list[LabeledFile]:
  """Adds labels to images; a label consists of one or more files.

  Args:
    images: Images without labels.
    label_files: Function of an image that returns the paths of its label files.
    read: Function of these paths that returns the panoptic map.
    max_missing: Number of files that may be missing; they fail when they are read.

  Raises:
    FileNotFoundError: More files are missing.
  """
  wanted = {image: list(label_files(image)) for image in images}
  on_disk = found_files([path for paths in wanted.values() for path in paths])
  missing = [f'{path}: no such file; it is expected to be the label of {image.image_file}'
             for image, paths in wanted.items() for path in paths if on_disk[path] is None]
  check_missing(missing, max_missing)
  return [image._replace(read_label=functools.partial(
      read, *[on_disk[path] or path for path in paths])) for image, paths in wanted.items()]


def found_files(paths: Sequence[str]) -> dict[str, Optional[str]]:
  """Finds files whose names may be spelled differently on disk; see file_names.resolve.

  Returns:
    Path -> path on disk; None if there is no such file.
  """
  by_folder: dict[str, list[str]] = {}
  for path in paths:
    by_folder.setdefault(os.path.dirname(path), []).append(os.path.basename(path))
  found = {}
  for folder, names in by_folder.items():
    for name, there in file_names.resolve(folder or '.', names).items():
      found[os.path.join(folder, name)] = os.path.join(folder, there) if there else None
  return found


def check_missing(lines: Sequence[str], max_missing: int) -> None:
  """Fails if too many files are missing; the others fail when they are read.

  Args:
    lines: One line per missing file.
    max_missing: Number of files that may be missing.

  Raises:
    FileNotFoundError: More files are missing.
  """
  if len(lines) > max_missing:
    more = f' (and {len(lines) - 1} more like it)' if len(lines) > 1 else ''
    raise MissingFileError(lines[0] + more)


# --- For records ------------------------------------------------------------------------------


def examples(files: Sequence[LabeledFile]) -> list:
  """Returns functions that each read one image with its label."""
  return [functools.partial(_example, file) for file in files]


def _example(file):
  label = file.read_label() if file.read_label else None
  return _image_files.example(file.image_file, label)._replace(name=file.name)


# --- Without records --------------------------------------------------------------------------


def raw_data(module: types.ModuleType, options, info: DatasetInfo) -> sources.DirectSource:
  """Returns the images that DatasetOptions.raw_data names.

  Args:
    module: Module of data.sources that has a function `files`.
    options: DatasetOptions.
    info: The classes.

  Raises:
    ConfigError: The split does not exist.
  """
  fields = options.raw_data
  root = config_lib.require_value(fields.root, 'raw_data.root')
  if fields.split not in sources.SPLITS:
    raise config_lib.ConfigError(f'raw_data.split is "{fields.split}": it must be one of '
                                 f'{", ".join(sources.SPLITS)}')
  found = module.files(sources.BuildOptions(
      root=root, split=fields.split, treat_crowd_as_ignore=fields.treat_crowd_as_ignore,
      max_missing=options.max_damaged_images))
  return direct(found, info, options.decode_groundtruth_label)


def direct(files: Sequence[LabeledFile], info: DatasetInfo,
           with_label: bool) -> sources.DirectSource:
  """Returns a source that reads images when they are needed.

  Args:
    files: The images.
    info: The classes.
    with_label: Whether labels are read; otherwise they are those of label_maps.blank.

  Raises:
    ConfigError: Labels are requested, but there are none.
  """
  if with_label and not all(file.read_label for file in files):
    raise config_lib.ConfigError(f'data set "{info.name}" has no labels in this split: set '
                                 'decode_groundtruth_label to false')
  paths = tf.constant([file.image_file for file in files])
  names = tf.constant([file.name for file in files])

  def read_label(index):
    try:
      return files[int(index)].read_label()
    except UserError as error:
      raise DataError(errors.marked(str(error))) from None

  def load(index):
    path = paths[index]
    encoded = tf.io.read_file(path)
    image = tfrecord.decode_or_name(encoded, [path, ': '])
    if not with_label:
      label = label_maps.blank(info, tf.unstack(tf.shape(image))[:2])
    elif info.masks_overlap:
      label = instance_labels.from_python(read_label, [index])
    else:
      label = tf.ensure_shape(tf.numpy_function(read_label, [index], tf.int32), [None, None])
    return structures.LabeledImage(image, of_one_size(label, image, path, encoded), names[index])

  return sources.DirectSource(len(files), load, [file.image_file for file in files])


def of_one_size(label: label_maps.Label, image: tf.Tensor, path: tf.Tensor,
                encoded: tf.Tensor) -> label_maps.Label:
  """Returns the label, and fails if its size is not that of the image.

  Args:
    label: int32 [height, width], or InstanceLabel.
    image: uint8 [height, width, 3].
    path: string [], path of the image, for the error.
    encoded: string [], content of the image file.
  """
  sizes = [tf.shape(image)[:2], tf.shape(label_maps.pixels(label))[:2]]

  def message():
    reason = tf.numpy_function(_exif_reason, [*sizes, encoded], tf.string)
    return [path, ': the image is ', sizes[0][0], 'x', sizes[0][1], ', but its label is ',
            sizes[1][0], 'x', sizes[1][1], tf.ensure_shape(reason, [])]

  with tf.control_dependencies([errors.check(tf.reduce_all(sizes[0] == sizes[1]), message)]):
    return tf.nest.map_structure(tf.identity, label)


def _exif_reason(image_size, label_size, encoded):
  return orientation.explanation(tuple(image_size), tuple(label_size),
                                 orientation.stated(np.asarray(encoded).item())).encode()
