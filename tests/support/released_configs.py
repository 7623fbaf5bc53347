"""Tables of the settings of released configs, and what released networks compute more."""

import csv
import dataclasses
import math
import pathlib
from typing import Sequence

from deeplab_tf.backbones import swin

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'


@dataclasses.dataclass(frozen=True)
class ReleasedConfig:
  """A row of a table; the columns are numbers and names as text.

  Attributes:
    MODEL: Folder of the configs of the model below that of a data set.
    released: Path of the released config.
    config: Data set and name of the config here.
    backbone: Name of the backbone.
    classes, queries, batch_size, steps: Numbers.
    schedule: 'step' or 'poly'.
    crop: Height x width of a training image with its padding.
    train_sizes: Smallest and largest scale of a training image, or smallest and largest shorter
      side / limit of the longer side.
    test_size: Shorter side / limit of the longer side of a test image.
    object_threshold, overlap_threshold: Thresholds of the panoptic post-processing; '' for none.
    colors: Whether colors are changed in training, 'y' or 'n'.
  """
  MODEL = ''

  released: str
  config: str
  backbone: str
  classes: str
  queries: str
  batch_size: str
  steps: str
  schedule: str
  crop: str
  train_sizes: str
  test_size: str
  object_threshold: str
  overlap_threshold: str
  colors: str

  @property
  def path(self) -> pathlib.Path:
    """Path of the config here."""
    dataset, name = self.config.split('/')
    return CONFIGS / dataset / self.MODEL / f'{name}.textproto'

  @property
  def dataset(self) -> str:
    """Folder of the data set."""
    return self.config.split('/')[0]

  @property
  def task(self) -> str:
    """'panoptic', 'instance' or 'semantic'."""
    return self.config.split('/')[1].split('_')[0]


def read(kind: type[ReleasedConfig], path: pathlib.Path) -> list[ReleasedConfig]:
  """Returns the rows of a table."""
  with open(path, encoding='utf-8', newline='') as file:
    return [kind(**row) for row in csv.DictReader(file)]


def madds_of_window_padding(backbone: str, size: Sequence[int]) -> int:
  """Returns the multiply-adds with which released Swins project the padding of their windows.

  Here it is cut off before the output projection, with the same results.

  Args:
    backbone: Name of the backbone; for others than Swins the result is 0.
    size: Height and width of the image.
  """
  more, variant = 0, swin.VARIANTS.get(backbone)
  for stage, blocks in enumerate(variant.num_blocks if variant else ()):
    stride, window = 4 * 2**stage, variant.window_size
    pixels = math.prod(-(-side // stride) for side in size)
    padded = math.prod(-(-side // (stride * window)) * window for side in size)
    more += blocks * (padded - pixels) * (variant.embedding_channels * 2**stage)**2
  return more
