"""Which predictions belong to the images of a benchmark, and the ids of its images."""

import os
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from deeplab_tf import image_names, listing
from deeplab_tf.formats import coco_fields
from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import image_pairs
from deeplab_tf.user_errors import DataError

_OPTIONAL_SIZE = coco_fields.SIZE._replace(optional=True)
_IMAGE = {'id': coco_fields.IMAGE_ID, 'height': _OPTIONAL_SIZE, 'width': _OPTIONAL_SIZE,
          'file_name': coco_fields.FILE_NAME._replace(optional=True)}
_IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png')
Size = Tuple[int, int]


class ChosenImage(NamedTuple):
  """An image of a submission.

  Attributes:
    image_id: Image id of the benchmark.
    position: Index of its prediction; None for an image without any, see `choose`.
    size: Height and width of the image, or None if they are unknown.
  """
  image_id: ImageId
  position: Optional[int]
  size: Optional[Size] = None


class Choice(NamedTuple):
  """The images of a submission.

  Attributes:
    images: Images to write.
    left_out: Number of predictions for images that are not listed.
    warnings: Warnings about how predictions were paired with images, one line each.
  """
  images: Sequence[ChosenImage]
  left_out: int = 0
  warnings: Tuple[str, ...] = ()


def choose(own: Sequence[image_pairs.ListedImage], path: str, server: Any,
           images: Optional[panoptic_io.PathLike], *, may_lack: bool = False) -> Choice:
  """Chooses the predictions of the images of a benchmark.

  Args:
    own: Images of the predictions, with the benchmark's ids.
    path: Path of the predictions, for messages.
    server: The submission.Benchmark.
    images: JSON with `images`, or the folder of the images; None for the images of the predictions.
    may_lack: Whether an image may lack a prediction, as an image without instances does.

  Raises:
    DataError: An image has no prediction, or several, or is listed twice.
  """
  if images is None:
    _check_distinct(own, path)
    return Choice([ChosenImage(image.image_id, index) for index, image in enumerate(own)])
  listed, sizes = _listed(images, server.image_id)
  _check_distinct(listed, os.fspath(images))
  found = image_pairs.assign(listed, own, os.fspath(images), path)
  missing = [image for image, position in zip(listed, found.positions) if position is None]
  warnings = found.warnings
  if missing:
    named = f' ({missing[0].file_name})' if missing[0].file_name else ''
    line = (f'{path}: {len(missing)} of the {len(listed)} images of {images} have no prediction, '
            f'the first is {missing[0].image_id!r}{named}')
    if not may_lack or len(missing) == len(listed):
      raise DataError(f'{line}; {found.hint or "predict them too"}')
    warnings = (*warnings, f'{line}; they are written without instances')
  return Choice([ChosenImage(image.image_id, position, size)
                 for image, position, size in zip(listed, found.positions, sizes)],
                len(own) - len(listed) + len(missing), warnings)


def check_size(path: Any, shape: Sequence[int], size: Optional[Size]) -> None:
  """Raises a DataError if a map or mask has another size than its image, if that is known."""
  if size is not None and tuple(shape) != tuple(size):
    raise DataError('{}: is {} x {} pixels (height x width), and its image {} x {}; the server '
                    'compares pixel by pixel'.format(path, *shape, *size))


def _check_distinct(images: Sequence[image_pairs.ListedImage], path: str) -> None:
  seen = {}
  for image in images:
    if image.image_id in seen:
      names = ' and '.join(str(each.file_name or each.png or each.image_id)
                           for each in (seen[image.image_id], image))
      raise DataError(f'{path}: two images have one image id of the benchmark, '
                      f'{image.image_id!r}: {names}')
    seen[image.image_id] = image


def _listed(images: panoptic_io.PathLike, image_id: Callable[[ImageId], ImageId]
            ) -> Tuple[List[image_pairs.ListedImage], Sequence[Optional[Size]]]:
  """Returns the images in a JSON or a folder, and their heights and widths if known."""
  if os.path.isdir(images):
    names = listing.files_below(images, _IMAGE_EXTENSIONS)
    found = [image_pairs.ListedImage(image_id(name), name) for name in names]
    sizes: Sequence[Optional[Size]] = [None] * len(found)
  else:
    content = panoptic_io.read_json(images, 'a JSON with the list "images"')
    entries = content.get('images') if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and 'id' in e for e in entries):
      raise DataError(f'{images}: has no list "images" of objects with "id"')
    coco_fields.check(entries, _IMAGE, images, 'an image')
    found = [image_pairs.ListedImage(image_id(entry['id']), entry.get('file_name'))
             for entry in entries]
    sizes = [(entry['height'], entry['width']) if {'height', 'width'} <= set(entry) else None
             for entry in entries]
  if not found:
    raise DataError(f'{images}: lists no images')
  return found, sizes


# --- Ids --------------------------------------------------------------------------------------


def coco_id(image_id: ImageId) -> ImageId:
  """Returns COCO's id of an image, given an id or a file name."""
  name = image_names.stem(str(image_id))
  return int(name) if name.isascii() and name.isdigit() else name


def cityscapes_id(image_id: ImageId) -> ImageId:
  """Returns CITY_SEQUENCE_FRAME of an image, given an id or a file name."""
  return image_names.without_cityscapes_ends(image_names.stem(str(image_id)))


def ade20k_id(image_id: ImageId) -> ImageId:
  """Returns the name of an image without extension, given an id or a file name."""
  return image_names.stem(str(image_id))
