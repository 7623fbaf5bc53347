"""Reads the tensors of a PyTorch file without PyTorch.

Such a file is a zip archive of a pickle and raw arrays or, before PyTorch 1.6, a sequence of
pickles followed by the raw arrays. A pickle can call any function of any module; this reader lets
it call the few that build tensors, and refuses all others. No array is read before the file is
known to hold it.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from typing import Any, BinaryIO, Iterable, NamedTuple, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.checkpoints import files, pickle_code
from deeplab_tf.user_errors import CheckpointError, MissingFileError

_DTYPES = {
    'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16,
    'BFloat16Storage': tf.bfloat16.as_numpy_dtype, 'LongStorage': np.int64,
    'IntStorage': np.int32, 'ShortStorage': np.int16, 'CharStorage': np.int8,
    'ByteStorage': np.uint8, 'BoolStorage': np.bool_,
}
# Largest pickle in bytes; names and shapes of a large network are a few hundred thousand.
_LARGEST_PICKLE = 1 << 26
# Pickle protocol of torch.save.
_PROTOCOL = 2
# Largest size in bytes of an archive's member byteorder: 'little' or 'big'.
_LARGEST_BYTEORDER = 8
# Start of a file of the older form: a pickle of 0x1950a86a20f9469cfc6c. The next pickle is the
# version.
_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_OLDER_VERSION = 1001

class _StorageType(NamedTuple):
  """Stands for a storage class of torch."""
  name: str


class _Storage(NamedTuple):
  """An array in the file, of which tensors are views."""
  dtype: np.dtype
  key: str
  numel: int


class _View(NamedTuple):
  """A tensor that is not read yet; offset and stride count values of its storage."""
  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


def read_torch_weights(path: str, under: Sequence[str] = ('state_dict',)) -> dict[str, np.ndarray]:
  """Reads a state dict: the object in the file, or an entry of it.

  Args:
    path: File that torch.save wrote, before or since version 1.6.
    under: Names of the entry; of those that are there, the first is read.

  Returns:
    Read-only arrays by their names in the file.

  Raises:
    FileNotFoundError: There is no file.
    ValueError: It is not such a file, is corrupt, or its pickle asks for more than tensors.
  """
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise MissingFileError(f'{path}: no such file; give the file that torch.save wrote')
  try:
    with open(path, 'rb') as file:
      source = _open(file)
      found = state_dict(source.content, under)
      weights = _with_arrays(dict.items(found) if isinstance(found, dict) else (), source)
  except pickle_code.ERRORS as error:
    raise CheckpointError(f'{path}: cannot be read as a PyTorch file '
                          f'({files.first_line(error)})') from None
  check_state_dict(path, weights, found, under)
  return weights


def is_torch_file(path: str) -> bool:
  """Returns whether a file begins as one of torch.save does; not whether it is corrupt."""
  with open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC or zipfile.is_zipfile(file)


def state_dict(content: Any, under: Sequence[str]) -> Any:
  """Returns the entry of an unpickled object that `read_torch_weights` reads, or the object."""
  if isinstance(content, dict):
    # A pickle can replace the methods of its own dictionaries.
    for name in under:
      if isinstance(dict.get(content, name), dict):
        return dict.get(content, name)
  return content


def check_state_dict(path: str, weights: dict, found: Any, under: Sequence[str]) -> None:
  """Raises CheckpointError unless there are weights, all of them arrays with names.

  Args:
    path: Path of the file.
    weights: Content of the state dict, with arrays in place of tensors.
    found: Object that was taken as the state dict.
    under: Names of its entry in the file.
  """
  wrong = [name for name, value in weights.items()
           if not isinstance(name, str) or not isinstance(value, np.ndarray)]
  if not weights or wrong:
    shown = list(map(_shown, wrong[:3])) or type(found).__name__
    names = ' or '.join(f'"{name}"' for name in under)
    raise CheckpointError(f'{path}: holds no state dict (names with tensors), nor has it one under '
                          f'{names}; found {shown}')


def _shown(value) -> Union[str, int]:
  """Returns what an error shows of a value: the type, unless it is a name or a small number."""
  is_number = isinstance(value, int) and value.bit_length() < 64
  return value if is_number or isinstance(value, str) else type(value).__name__


def _open(file: BinaryIO):
  """Returns an _Archive or a _PickleSequence."""
  # An archive may have anything in front of it, so the older form is checked first.
  if file.read(len(_MAGIC)) == _MAGIC:
    return _PickleSequence(file)
  if zipfile.is_zipfile(file):
    return _Archive(file)
  raise pickle.UnpicklingError('it is neither a zip archive nor of the form before PyTorch 1.6; '
                               'give the file that torch.save wrote')


def _with_arrays(items: Iterable[tuple], source) -> dict:
  """Replaces views by arrays; each storage is read once."""
  storages, result = {}, {}
  for name, value in items:
    if isinstance(value, _View):
      if value.storage not in storages:
        storages[value.storage] = _values(source.read(value.storage), value.storage)
      value = _array(value, storages[value.storage])
    result[name] = value
  return result


def _values(data: bytes, storage: _Storage) -> np.ndarray:
  size = storage.numel * storage.dtype.itemsize
  # If values were missing, views would reach into memory beyond them.
  if len(data) != size:
    raise pickle.UnpicklingError(f'storage {storage.key} has {len(data)} bytes and not {size}')
  return np.frombuffer(data, storage.dtype)


def _array(view: _View, storage: np.ndarray) -> np.ndarray:
  if not math.prod(view.size):
    return np.zeros(view.size, storage.dtype)
  # No copy, so that a file of many views takes no more memory than its storages.
  return np.lib.stride_tricks.as_strided(
      storage[view.offset:], view.size, [n * storage.itemsize for n in view.stride],
      writeable=False)


def storage_values(data: bytes) -> np.ndarray:
  """Returns the values of a storage that torch.save wrote by itself, in the older form.

  Pickles of tensors outside of torch.save contain their storages like this.

  Raises:
    pickle.UnpicklingError: It is something else; corrupt data raise any of pickle_code.ERRORS.
  """
  if not data.startswith(_MAGIC):
    raise pickle.UnpicklingError('a storage of unknown form')
  source = _PickleSequence(io.BytesIO(data))
  if not isinstance(source.content, _Storage):
    raise pickle.UnpicklingError('a storage of unknown form')
  return _values(source.read(source.content), source.content)


def tensor(values: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
  """Returns a tensor as a read-only view of its storage's values.

  Args:
    values: Values of the storage, of rank 1.
    offset: Index of the tensor's first value.
    size: Shape of the tensor.
    stride: Number of values between neighbors along each axis.

  Raises:
    pickle.UnpicklingError: The arguments, which may be anything, do not describe such a view.
  """
  view = _rebuild_tensor(_Storage(values.dtype, '', values.size), offset, size, stride)
  return _array(view, values)


# === The two forms of a file ===


class _Archive:
  """A zip archive.

  Attributes:
    content: Object in the pickle, with _Views in place of tensors.
  """

  def __init__(self, file: BinaryIO):
    self._archive = archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    if len(names) != 1:
      raise pickle.UnpicklingError(f'{len(names)} files data.pkl')
    self._folder = names[0][:-len('data.pkl')]
    if (f'{self._folder}byteorder' in archive.namelist()
        and self._member('byteorder', _LARGEST_BYTEORDER) != b'little'):
      raise pickle.UnpicklingError('its byte order is not little')
    self.content = _Unpickler(io.BytesIO(self._member('data.pkl', _LARGEST_PICKLE))).load()

  def read(self, storage: _Storage) -> bytes:
    """Returns the bytes of a storage."""
    name, size = f'data/{storage.key}', storage.numel * storage.dtype.itemsize
    if self._archive.getinfo(self._folder + name).file_size != size:
      raise pickle.UnpicklingError(f'{name} is not {storage.numel} values of {storage.dtype}')
    return self._member(name, size)

  def _member(self, name: str, most: int) -> bytes:
    """Returns the bytes of a member, `most` at most."""
    info = self._archive.getinfo(self._folder + name)
    # torch.save does not compress; a compressed member may be far larger than its file.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
      raise pickle.UnpicklingError(f'{name} is compressed or corrupt; give the file as torch.save '
                                   'wrote it')
    if info.file_size > most:
      raise pickle.UnpicklingError(f'{name} has {info.file_size} bytes; at most {most} are read')
    return self._archive.read(info)


class _PickleSequence:
  """The form before PyTorch 1.6.

  Pickles of a magic number, a version, the machine, the object and the keys of its storages; then
  for each storage, in the order of the keys, the number of values (int64) and the values.

  Attributes:
    content: Object in the fourth pickle, with _Views in place of tensors.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(min(end, _LARGEST_PICKLE)))
    pickle_code.take(pickles, _PROTOCOL)
    version, machine = (_Unpickler(pickles).load() for _ in range(2))
    if type(version) is not int or version != _OLDER_VERSION:
      raise pickle.UnpicklingError(f'its version is {_shown(version)}; only {_OLDER_VERSION} is '
                                   'known')
    if not isinstance(machine, dict) or machine.get('little_endian') is not True:
      raise pickle.UnpicklingError('its byte order is not little')
    unpickler = _Unpickler(pickles)
    self.content = unpickler.load()
    keys = _Unpickler(pickles).load()
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)
            and sorted(keys) == sorted(unpickler.storages)):
      raise pickle.UnpicklingError('its list of storages does not fit its tensors')
    self._places = _places(file, pickles.tell(), end, [unpickler.storages[key] for key in keys])

  def read(self, storage: _Storage) -> bytes:
    """Returns the bytes of a storage."""
    self._file.seek(self._places[storage.key])
    return self._file.read(storage.numel * storage.dtype.itemsize)


