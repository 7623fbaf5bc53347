"""Reads the tensors of a PyTorch file without PyTorch.

Such a file is a zip archive of a pickle and of raw arrays. A pickle can call any function of any
module; this reader lets it call the few that put tensors together, and refuses all others.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import files

_DTYPES = {
    'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16,
    'BFloat16Storage': tf.bfloat16.as_numpy_dtype, 'LongStorage': np.int64,
    'IntStorage': np.int32, 'ShortStorage': np.int16, 'CharStorage': np.int8,
    'ByteStorage': np.uint8, 'BoolStorage': np.bool_,
}
# Bytes of a pickle; names and shapes of a large network are a few hundred thousand.
_LARGEST_PICKLE = 1 << 26
# What torch.save uses.
_PROTOCOL = 2
# What reading a damaged or a hostile pickle raises.
_ERRORS = (pickle.UnpicklingError, zipfile.BadZipFile, ArithmeticError, AttributeError, EOFError,
           ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
           struct.error, zlib.error)


class _StorageType(NamedTuple):
  """Stands for a storage class of torch."""
  name: str


def read_torch_weights(path: str) -> dict[str, np.ndarray]:
  """Reads a state dict: of the whole file, or under its key 'state_dict'.

  Args:
    path: A file that torch.save wrote (version 1.6 or later, or an earlier one that was saved
      anew).

  Returns:
    The file's own names to arrays.

  Raises:
    FileNotFoundError: There is no file.
    ValueError: It is no such file, it is damaged, or its pickle asks for more than tensors.
  """
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise FileNotFoundError(f'{path}: no such file; give the file that torch.save wrote')
  if not zipfile.is_zipfile(path):
    raise ValueError(f'{path}: is no archive of PyTorch 1.6 or later; load an older file in '
                     'PyTorch and save its state_dict() anew')
  try:
    with zipfile.ZipFile(path) as archive:
      found = _Unpickler(archive).load()
  except _ERRORS as error:
    raise ValueError(f'{path}: cannot be read as a PyTorch file '
                     f'({files.first_line(error)})') from None
  if isinstance(found, dict) and isinstance(dict.get(found, 'state_dict'), dict):
    found = dict.get(found, 'state_dict')
  weights = dict(dict.items(found)) if isinstance(found, dict) else {}
  wrong = [name for name, value in weights.items()
           if not isinstance(name, str) or not isinstance(value, np.ndarray)]
  if not weights or wrong:
    raise ValueError(f'{path}: holds no state dict (names with tensors), nor has it one under '
                     f'"state_dict"; found {list(map(str, wrong[:3])) or type(found).__name__}')
  return weights


class _Unpickler(pickle.Unpickler):
  """Builds dictionaries and tensors, and nothing else."""

  def __init__(self, archive: zipfile.ZipFile):
    names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    if len(names) != 1:
      raise pickle.UnpicklingError(f'{len(names)} files data.pkl')
    self._archive, self._folder = archive, names[0][:-len('data.pkl')]
    if archive.getinfo(names[0]).file_size > _LARGEST_PICKLE:
      raise pickle.UnpicklingError('data.pkl is too large')
    order = self._folder + 'byteorder'
    if order in archive.namelist() and archive.read(order) != b'little':
      raise pickle.UnpicklingError('its byte order is not little')
    self._storages = {}
    code = archive.read(names[0])
    _check_code(code)
    super().__init__(io.BytesIO(code))

  def find_class(self, module: str, name: str):
    """Returns what a pickle may refer to."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch._utils' and name in _FUNCTIONS:
      return _FUNCTIONS[name]
    if module == 'torch' and name in _DTYPES:
      return _StorageType(name)
    raise pickle.UnpicklingError(f'its pickle asks for {module}.{name}, and only tensors and '
                                 'dictionaries are allowed; save the state_dict() alone')

  def persistent_load(self, pid):
    """Returns the array that a tensor is a view of."""
    kind, storage_type, key, _, numel = pid
    if kind != 'storage' or not isinstance(storage_type, _StorageType):
      raise pickle.UnpicklingError(f'unknown reference {kind}')
    if key not in self._storages:
      info = self._archive.getinfo(f'{self._folder}data/{key}')
      dtype = np.dtype(_DTYPES[storage_type.name])
      if info.compress_type != zipfile.ZIP_STORED or info.file_size != numel * dtype.itemsize:
        raise pickle.UnpicklingError(f'data/{key} is not {numel} values of {dtype}')
      self._storages[key] = np.frombuffer(self._archive.read(info), dtype)
    return self._storages[key]


def _check_code(code: bytes) -> None:
  """Refuses a pickle that would take more memory than its length warrants, before it runs."""
  for opcode, argument, _ in pickletools.genops(code):
    if opcode.proto > _PROTOCOL or opcode.name == 'PROTO' and argument > _PROTOCOL:
      raise pickle.UnpicklingError(f'its pickle is not of protocol {_PROTOCOL}')
    if opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT') and argument > len(code):
      raise pickle.UnpicklingError('its pickle has a place far beyond its objects')


def _rebuild_tensor(storage, offset, size, stride, *unused):
  """A copy of the view of a storage that a tensor is."""
  del unused
  numbers = (offset, *size, *stride)
  if not isinstance(storage, np.ndarray) or not all(
      type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
    raise pickle.UnpicklingError('a tensor of unknown form')
  last = offset + sum((n - 1) * s for n, s in zip(size, stride))
  count = math.prod(size)
  if count > storage.size or count and last >= storage.size:
    raise pickle.UnpicklingError('a tensor larger than its storage')
  strides = [s * storage.itemsize for s in stride]
  if not count:
    return np.zeros(size, storage.dtype)
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()


def _rebuild_parameter(data, *unused):
  del unused
  return data


_FUNCTIONS = {'_rebuild_tensor': _rebuild_tensor, '_rebuild_tensor_v2': _rebuild_tensor,
              '_rebuild_parameter': _rebuild_parameter}
