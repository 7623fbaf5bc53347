"""Finds the images to predict, and chooses the names and ids of their predictions.

  images = predicted_images.name(predicted_images.find(paths, output_dir), output_dir, ground_truth)
"""

import collections
import os
import posixpath
from typing import List, NamedTuple, Optional, Sequence

from deeplab_tf import image_names, listing
from deeplab_tf.formats import coco_fields, coco_panoptic
from deeplab_tf.image_names import ImageId
from deeplab_tf.user_errors import MissingFileError, UsageError

EXTENSIONS = ('.jpg', '.jpeg', '.png')
PREDICTIONS = 'predictions.json'


class FoundImage(NamedTuple):
  """An image file and the folder in which it was found.

  Attributes:
    path: Path of the file.
    folder: Folder given by the user, or the folder of a file given by the user.
  """
  path: str
  folder: str


class PredictedImage(NamedTuple):
  """An image to segment.

  Attributes:
    path: Path of the file.
    file_name: Name of the image in the predictions: its path below the folder, with `/`.
    output: Name of the output files, without extension; it may contain `/`.
    image_id: Id of the image in the predictions.
  """
  path: str
  file_name: str
  output: str
  image_id: ImageId


def find(paths: Sequence[str], output_dir: str) -> List[FoundImage]:
  """Finds the image files given by files and folders, each once.

  Folders are searched recursively. Hidden files, the output folder, and folders with earlier
  predictions are skipped.

  Args:
    paths: Image files and folders.
    output_dir: Folder that predictions are written to.

  Raises:
    MissingFileError: A file or folder does not exist.
    UsageError: A folder contains no images, or an image is in output_dir.
  """
  found = {}
  for path in paths:
    if os.path.isdir(path):
      names = _below(path, output_dir)
      if not names:
        raise UsageError(f'{path}: holds no {", ".join(EXTENSIONS)} files')
      images = [FoundImage(os.path.join(path, name), path) for name in names]
    elif os.path.exists(path):
      images = [FoundImage(path, os.path.dirname(path) or '.')]
    else:
      raise MissingFileError(f'{path}: no such image or folder')
    for image in images:
      found.setdefault(os.path.realpath(image.path), image)
  for image in found.values():
    if os.path.realpath(os.path.dirname(image.path) or '.') == os.path.realpath(output_dir):
      raise _overwritten(output_dir, image.path)
  return list(found.values())


def _below(folder: str, output_dir: str) -> List[str]:
  """Returns the images below a folder, except those that were written by predictions."""
  written = os.path.realpath(output_dir)
  is_ours = {'': False}

  def is_written(name: str) -> bool:
    parent = posixpath.dirname(name)
    if parent not in is_ours:
      path = os.path.join(folder, parent)
      is_ours[parent] = (is_written(parent) or os.path.realpath(path) == written
                         or os.path.isfile(os.path.join(path, PREDICTIONS)))
    return is_ours[parent]

  return [name for name in listing.files_below(folder, EXTENSIONS) if not is_written(name)]


def _overwritten(output_dir: str, path: str) -> UsageError:
  return UsageError(f'--output_dir={output_dir} holds {path}, which would be overwritten; give '
                    'another folder')


def name(found: Sequence[FoundImage], output_dir: str,
         ground_truth: Optional[str] = None) -> List[PredictedImage]:
  """Chooses name, output files and id of each image in the predictions.

  The name of an image is its path below the given folder. If images of several folders would have
  the same name, all names are paths below the common parent of the folders. The id is that of the
  image of this name in the ground truth, if given; otherwise the file name without extension and
  without the `_leftImg8bit` of Cityscapes, as an integer if it is a number. Images that would have
  the same id have their whole names as ids.

  Args:
    found: Images to predict.
    output_dir: Folder that predictions are written to.
    ground_truth: JSON with `images` that have id and file_name.

  Raises:
    UsageError: A name cannot be written, is not in the ground truth, or fits several images.
  """
  names = _names(found)
  paths = [image.path for image in found]
  ids = _own_ids(names) if ground_truth is None else _ground_truth_ids(paths, ground_truth)
  for path, file_name, image_id in zip(paths, names, ids):
    for field, value in ((coco_fields.FILE_NAME, file_name), (coco_fields.IMAGE_ID, image_id)):
      if not field.is_right(value):
        raise UsageError(f'{path!r}: its name cannot be written into {PREDICTIONS}, since it is '
                         'too long or has letters that cannot be printed; rename the file')
  outputs = _outputs(names)
  inputs = {os.path.realpath(path): path for path in paths}
  for output in outputs:
    for end in ('.png', '_overlay.png'):
      path = os.path.realpath(os.path.join(output_dir, output + end))
      if path in inputs:
        raise _overwritten(output_dir, inputs[path])
  return [PredictedImage(*image) for image in zip(paths, names, outputs, ids)]


