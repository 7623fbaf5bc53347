"""Names and sizes of a network's features."""

from typing import NamedTuple


class Feature(NamedTuple):
  """Description of a feature map that a network takes or returns.

  Attributes:
    name: Key of the tensor in the network's dictionary.
    stride: Size of the image divided by the size of the feature.
    channels: Number of channels.
  """
  name: str
  stride: int
  channels: int
