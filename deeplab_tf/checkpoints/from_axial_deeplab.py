"""Finds the weight of the authors' PyTorch Axial-ResNet for each variable of a model.

The backbones are `axial26` and `axial50` (backbones/axial_resnet_imagenet.py), in a classifier.
"""

import re
from typing import Iterable

import numpy as np

_RULES = (
    (r'^classifier/kernel$', 'fc.weight'),
    (r'^classifier/bias$', 'fc.bias'),
    (r'^backbone/stem/kernel$', 'conv1.weight'),
    (r'^backbone/stem/norm/', 'bn1.'),
    (r'^backbone/stages/(\d+)/blocks/(\d+)/', lambda m: f'layer{int(m[1]) + 1}.{m[2]}.'),
    (r'\.conv1/norm/', '.bn1.'),
    (r'\.conv1/kernel$', '.conv_down.weight'),
    (r'\.conv3/norm/', '.bn2.'),
    (r'\.conv3/kernel$', '.conv_up.weight'),
    (r'\.shortcut/norm/', '.downsample.1.'),
    (r'\.shortcut/kernel$', '.downsample.0.weight'),
    # Their spelling.
    (r'\.attention/height_axis/', '.hight_block.'),
    (r'\.attention/width_axis/', '.width_block.'),
    (r'\.qkv_kernel$', '.qkv_transform.weight'),
    (r'\.(query|key|value)_positions/embeddings$', '.relative'),
    (r'\.norm_(qkv|similarity|output)/', r'.bn_\1.'),
    (r'gamma$', 'weight'),
    (r'beta$', 'bias'),
    (r'moving_mean$', 'running_mean'),
    (r'moving_variance$', 'running_var'),
)

# Of a network that was wrapped for several GPUs.
_PREFIX = 'module.'


def keys(path: str, model=None) -> list[str]:
  """Returns the name of the weight of the variable at a path; see paths.variables_by_path."""
  del model
  for pattern, replacement in _RULES:
    path = re.sub(pattern, replacement, path)
  return [path]


def may_lack(path: str) -> bool:
  """Whether a variable need not be in a checkpoint: none."""
  del path
  return False


def weight_names(names: Iterable[str]) -> dict[str, str]:
  """Finds the weights among the names in a checkpoint.

  Args:
    names: All names; counters of batches are left out.

  Returns:
    The names that `keys` returns -> those in the checkpoint.
  """
  return {name[len(_PREFIX):] if name.startswith(_PREFIX) else name: name for name in names
          if not name.endswith('num_batches_tracked')}


def convert(path: str, value: np.ndarray, model) -> np.ndarray:
  """Brings a weight into the form of the variable at a path.

  What does not have the form that the network gives it is returned as it is, and will not fit.
  """
  if not value.size or not value.ndim:
    return value
  if path == 'classifier/kernel':
    return value.T
  if path.endswith('_positions/embeddings') and value.ndim == 2:
    return _table(path.split('/')[-2], value)
  if path.endswith('/kernel') and value.ndim == 4:
    return value.transpose(2, 3, 1, 0)
  heads = model.backbone.options.groups.block.num_heads
  if path.endswith('/qkv_kernel') or '/norm_qkv/' in path:
    return _by_kind(value, heads)
  if '/norm_similarity/' in path and value.shape == (3 * heads,):
    return value.reshape(3, heads)
  if '/norm_output/' in path and value.size % (2 * heads) == 0:
    # The content's and the positions' term of a channel are neighbours.
    return np.moveaxis(value.reshape(heads, -1, 2), 2, 0)
  return value


def _by_kind(value, heads):
  """Orders channels by query, key and value, then by head, and puts them last.

  Theirs are ordered by head, and within a head a quarter is the query, a quarter the key and half
  the value.
  """
  if len(value) % (4 * heads):
    return value
  channels = value.reshape(heads, 4, len(value) // (4 * heads), -1)
  kinds = [np.moveaxis(part.reshape(-1, channels.shape[-1]), 0, 1)
           for part in (channels[:, 0], channels[:, 1], channels[:, 2:])]
  ordered = np.concatenate(kinds, 1)
  return ordered if value.ndim > 1 else ordered[0]


def _table(kind, value):
  """The vectors [2 * length - 1, channels] of one kind; of [all channels, 2 * length - 1].

  Theirs count from the key to the query for queries and values, and the other way for keys.
  """
  quarter = len(value) // 4
  rows = {'query_positions': slice(0, quarter), 'key_positions': slice(quarter, 2 * quarter),
          'value_positions': slice(2 * quarter, None)}[kind]
  table = value[rows].T
  return table if kind == 'key_positions' else table[::-1]