def _names(found: Sequence[FoundImage]) -> List[str]:
  names = [_relative(image.path, image.folder) for image in found]
  folders = collections.defaultdict(set)
  for image, own in zip(found, names):
    folders[_root(own).casefold()].add(os.path.dirname(os.path.abspath(image.path)))
  if any(len(each) > 1 for each in folders.values()):
    common = os.path.commonpath([os.path.abspath(image.folder) for image in found])
    names = [_relative(image.path, common) for image in found]
  return names


def _relative(path: str, folder: str) -> str:
  return os.path.relpath(os.path.abspath(path), os.path.abspath(folder)).replace(os.sep, '/')


def _root(file_name: str) -> str:
  return posixpath.splitext(file_name)[0]


def _outputs(names: Sequence[str]) -> List[str]:
  """Returns distinct names of output files, even on case-insensitive file systems."""
  outputs, taken = [], set()
  for file_name in names:
    root, number = _root(file_name), 1
    output = root
    while taken & {f'{output}.png'.casefold(), f'{output}_overlay.png'.casefold()}:
      number += 1
      output = f'{root}_{number}'
    taken |= {f'{output}.png'.casefold(), f'{output}_overlay.png'.casefold()}
    outputs.append(output)
  return outputs


# --- Ids --------------------------------------------------------------------------------------


def _own_ids(names: Sequence[str]) -> List[ImageId]:
  ids = [id_of(file_name) for file_name in names]
  for longer in (_root, str):
    times = collections.Counter(ids)
    ids = [image_id if times[image_id] == 1 else longer(file_name)
           for image_id, file_name in zip(ids, names)]
  return ids if len(set(ids)) == len(ids) else list(names)


def id_of(file_name: str) -> ImageId:
  """Returns the id of an image, given only its file name."""
  stem = image_names.without_cityscapes_ends(image_names.stem(file_name))
  is_number = stem.isascii() and stem.isdigit() and len(stem) < 100
  return int(stem) if is_number and coco_fields.INTEGER.is_right(int(stem)) else stem


def _ground_truth_ids(paths: Sequence[str], ground_truth: str) -> List[ImageId]:
  """Returns the ids of images in a JSON, by their names."""
  content = coco_panoptic.read_json(ground_truth, 'a COCO ground truth')
  listed = coco_fields.image_file_names(content, ground_truth) if isinstance(content, dict) else {}
  if not listed:
    raise UsageError(f'--ground_truth={ground_truth}: has no list "images" with id and file_name; '
                     'a COCO JSON is expected')
  ids, names = list(listed), list(listed.values())
  # Absolute paths are used, since the ground truth may include folders above the given ones.
  pairing = image_names.pair([os.path.abspath(path) for path in paths], names)
  for index, position in enumerate(pairing.found):
    if position is None:
      raise UsageError(f'{paths[index]}: {_why_unnamed(index, paths, names, pairing)}')
  return [ids[position] for position in pairing.found if position is not None]


def _why_unnamed(index: int, paths: Sequence[str], names: Sequence[str],
                 pairing: image_names.Pairing) -> str:
  if index in pairing.ambiguous:
    fitting = image_names.shown(names[each] for each in pairing.ambiguous[index])
    return (f'its name is ambiguous: --ground_truth lists {fitting}, and none fits best; the '
            'folders of the images must be named as there')
  for position, wanting in pairing.others.items():
    if index in wanting:
      rivals = image_names.shown(paths[each] for each in wanting)
      return (f'its name is ambiguous: {rivals} fit {names[position]} of --ground_truth equally '
              'well; give one of them')
  return '--ground_truth lists no image of this name; leave the image or the flag out'
