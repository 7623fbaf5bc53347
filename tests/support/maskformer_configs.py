"""The settings of released configs of MaskFormer, from a table: COCO panoptic and ADE20K."""

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
    backbone: Name of the backbone; batch norms are always frozen.
    encoder_layers: Layers of the transformer encoder in the pixel decoder.
    classes, queries, batch_size, steps: Numbers.
    schedule: 'step' or 'poly'.
    learning_rate, backbone_rate: Learning rate, and the factor of the backbone's.
    weight_decay, warmup_steps: Numbers.
    crop: Height x width of a training image with its padding.
    train_sizes: Smallest and largest shorter side / limit of the longer side of a training image.
    colors: Whether colors are changed in training, 'y' or 'n'.
    test_size: Shorter side / limit of the longer side of a test image.
    divisor: Divisor that sides of a test image are padded to a multiple of.
    averaged_longest: Limit of the longer side if scores are averaged over scales; '' for none.
    object_threshold, overlap_threshold: Thresholds of the panoptic post-processing; '' for none.
  """
  released: str
  config: str
  backbone: str
  encoder_layers: str
  classes: str
  queries: str
  batch_size: str
  steps: str
  schedule: str
  learning_rate: str
  backbone_rate: str
  weight_decay: str
  warmup_steps: str
  crop: str
  train_sizes: str
  colors: str
  test_size: str
  divisor: str
  averaged_longest: str
  object_threshold: str
  overlap_threshold: str

  @property
  def path(self) -> pathlib.Path:
    """Path of the config here."""
    dataset, name = self.config.split('/')
    return CONFIGS / dataset / 'maskformer' / f'{name}.textproto'

  @property
  def dataset(self) -> str:
    """Folder of the data set."""
    return self.config.split('/')[0]

  @property
  def task(self) -> str:
    """'panoptic' or 'semantic'."""
    return self.config.split('/')[1].split('_')[0]


def released() -> list[Released]:
  """Returns the rows of the table."""
  with open(_TABLE, encoding='utf-8', newline='') as file:
    return [Released(**row) for row in csv.DictReader(file)]
