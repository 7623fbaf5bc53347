"""Writes files as torch.save does, without PyTorch: a zip archive of a pickle and raw arrays."""

import pathlib
import struct
import zipfile

import numpy as np

_STORAGES = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage'}


def _text(value: str) -> bytes:
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def _integer(value: int) -> bytes:
  return b'J' + struct.pack('<i', value)


def _integers(values) -> bytes:
  return b'(' + b''.join(_integer(v) for v in values) + b't'


def _global(module: str, name: str) -> bytes:
  return f'c{module}\n{name}\n'.encode()


def tensor(key: str, value: np.ndarray, shape=None, stride=None, offset: int = 0) -> bytes:
  """Returns the pickle's code of a tensor whose storage is data/<key>."""
  stride = stride or [s // value.itemsize for s in value.strides]
  storage = (b'(' + _text('storage') + _global('torch', _STORAGES[str(value.dtype)]) + _text(key)
             + _text('cpu') + _integer(value.size) + b'tQ')
  hooks = _global('collections', 'OrderedDict') + b')R'
  return (_global('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + _integer(offset)
          + _integers(value.shape if shape is None else shape) + _integers(stride) + b'\x89' + hooks
          + b'tR')


def dictionary(items: dict) -> bytes:
  """Returns the code of an OrderedDict of names to code."""
  pairs = b''.join(_text(name) + code for name, code in items.items())
  return _global('collections', 'OrderedDict') + b')R(' + pairs + b'u'


def write(path: pathlib.Path, code: bytes, arrays: dict, compression: int = zipfile.ZIP_STORED):
  """Writes a file of a pickle's code and of arrays by the names of their storages."""
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('archive/data.pkl', b'\x80\x02' + code + b'.')
    for key, value in arrays.items():
      archive.writestr(f'archive/data/{key}', np.ascontiguousarray(value).tobytes())
    archive.writestr('archive/version', b'3\n')


def save(path: pathlib.Path, weights: dict, under: str = '') -> None:
  """Writes arrays by name as a state dict, or one under a key."""
  arrays = {str(i): value for i, value in enumerate(weights.values())}
  code = dictionary({name: tensor(str(i), value)
                     for i, (name, value) in enumerate(weights.items())})
  write(path, dictionary({under: code, 'epoch': _integer(7)}) if under else code, arrays)
