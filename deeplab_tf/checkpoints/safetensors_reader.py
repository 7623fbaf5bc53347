"""Reads the weights of safetensors files, the format of Hugging Face's models.

A file is the length of its header (uint64), the header, a JSON object with dtype, shape and offsets
of each tensor, and the values of all tensors, which follow each other without gaps. A model of
several files has an index, a JSON that names the file of each tensor.
"""

import json
import math
import os
from typing import Any, Mapping

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import files
from deeplab_tf.user_errors import CheckpointError, MissingFileError

FILE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'

_DTYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
           'BF16': tf.bfloat16.as_numpy_dtype, 'I64': np.int64, 'I32': np.int32, 'I16': np.int16,
           'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}
# Largest header and largest index in bytes; the format's own limit of a header is 100 million.
_LARGEST_HEADER = 100_000_000
_LENGTH = 8


def read_safetensors_weights(path: str) -> dict[str, np.ndarray]:
  """Reads all tensors of a model.

  Args:
    path: A .safetensors file, or a folder with model.safetensors or its index.

  Returns:
    Read-only arrays by their names, which are views of the files.

  Raises:
    FileNotFoundError: There is no file.
    ValueError: A file is corrupt, or does not fit the index.
  """
  if not os.path.isdir(path):
    return _read_file(path)
  file, index = os.path.join(path, FILE), os.path.join(path, INDEX)
  if os.path.isfile(index) and not os.path.isfile(file):
    return _read_shards(index)
  return _read_file(file)


def _read_shards(index: str) -> dict[str, np.ndarray]:
  """Reads the files that an index names."""
  if os.path.getsize(index) > _LARGEST_HEADER:
    raise CheckpointError(f'{index}: is larger than {_LARGEST_HEADER} bytes')
  with open(index, 'rb') as file:
    content = _parse(file.read(), index)
  named = content.get('weight_map')
  if not isinstance(named, dict) or not named or not all(
      isinstance(name, str) and _is_plain(name) for name in named.values()):
    raise CheckpointError(f'{index}: has no "weight_map" that names a file in its folder for each '
                          'tensor')
  weights = {}
  for name in sorted(set(named.values())):
    shard = _read_file(os.path.join(os.path.dirname(index), name))
    expected = {tensor for tensor, file in named.items() if file == name}
    if set(shard) != expected:
      differing = sorted(set(shard) ^ expected)[0]
      raise CheckpointError(f'{index}: does not fit {name}: only one of them has "{differing}"')
    weights.update(shard)
  return weights


def _is_plain(name: str) -> bool:
  """Returns whether a name is that of a file in the same folder."""
  return name not in ('', '.', '..') and not set(name) & set('/\\\0')


def _read_file(path: str) -> dict[str, np.ndarray]:
  if not os.path.isfile(path):
    raise MissingFileError(f'{path}: no such file; give a folder with {FILE} or {INDEX}')
  size = os.path.getsize(path)
  if size < _LENGTH:
    raise CheckpointError(f'{path}: is not a safetensors file: it has {size} bytes')
  content = np.asarray(np.memmap(path, np.uint8, 'r'))
  length = int(content[:_LENGTH].view('<u8')[0])
  if length > min(_LARGEST_HEADER, size - _LENGTH):
    raise CheckpointError(f'{path}: is not a safetensors file, or is cut off: its header would '
                          f'have {length} bytes, and the file has {size}')
  header = _parse(content[_LENGTH:_LENGTH + length].tobytes(), path)
  header.pop('__metadata__', None)
  return _tensors(header, content[_LENGTH + length:], path)


def _parse(text: bytes, path: str) -> dict[str, Any]:
  """Returns a JSON object whose names, and those of objects inside, are unique."""
  try:
    content = json.loads(text.decode('utf-8'), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    raise CheckpointError(f'{path}: its header cannot be read as JSON '
                          f'({files.first_line(error)})') from None
  if not isinstance(content, dict):
    raise CheckpointError(f'{path}: its header is not a JSON object')
  return content


def _unique(pairs) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError('a name occurs twice')
  return found


def _tensors(header: Mapping[str, Any], data: np.ndarray, path: str) -> dict[str, np.ndarray]:
  """Returns the tensors that a header describes, in the order of the file."""
  weights, end = {}, 0
  for name, entry in sorted(header.items(), key=lambda item: _offsets(*item, path)):
    start, stop = _offsets(name, entry, path)
    if start != end:
      raise CheckpointError(f'{path}: "{name}" begins at byte {start}, and the tensor before it '
                            f'ends at byte {end}; the file is corrupt')
    if stop > data.size:
      raise CheckpointError(f'{path}: "{name}" ends at byte {stop} of the values, and the file has '
                            f'{data.size} bytes of them: it is cut off')
    weights[name] = _array(name, entry, data[start:stop], path)
    end = stop
  if end != data.size:
    raise CheckpointError(f'{path}: has {data.size} bytes of values, and its tensors {end}; the '
                          'file is corrupt')
  return weights


def _offsets(name: str, entry: Any, path: str) -> tuple[int, int]:
  """Returns where a tensor's values begin and end."""
  offsets = entry.get('data_offsets') if isinstance(entry, dict) else None
  if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
    raise CheckpointError(f'{path}: the offsets of "{name}" are invalid; the file is corrupt')
  return offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
  return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _array(name: str, entry: Mapping[str, Any], data: np.ndarray, path: str) -> np.ndarray:
  dtype, shape = entry.get('dtype'), entry.get('shape')
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise CheckpointError(f'{path}: "{name}" has the dtype {str(dtype)[:40]!r}; allowed are '
                          f'{", ".join(_DTYPES)}')
  size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize if _are_sizes(shape) else -1
  if data.size != size:
    raise CheckpointError(f'{path}: "{name}" has {data.size} bytes, which does not fit its shape')
  try:
    return data.view(_DTYPES[dtype]).reshape(shape)
  except ValueError:  # More axes than numpy has, or a length beyond all limits beside one of 0.
    raise CheckpointError(f'{path}: the shape of "{name}" is invalid') from None
