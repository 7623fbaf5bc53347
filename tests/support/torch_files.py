"""Writes files in the old and new formats of torch.save without PyTorch: pickle and raw arrays."""

import pathlib
import pickle
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


def tensor(key: str, value: np.ndarray, shape=None, stride=None, offset: int = 0,
           more: bytes = b'') -> bytes:
  """Returns the pickle's code of a tensor whose storage is data/<key>.

  Args:
    key: Name of the storage.
    value: The storage's values.
    shape: Of the tensor; default: of the values.
    stride: As above.
    offset: Where the tensor starts in its storage.
    more: Code of what follows the storage's size (before PyTorch 1.6: None, or a part of it).
  """
  stride = stride or [s // value.itemsize for s in value.strides]
  storage = (b'(' + _text('storage') + _global('torch', _STORAGES[str(value.dtype)]) + _text(key)
             + _text('cpu') + _integer(value.size) + more + b'tQ')
  hooks = _global('collections', 'OrderedDict') + b')R'
  return (_global('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + _integer(offset)
          + _integers(value.shape if shape is None else shape) + _integers(stride) + b'\x89' + hooks
          + b'tR')


def dictionary(items: dict) -> bytes:
  """Returns the code of an OrderedDict of names to code."""
  pairs = b''.join(_text(name) + code for name, code in items.items())
  return _global('collections', 'OrderedDict') + b')R(' + pairs + b'u'


def write(path: pathlib.Path, code: bytes, arrays: dict, compressed: str = '',
          byteorder: bytes = b'little') -> None:
  """Writes a file as torch.save does.

  Args:
    path: The file.
    code: The pickle's, without its frame.
    arrays: By the names of their storages.
    compressed: The member to compress, e.g. 'data/0', which torch.save never does.
    byteorder: Content of the member of this name.
  """
  members = {'data.pkl': b'\x80\x02' + code + b'.', 'byteorder': byteorder,
             **{f'data/{key}': np.ascontiguousarray(value).tobytes()
                for key, value in arrays.items()}, 'version': b'3\n'}
  with zipfile.ZipFile(path, 'w') as archive:
    for name, data in members.items():
      archive.writestr(f'archive/{name}', data, zipfile.ZIP_DEFLATED if name == compressed
                       else zipfile.ZIP_STORED)


def state_size(path: pathlib.Path, member: str, size: int) -> None:
  """Makes a file's directory tell another size of a member, e.g. 'data/0', than is stored."""
  data, name = bytearray(path.read_bytes()), f'archive/{member}'.encode()
  # The directory follows the members; an entry has the size at byte 24 and the name at byte 46.
  place = data.rindex(name) - 46
  assert data[place:place + 4] == b'PK\x01\x02'
  data[place + 24:place + 28] = struct.pack('<I', size)
  path.write_bytes(data)


def save(path: pathlib.Path, weights: dict, under: str = '', older: bool = False) -> None:
  """Writes arrays by name as a state dict, or one under a key; older: as before PyTorch 1.6."""
  arrays = {str(i): value for i, value in enumerate(weights.values())}
  code = dictionary({name: tensor(str(i), value, more=b'N' if older else b'')
                     for i, (name, value) in enumerate(weights.items())})
  code = dictionary({under: code, 'epoch': _integer(7)}) if under else code
  (write_older if older else write)(path, code, arrays)


def write_older(path: pathlib.Path, code: bytes, arrays: dict, machine: bytes = b'\x88',
                version: int = 1001, magic: int = 0x1950a86a20f9469cfc6c) -> None:
  """Writes a file as torch.save did before PyTorch 1.6.

  Args:
    path: The file.
    code: The pickle's, without its frame.
    arrays: By the names of their storages, which must be those of the code.
    machine: Code of whether it is little-endian.
    version: Of the form.
    magic: The first pickle.
  """
  pickles = (pickle.dumps(magic, 2), pickle.dumps(version, 2),
             b'\x80\x02}' + _text('little_endian') + machine + b's.', b'\x80\x02' + code + b'.',
             pickle.dumps(list(arrays), 2))
  with open(path, 'wb') as file:
    file.writelines(pickles)
    for value in arrays.values():
      file.write(struct.pack('<q', value.size) + np.ascontiguousarray(value).tobytes())