def _places(file: BinaryIO, start: int, end: int, storages: list[_Storage]) -> dict[str, int]:
  """Returns the offset in a file of each storage's values, by key, without reading them."""
  places = {}
  for storage in storages:
    file.seek(start)
    (numel,) = struct.unpack('<q', file.read(8))
    if numel != storage.numel:
      raise pickle.UnpicklingError(f'storage {storage.key} has {numel} values and not '
                                   f'{storage.numel}')
    places[storage.key] = start + 8
    start += 8 + numel * storage.dtype.itemsize
    if start > end:
      raise pickle.UnpicklingError(f'it ends within storage {storage.key}')
  return places


# === Pickles ===


class _Unpickler(pickle.Unpickler):
  """Builds dictionaries and views, and nothing else.

  Attributes:
    storages: Storages that have occurred, by their keys.
  """

  def __init__(self, stream: io.BytesIO):
    """Initializes the unpickler with the next pickle of a stream, which is taken out of it."""
    # PyTorch under Python 2 wrote names as bytes.
    super().__init__(io.BytesIO(pickle_code.take(stream, _PROTOCOL)), encoding='utf-8')
    self.storages = {}

  def find_class(self, module: str, name: str):
    """Returns what a pickle may refer to."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch._utils' and name in _FUNCTIONS:
      return pickle_code.Function(_FUNCTIONS[name])
    if module == 'torch' and name in _DTYPES:
      return _StorageType(name)
    raise pickle.UnpicklingError(f'its pickle asks for {module}.{name}, and only tensors and '
                                 'dictionaries are allowed; save the state_dict() alone')

  def persistent_load(self, pid):
    """Returns the storage that a tensor is a view of."""
    kind, storage_type, key, _, numel, *part = pid
    if kind != 'storage' or not isinstance(storage_type, _StorageType):
      raise pickle.UnpicklingError(f'unknown reference {_shown(kind)}; save the state_dict() '
                                   'alone')
    if part not in ([], [None]):
      raise pickle.UnpicklingError('a storage that is part of another; save the state_dict() anew')
    if not isinstance(key, str) or type(numel) is not int or numel < 0:
      raise pickle.UnpicklingError('a storage of unknown form')
    storage = _Storage(np.dtype(_DTYPES[storage_type.name]), key, numel)
    if self.storages.setdefault(key, storage) != storage:
      raise pickle.UnpicklingError(f'storage {key} has two forms')
    return storage


def _rebuild_tensor(storage, offset, size, stride, *unused):
  """Returns the view of a storage that stands for a tensor."""
  del unused
  numbers = (offset, *size, *stride)
  if not isinstance(storage, _Storage) or not all(
      type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
    raise pickle.UnpicklingError('a tensor of unknown form')
  last = offset + sum((n - 1) * s for n, s in zip(size, stride))
  count = math.prod(size)
  if count > storage.numel or count and last >= storage.numel:
    raise pickle.UnpicklingError('a tensor larger than its storage')
  return _View(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data, *unused):
  del unused
  return data


_FUNCTIONS = {'_rebuild_tensor': _rebuild_tensor, '_rebuild_tensor_v2': _rebuild_tensor,
              '_rebuild_parameter': _rebuild_parameter}
