"""Reads checkpoints of Detectron2 and of what is built on it, like Mask2Former, without PyTorch.

They are a plain pickle of numpy arrays or tensors (.pkl), or a PyTorch file (.pth).
"""

import collections
import math
import mmap
import os
import pickle
import re
from typing import Union

import numpy as np

from deeplab_tf.checkpoints import files, pickle_code, torch_reader
from deeplab_tf.user_errors import CheckpointError, MissingFileError

# Entries of a file that hold the weights; files of other programs are the state dict itself.
_UNDER = ('model', 'state_dict')
# Newest protocol of pickles.
_PROTOCOL = 5


def read_detectron_weights(path: str) -> dict[str, np.ndarray]:
  """Reads the entry 'model' (or 'state_dict') of a file, or the file if it is a state dict itself.

  Args:
    path: Pickle, or file that torch.save wrote.

  Returns:
    Read-only arrays by their names in the file.

  Raises:
    FileNotFoundError: There is no file.
    ValueError: It is not such a file, is corrupt, or its pickle asks for more than arrays.
  """
  if not os.path.isfile(path):
    raise MissingFileError(f'{path}: no such file; give a .pkl or .pth file')
  if torch_reader.is_torch_file(path):
    return torch_reader.read_torch_weights(path, _UNDER)
  try:
    found = torch_reader.state_dict(_read_pickle(path), _UNDER)
    items = dict.items(found) if isinstance(found, dict) else ()
    weights = {name: value.value if isinstance(value, _Array) else value for name, value in items}
  except pickle_code.ERRORS as error:
    raise CheckpointError(f'{path}: cannot be read as a pickle of arrays '
                          f'({files.first_line(error)})') from None
  torch_reader.check_state_dict(path, weights, found, _UNDER)
  return weights


def _read_pickle(path: str):
  """Returns the object in a file, with an _Array in place of each array and tensor."""
  size = os.path.getsize(path)
  if not size:
    raise pickle.UnpicklingError('it is empty')
  # Unlike a file, a map does not allocate what it is asked to read but does not have.
  with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    pickle_code.check(content, _PROTOCOL)
    content.seek(0)
    return _Unpickler(content, size).load()


class _Array:
  """Stands for an array, so that a pickle cannot call what real ones have.

  Attributes:
    value: The array; None until its state is set.
  """

  def __init__(self, unpickler: '_Unpickler', value=None):
    self.value = value
    self._unpickler = unpickler

  def __setstate__(self, state):
    _, shape, dtype, fortran_order, data = state
    self.value = self._unpickler.values(data, dtype, shape, fortran_order)


class _Dtype:
  """Stands for a numpy dtype.

  Attributes:
    value: The dtype, one of numbers.
  """

  def __init__(self, code, *unused):
    del unused
    if not isinstance(code, str) or not re.fullmatch('[fiub][1248]', code):
      raise pickle.UnpicklingError('an array of something else than numbers')
    self.value = np.dtype(code)

  def __setstate__(self, state):
    if state[1] in ('<', '>'):
      self.value = self.value.newbyteorder(state[1])


class _Unpickler(pickle.Unpickler):
  """Builds dictionaries and arrays, and nothing else."""

  def __init__(self, stream: mmap.mmap, size: int):
    """Initializes the unpickler.

    Args:
      stream: Pickle, which has passed `pickle_code.check`.
      size: Size of the pickle in bytes.
    """
    # Python 2 wrote text and bytes alike.
    super().__init__(stream, encoding='latin1')
    self._left = size
    self._functions = {
        ('numpy', 'ndarray'): lambda *_: None,  # Named as an argument only.
        ('numpy', 'dtype'): _Dtype,
        ('numpy.core.multiarray', '_reconstruct'): lambda *_: _Array(self),
        ('numpy.core.multiarray', 'scalar'): self._scalar,
        ('numpy.core.numeric', '_frombuffer'): self._from_buffer,
        ('_codecs', 'encode'): self._encode,
        ('__builtin__', 'bytes'): lambda *_: b'',  # Empty ones, in protocols 0 to 2.
        ('torch.storage', '_load_from_bytes'): self._storage,
        ('torch._utils', '_rebuild_tensor'): self._tensor,
        ('torch._utils', '_rebuild_tensor_v2'): self._tensor,
        ('torch._utils', '_rebuild_parameter'): lambda data, *_: data,
    }

  def find_class(self, module: str, name: str):
    """Returns what a pickle may refer to."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    # numpy 2 renamed its inner modules.
    key = module.replace('numpy._core', 'numpy.core'), name
    if key not in self._functions:
      raise pickle.UnpicklingError(f'its pickle asks for {module}.{name}, and only arrays, tensors '
                                   'and dictionaries are allowed')
    return pickle_code.Function(self._functions[key])

  def values(self, data, dtype, shape, fortran_order) -> np.ndarray:
    """Returns the array of the given bytes; the arguments may be anything."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) > 32 or not all(
        type(n) is int and 0 <= n < 1 << 62 for n in shape):
      raise pickle.UnpicklingError('an array of unknown form')
    data = self._bytes(data)
    if len(data) != math.prod(shape) * dtype.value.itemsize:
      raise pickle.UnpicklingError(f'an array has {len(data)} bytes, which does not fit its shape')
    return np.frombuffer(data, dtype.value).reshape(shape, order='F' if fortran_order else 'C')

  def _bytes(self, data: Union[str, bytes]) -> bytes:
    """Returns bytes, in total no more than the file has, although it may refer to some twice."""
    self._left -= len(data)
    if self._left < 0:
      raise pickle.UnpicklingError('its arrays are larger than the file')
    return data.encode('latin1') if isinstance(data, str) else bytes(data)

  def _scalar(self, dtype, data):
    return _Array(self, self.values(data, dtype, (), False))

  def _from_buffer(self, data, dtype, shape, order):
    return _Array(self, self.values(data, dtype, shape, order == 'F'))

  def _encode(self, text, *unused):
    del unused  # Pickles of protocol 2 write bytes as text in latin1.
    return self._bytes(text)

  def _storage(self, data):
    return _Array(self, torch_reader.storage_values(self._bytes(data)))

  def _tensor(self, storage, offset, size, stride, *unused):
    del unused
    if not isinstance(storage, _Array) or storage.value is None or storage.value.ndim != 1:
      raise pickle.UnpicklingError('a tensor of unknown form')
    return _Array(self, torch_reader.tensor(storage.value, offset, size, stride))
