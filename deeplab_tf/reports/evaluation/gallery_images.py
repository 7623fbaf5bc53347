"""Which images the pages of evaluations show, and how: image files, sizes, names, lists."""

import collections
import math
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from deeplab_tf import image_names, listing
from deeplab_tf.formats import coco_panoptic, rgb_images
from deeplab_tf.user_errors import DataError, MissingFileError
from deeplab_tf.visualization import draw

# Images with fewer segments are chosen last for the galleries.
_LEAST_SEGMENTS = 3
_MOST_NAMES = 6
_LARGEST_SIDE = 1920  # Pixels; larger images are shown smaller.
_GRAY = 150  # Gray value in place of a missing image.


def worst_and_best(scores: Sequence[float], segments: Sequence[int],
                   count: int) -> Tuple[List[int], List[int]]:
  """Chooses the worst and the best images; no image is both.

  Images with fewer than three ground truth segments are chosen only if there are not enough
  others.

  Args:
    scores: Score of each image; NaN for an image without a score, which is not chosen.
    segments: Number of ground truth segments, instances or classes of each image.
    count: Number of worst images, and of best images.

  Returns:
    Indices of the worst images, worst first, and of the best images, best first.
  """
  entries = [(score, number, position) for position, (score, number) in enumerate(
      zip(scores, segments)) if not math.isnan(score)]
  rich = [entry for entry in entries if entry[1] >= _LEAST_SEGMENTS]
  if len(rich) < min(2 * count, len(entries)):
    poor = sorted((entry for entry in entries if entry[1] < _LEAST_SEGMENTS),
                  key=lambda entry: -entry[1])
    rich += poor[:2 * count - len(rich)]
  # Among equal scores, images with more segments come first.
  worst = sorted(rich, key=lambda entry: (entry[0], -entry[1]))[:min(count, (len(rich) + 1) // 2)]
  taken = set(worst)
  best = sorted((entry for entry in rich if entry not in taken),
                key=lambda entry: (-entry[0], -entry[1]))[:count]
  return [position for *_, position in worst], [position for *_, position in best]


# --- Image files ------------------------------------------------------------------------------


class ImageFiles:
  """The images of a ground truth, which are read one at a time.

  Attributes:
    notices: Messages about images that cannot be shown.
  """

  def __init__(self, folder: Optional[coco_panoptic.PathLike], names: Mapping[Any, str],
               shown: str):
    """Finds the files.

    Args:
      folder: Folder of the images, possibly in subfolders; None for none.
      names: Image id -> file name, for the images of the ground truth.
      shown: Noun for what is drawn on gray if an image is missing.

    Raises:
      FileNotFoundError: The folder does not exist, or contains none of the images.
    """
    self._paths, ambiguous = image_paths(folder, names) if folder else ({}, {})
    self.notices = _missing(folder, self._paths, ambiguous, names, shown) if folder else []

  def read(self, image_id: Any, shape: Tuple[int, ...]) -> Tuple[Optional[np.ndarray], str]:
    """Reads an image.

    Args:
      image_id: Id of the image.
      shape: Height and width of the result, to which another size is fitted.

    Returns:
      uint8 [height, width, 3], or None if there is no such image or its file is corrupt, and a
      message about a corrupt file.
    """
    path = self._paths.get(image_id)
    if path is None:
      return None, ''
    try:
      pixels = rgb_images.read(path)
    except DataError as error:
      # All images are scored already; the report is still written, without this image.
      return None, f'\nWithout its image: {error}'
    if pixels.shape[:2] != tuple(shape):
      pixels = np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR))
    return pixels, ''


def image_paths(folder: coco_panoptic.PathLike, names: Mapping[Any, str]
                     ) -> Tuple[Dict[Any, str], Dict[Any, Tuple[str, ...]]]:
  """Finds the images of a ground truth by their names; see image_names.

  Args:
    folder: Folder of the images, possibly in subfolders.
    names: Image id -> file name, for the images of the ground truth.

  Returns:
    Image id -> path, for the images that were found; and image id -> paths that match its name
    equally well, for images whose name is ambiguous.

  Raises:
    FileNotFoundError: The folder does not exist, or contains none of the images.
  """
  if not os.path.isdir(folder):
    raise MissingFileError(f'{os.fspath(folder)}: there is no such folder; it should hold the '
                           'images of the ground truth')
  candidates = listing.files_below(folder, listing.IMAGE_EXTENSIONS)
  ids = list(names)
  pairing = image_names.pair(list(names.values()), candidates)
  found, ambiguous = {}, {}
  for index, (image_id, position) in enumerate(zip(ids, pairing.found)):
    if position is not None:
      found[image_id] = os.path.join(folder, candidates[position])
    elif index in pairing.ambiguous:
      ambiguous[image_id] = tuple(candidates[each] for each in pairing.ambiguous[index])
  for position, wanting in pairing.others.items():
    ambiguous.update((ids[index], (candidates[position],)) for index in wanting)
  if names and not found and not ambiguous:
    raise MissingFileError(
        f'{os.fspath(folder)}: none of the {len(names)} images of the ground truth is there, e.g. '
        f'{names[ids[0]]}; the folder and those inside hold {len(candidates)} other images')
  return found, ambiguous


def _missing(folder: Any, found: Mapping[Any, str], ambiguous: Mapping[Any, Sequence[str]],
             names: Mapping[Any, str], shown: str) -> List[str]:
  """Returns messages about images that cannot be shown."""
  lines = []
  absent = len(names) - len(found) - len(ambiguous)
  if absent:
    lines.append(f'{absent} of the {len(names)} images are not in {folder}; their {shown} are '
                 'shown on gray.')
  unclear = [image_id for image_id in names if image_id in ambiguous]
  if unclear:
    fitting = image_names.shown(ambiguous[unclear[0]])
    lines.append(f'The names of {len(unclear)} of the {len(names)} images are ambiguous in '
                 f'{folder}: {names[unclear[0]]} may be {fitting}; their {shown} are shown '
                 'on gray.')
  return lines


def gray(shape: Tuple[int, ...]) -> np.ndarray:
  """Returns the ground that masks are drawn on if there is no image; uint8 [height, width, 3]."""
  return np.full((*shape, 3), _GRAY, np.uint8)


def step(shape: Tuple[int, ...]) -> int:
  """Returns the stride by which an image of a size is made smaller for a page."""
  return math.ceil(max(shape) / _LARGEST_SIDE)


# --- Words ------------------------------------------------------------------------------------


def short_names(class_names: Mapping[int, str]) -> Dict[int, str]:
  """Shortens class names as in overlays, unless two names would become equal."""
  short = {category: draw.short_name(name) for category, name in class_names.items()}
  times = collections.Counter(short.values())
  return {category: short[category] if times[short[category]] == 1 else name
          for category, name in class_names.items()}


def listed(words: Sequence[str]) -> str:
  """Returns the most frequent names with their counts, as text."""
  counted = collections.Counter(words).most_common()
  parts = [name if times == 1 else f'{times}\u00a0×\u00a0{name}'
           for name, times in counted[:_MOST_NAMES]]
  rest = sum(times for _, times in counted[_MOST_NAMES:])
  return ', '.join(parts) + (f' and {rest} more' if rest else '')
