"""Raw data sets. The module NAME serves data set NAME; it has one or both of:

  examples(options: BuildOptions) -> list of functions, each returning one SourceExample
    For deeplab_tf.data.build. The list is cheap to make and says how many images there are.
  direct(options: DatasetOptions, info) -> DirectSource or None
    For reading without records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Sequence

if TYPE_CHECKING:  # The builder answers wrong use without waiting for TensorFlow.
  import tensorflow as tf

  from deeplab_tf import structures

# Ends the names of record files while they are written.
INCOMPLETE = '.incomplete'


class BuildOptions(NamedTuple):
  """What `python -m deeplab_tf.data.build` was asked for.

  Attributes:
    root: Folder of the raw data.
    split: 'train', 'val' or 'test'.
    treat_crowd_as_ignore: Whether crowd regions become unlabelled; None is the data set's
      default.
    annotation_file, annotation_dir, image_dir: Of coco_format; None is the usual place.
    label_divisor: Of coco_format.
    num_images, seed: Of shapes.
  """
  root: str = ''
  split: str = 'train'
  treat_crowd_as_ignore: Optional[bool] = None
  annotation_file: Optional[str] = None
  annotation_dir: Optional[str] = None
  image_dir: Optional[str] = None
  label_divisor: int = 256
  num_images: int = 2000
  seed: int = 0


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
