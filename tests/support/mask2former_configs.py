"""The settings of the 47 released configs of Mask2Former's image models, from a table."""

import dataclasses
import pathlib

import released_configs

CONFIGS = released_configs.CONFIGS


@dataclasses.dataclass(frozen=True)
class Released(released_configs.ReleasedConfig):
  """A row of the table.

  Attributes besides those of ReleasedConfig:
    batch_norm: 'frozen', 'trained' or, for backbones without batch norms, 'none'.
    ignore: Value of pixels that are not labeled.
  """
  MODEL = 'mask2former'

  batch_norm: str
  ignore: str


def released() -> list[Released]:
  """Returns the rows of the table."""
  return released_configs.read(Released, pathlib.Path(__file__).with_suffix('.csv'))
