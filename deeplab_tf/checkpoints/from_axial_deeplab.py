"""Finds the weight of the authors' PyTorch Axial-ResNet for each variable of a model.

The backbones are `axial26` and `axial50` (backbones/axial_resnet_imagenet.py), in a classifier.
"""

import functools
import re
from typing import Collection, Iterable

import numpy as np

from deeplab_tf.checkpoints import origins as origins_lib
from deeplab_tf.checkpoints.origins import Origin, Piece

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
    # The spelling of the PyTorch code.
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

# Prefix of the names if the network was wrapped for several GPUs.
_PREFIX = 'module.'


def may_lack(path: str, names: Collection[str]) -> bool:
  """Returns whether a checkpoint may lack a variable: never."""
  del path, names
  return False


def weight_names(names: Iterable[str]) -> dict[str, str]:
  """Finds the weights among the names in a checkpoint.

  Args:
    names: All names in the checkpoint; counters of batches are left out.

  Returns:
    The names in the checkpoint -> those that `origins` uses.
  """
  return {name: name.removeprefix(_PREFIX) for name in names
          if not name.endswith('num_batches_tracked')}


def origins(path: str, model) -> list[Origin]:
  """Returns the origin of the variable at a path; see variable_paths.variables_by_path."""
  name = path
  for pattern, replacement in _RULES:
    name = re.sub(pattern, replacement, name)
  if path.endswith('_positions/embeddings'):
    return [_table(path.split('/')[-2], name)]
  return [origins_lib.whole(name, functools.partial(_transform, path, model))]


def _table(kind: str, name: str) -> Origin:
  """Returns the origin of one kind's [2 * length - 1, channels] vectors in a joint table.

  The joint table is [all channels, 2 * length - 1]. A quarter of the channels are the query's, a
  quarter the key's and half the value's. Distances count from the key to the query for queries and
  values, and from the query to the key for keys.
  """
  quarters = {'query_positions': (0,), 'key_positions': (1,), 'value_positions': (2, 3)}[kind]
  pieces = tuple(Piece(name, index, 4) for index in quarters)
  return Origin(pieces, np.transpose if kind == 'key_positions' else lambda value: value.T[::-1])


def _transform(path: str, model, value: np.ndarray) -> np.ndarray:
  """Converts a weight to the form of the variable at a path."""
  if path == 'classifier/kernel':
    return value.T
  if path.endswith('/kernel'):
    return value.transpose(2, 3, 1, 0)
  heads = model.backbone.options.groups.block.num_heads
  if path.endswith('/qkv_kernel') or '/norm_qkv/' in path:
    return _by_kind(value, heads)
  if '/norm_similarity/' in path:
    return value.reshape(3, heads)
  if '/norm_output/' in path:
    # In the checkpoint the content term and the positional term of a channel are neighbors.
    return np.moveaxis(value.reshape(heads, -1, 2), 2, 0)
  return value


def _by_kind(value: np.ndarray, heads: int) -> np.ndarray:
  """Orders channels by query, key and value, then by head, and puts them last.

  In the checkpoint they are ordered by head, and within a head a quarter is the query, a quarter
  the key and half the value.
  """
  quarter, rest = divmod(value.shape[0], 4 * heads)
  if rest:
    raise ValueError(f'{value.shape[0]} channels do not divide into quarters of {heads} heads')
  channels = value.reshape(heads, 4, quarter, -1)
  kinds = [np.moveaxis(part.reshape(-1, channels.shape[-1]), 0, 1)
           for part in (channels[:, 0], channels[:, 1], channels[:, 2:])]
  ordered = np.concatenate(kinds, 1)
  return ordered if value.ndim > 1 else ordered[0]
