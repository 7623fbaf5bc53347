"""The settings of released configs of MaskFormer, from a table: COCO panoptic and ADE20K."""

import dataclasses
import pathlib

import released_configs

CONFIGS = released_configs.CONFIGS


@dataclasses.dataclass(frozen=True)
class Released(released_configs.ReleasedConfig):
  """A row of the table; batch norms are always frozen.

  Attributes besides those of ReleasedConfig:
    encoder_layers: Layers of the transformer encoder in the pixel decoder.
    learning_rate, backbone_rate: Learning rate, and the factor of the backbone's.
    weight_decay, warmup_steps: Numbers.
    divisor: Divisor that sides of a test image are padded to a multiple of.
    averaged_longest: Limit of the longer side if scores are averaged over scales; '' for none.
  """
  MODEL = 'maskformer'

  encoder_layers: str
  learning_rate: str
  backbone_rate: str
  weight_decay: str
  warmup_steps: str
  divisor: str
  averaged_longest: str


def released() -> list[Released]:
  """Returns the rows of the table."""
  return released_configs.read(Released, pathlib.Path(__file__).with_suffix('.csv'))
