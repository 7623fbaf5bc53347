"""Raw data sets. The module NAME serves data set NAME, and one named NAME/..., and has some of:

  classes(options: BuildOptions) -> DatasetInfo or ImageClasses
    The classes of its labels.
  files(options: BuildOptions) -> list of labeled_files.LabeledFile
    Image files with what reads their labels: enough for both of the following.
  examples(options: BuildOptions) -> list of functions, each returning one SourceExample
    For deeplab_tf.data.build. The list is cheap to make and says how many images there are.
  direct(options: DatasetOptions, info) -> DirectSource or None
    For reading without records. None: the options name only records.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, Optional, Sequence

from deeplab_tf.user_errors import DataError

if TYPE_CHECKING:  # The builder answers wrong use without waiting for TensorFlow.
  import tensorflow as tf

  from deeplab_tf import structures

SPLITS = ('train', 'val', 'test')
# Causes of notes.
TURNED = ('images that are turned upright by their EXIF orientation; their labels have to be drawn '
          'upright too')
STORED = ('images in records whose EXIF orientation is not applied, as in DeepLab2; if their '
          'labels are drawn upright, build the records again')
# So many of one kind are named.
LISTED = 3


def stop(problem: str) -> NoReturn:
  """Ends the work at the first problem of the data: what `report` usually is.

  Args:
    problem: One line.

  Raises:
    ValueError: Always, with that line.
  """
  raise DataError(problem)


def _say_nothing(*line: str) -> None:
  del line


class Notes:
  """Counts what is worth a line, but stops nothing; any thread may add to it."""

  def __init__(self):
    self._lock = threading.Lock()
    self._counts: dict[str, int] = {}
    self._examples: dict[str, list[str]] = {}

  def add(self, cause: str, example: str) -> None:
    """Counts one more of a cause.

    Args:
      cause: Cause of the finding, the same for all of one kind.
      example: Names the file, and what is there.
    """
    with self._lock:
      self._counts[cause] = self._counts.get(cause, 0) + 1
      examples = self._examples.setdefault(cause, [])
      # Threads come in any order: the line is the same all the same.
      examples[:] = sorted([*examples, example])[:LISTED]

  def lines(self) -> list[str]:
    """Returns one line for each cause, with its count and the first examples."""
    return [f'{cause}: {self._counts[cause]} ({"; ".join(self._examples[cause])}'
            f'{"; ..." if self._counts[cause] > LISTED else ""})' for cause in sorted(self._counts)]


class BuildOptions(NamedTuple):
  """Which images of a raw data set are wanted, and how.

  Attributes:
    dataset: Its name.
    root: Folder of the raw data; of tfds its data_dir.
    split: 'train', 'val' or 'test'.
    treat_crowd_as_ignore: Whether crowd regions become unlabeled; None is the data set's
      default.
    annotation_file, annotation_dir, image_dir: Of coco_format; None is the usual place. Of
      coco_panoptic's test split, annotation_file is the JSON that lists its images.
    label_divisor: Of coco_format.
    num_images, seed: Of shapes.
    label_folders: LabelFoldersOptions, of label_folders.
    max_missing: So many of the files that a JSON names may be missing.
    report: Takes one line about each problem of the data; where it returns, what is wrong is left
      out or unlabeled.
    say: Takes one line about a choice that the data set made.
    note: Takes a cause and an example, as Notes.add, of what stops nothing.
  """
  dataset: str = ''
  root: str = ''
  split: str = 'train'
  treat_crowd_as_ignore: Optional[bool] = None
  annotation_file: Optional[str] = None
  annotation_dir: Optional[str] = None
  image_dir: Optional[str] = None
  label_divisor: int = 256
  num_images: int = 2000
  seed: int = 0
  label_folders: Any = None
  max_missing: int = 0
  report: Callable[[str], None] = stop
  say: Callable[[str], None] = _say_nothing
  note: Callable[[str, str], None] = _say_nothing


# Stops at the first problem.
STRICT = BuildOptions()


class DirectSource(NamedTuple):
  """Images that need no records.

  Attributes:
    count: Number of images.
    load: From an index, int64 [], to a LabeledImage; runs inside tf.data.
    files: Paths of the images; none where they are drawn.
  """
  count: int
  load: Callable[[tf.Tensor], structures.LabeledImage]
  files: Sequence[str] = ()
