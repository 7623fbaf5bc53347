"""The settings of the 47 released configs of Mask2Former's image models, from a table."""

import csv
import pathlib
from typing import NamedTuple

_TABLE = pathlib.Path(__file__).with_suffix('.csv')
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'


class Released(NamedTuple):
  """A row of the table; the columns are numbers and names as text.

  Attributes:
    released: Path of the released config.
    config: Data set and name of the config here.
    backbone: Name of the backbone.
    batch_norm: 'frozen', 'trained' or, for backbones without batch norms, 'none'.
    classes, queries, batch_size, steps: Numbers.
    schedule: 'step' or 'poly'.
    crop: Height x width of a training image.
    train_sizes: Smallest and largest scale of a training image, or smallest and largest shorter
      side / limit of the longer side.
    test_size: Shorter side / limit of the longer side of a test image.
    object_threshold, overlap_threshold: Thresholds of the panoptic post-processing.
    colors: Whether colors are changed in training, 'y' or 'n'.
    ignore: Value of pixels that are not labeled.
  """
  released: str
  config: str
  backbone: str
  batch_norm: str
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
  ignore: str

  @property
  def path(self) -> pathlib.Path:
    """Path of the config here."""
    dataset, name = self.config.split('/')
    return CONFIGS / dataset / 'mask2former' / f'{name}.textproto'

  @property
  def dataset(self) -> str:
    """Folder of the data set."""
    return self.config.split('/')[0]

  @property
  def task(self) -> str:
    """'panoptic', 'instance' or 'semantic'."""
    return self.config.split('/')[1].split('_')[0]


def released() -> list[Released]:
  """Returns the rows of the table."""
  with open(_TABLE, encoding='utf-8', newline='') as file:
    return [Released(**row) for row in csv.DictReader(file)]
