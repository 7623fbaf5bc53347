"""Raw data sets. Module NAME reads the data set NAME or NAME/... and has some of the functions

  classes(options: BuildOptions) -> DatasetInfo or ImageClasses
    Returns the classes of the labels.
  files(options: BuildOptions) -> list of _labeled_files.LabeledFile
    Returns image files with functions that read their labels. It can replace both of the following.
  examples(options: BuildOptions) -> list of functions, each returning one SourceExample
    Used by deeplab_tf.data.build. The list is cheap to make and gives the number of images.
  direct(options: DatasetOptions, info) -> DirectSource or None
    Used for reading without records. None means that the options name only records.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, Optional, Sequence

from deeplab_tf.user_errors import DataError

if TYPE_CHECKING:  # The builder reports wrong flags before TensorFlow is imported.
  import tensorflow as tf

  from deeplab_tf import structures

SPLITS = ('train', 'val', 'test')
# Causes of notes.
TURNED = ('images that are turned upright by their EXIF orientation; their labels have to be drawn '
          'upright too')
STORED = ('images in records whose EXIF orientation is not applied, as in DeepLab2; if their '
          'labels are drawn upright, build the records again')
# Number of examples of one kind that are named.
LISTED = 3


def stop(problem: str) -> NoReturn:
  """Stops at the first problem of the data; the default of `BuildOptions.report`.

  Args:
    problem: One line that describes the problem.

  Raises:
    ValueError: Always, with that line.
  """
  raise DataError(problem)


def _say_nothing(*line: str) -> None:
  del line


class Notes:
  """Counts findings that are reported but stop nothing; thread-safe."""

  def __init__(self):
    self._lock = threading.Lock()
    self._counts: dict[str, int] = {}
    self._examples: dict[str, list[str]] = {}

  def add(self, cause: str, example: str) -> None:
    """Counts a finding.

    Args:
      cause: Cause of the finding, the same for all of one kind.
      example: Name of the file and what was found there.
    """
    with self._lock:
      self._counts[cause] = self._counts.get(cause, 0) + 1
      examples = self._examples.setdefault(cause, [])
      # Sorted, so that the line does not depend on the order of threads.
      examples[:] = sorted([*examples, example])[:LISTED]

  def lines(self) -> list[str]:
    """Returns one line for each cause, with its count and the first examples."""
    return [f'{cause}: {self._counts[cause]} ({"; ".join(self._examples[cause])}'
            f'{"; ..." if self._counts[cause] > LISTED else ""})' for cause in sorted(self._counts)]


class BuildOptions(NamedTuple):
  """Options for reading a raw data set.

  Attributes:
    dataset: Name of the data set.
    root: Folder of the raw data; the data_dir for tfds.
    split: 'train', 'val' or 'test'.
    treat_crowd_as_ignore: Whether crowd regions become unlabeled, or crowds are left out where
      masks may overlap; None is the data set's default.
    annotation_file, annotation_dir, image_dir: Paths for coco_format and coco_instance_format;
      None is the usual place. For the test split of COCO, annotation_file is the JSON that lists
      the images.
    label_divisor: Label divisor for coco_format.
    num_images, seed: Number of images and seed for shapes.
    label_folders: LabelFoldersOptions for label_folders.
    max_missing: Number of the files named by a JSON that may be missing.
    report: Called with one line for each problem of the data. If it returns, the image or segment
      with the problem is left out or becomes unlabeled.
    say: Called with one line for a choice that the data set made.
    note: Called with a cause and an example, like Notes.add, for findings that stop nothing.
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


# Options that stop at the first problem.
STRICT = BuildOptions()


class DirectSource(NamedTuple):
  """Images that are read without records.

  Attributes:
    count: Number of images.
    load: Function of an index, int64 [], that returns a LabeledImage; runs inside tf.data.
    files: Paths of the images; empty for images that are not files.
  """
  count: int
  load: Callable[[tf.Tensor], structures.LabeledImage]
  files: Sequence[str] = ()
