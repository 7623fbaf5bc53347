"""Pickles of numpy arrays and tensors are read without PyTorch, and code in them never runs."""

import collections
import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import shared
import torch_files

from deeplab_tf.checkpoints import detectron_reader

WEIGHTS = {
    'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
    'a.transposed': np.arange(12, dtype=np.float64).reshape(3, 4).T,
    'a.big_endian': np.arange(3).astype('>f4'),
    'a.half': np.array([1.5, -2], np.float16),
    'a.mask': np.array([True, False]),
    'a.num_batches_tracked': np.array(3, np.int64),
    'a.scalar': np.float32(0.5),
    'a.empty': np.zeros([0, 3], np.float32),
}


def _read(path):
  return detectron_reader.read_detectron_weights(str(path))


def _assert_equal(found, weights):
  assert list(found) == list(weights)
  for name, value in weights.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('under', ['', 'model', 'state_dict'])
def test_arrays_are_read(tmp_path, protocol, under):
  weights = collections.OrderedDict(WEIGHTS)
  content = {under: weights, '__author__': 'x', 'matching_heuristics': True} if under else weights
  (tmp_path / 'x.pkl').write_bytes(pickle.dumps(content, protocol))
  _assert_equal(_read(tmp_path / 'x.pkl'), WEIGHTS)


def test_text_of_python_2_is_read_as_bytes(tmp_path):
  value = np.array([1.5, -2, 3e9], np.float32)
  # There, bytes are a kind of text that later versions decode.
  code = pickle.dumps({'model': {'x': value}}, 3).replace(
      b'C\x0c' + value.tobytes(), b'U\x0c' + value.tobytes())
  assert b'U\x0c' in code
  (tmp_path / 'x.pkl').write_bytes(code)
  _assert_equal(_read(tmp_path / 'x.pkl'), {'x': value})


def test_numpy_2_is_understood(tmp_path):
  code = pickle.dumps({'model': WEIGHTS}, 2)
  assert b'numpy.core.multiarray' in code
  (tmp_path / 'x.pkl').write_bytes(code.replace(b'numpy.core.', b'numpy._core.'))
  _assert_equal(_read(tmp_path / 'x.pkl'), WEIGHTS)


class _Called:
  """An object that is pickled as the call of a function by name."""

  def __init__(self, name, *arguments):
    self.name, self.arguments = name, arguments


class _Pickler(pickle._Pickler):  # pylint: disable=protected-access
  """Writes names of functions that need not exist."""

  def save(self, obj, *args, **kwargs):
    if isinstance(obj, _Called):
      module, name = obj.name.rsplit('.', 1)
      self.write(f'c{module}\n{name}\n'.encode())
      self.save(obj.arguments)
      self.write(pickle.REDUCE)
    else:
      super().save(obj, *args, **kwargs)


def _pickled(content) -> bytes:
  stream = io.BytesIO()
  _Pickler(stream, 4).dump(content)
  return stream.getvalue()


def _storage(tmp_path, value, key='94690937142880') -> bytes:
  """Returns the bytes of a storage that torch.save wrote by itself."""
  tensor = torch_files.tensor(key, value, more=b'N')
  start, end = tensor.index(b'(X'), tensor.index(b'tQ') + 2
  torch_files.write_older(tmp_path / 'storage', tensor[start:end], {key: value})
  return (tmp_path / 'storage').read_bytes()


def _tensor(storage: bytes, *view) -> _Called:
  return _Called('torch._utils._rebuild_tensor_v2',
                 _Called('torch.storage._load_from_bytes', storage), *view, False,
                 collections.OrderedDict())


def test_tensors_are_views_of_their_storages(tmp_path):
  value = np.arange(20, dtype=np.float32)
  storage = _storage(tmp_path, value)
  weights = {'transposed': _tensor(storage, 2, (4, 3), (1, 4)),
             'parameter': _Called('torch._utils._rebuild_parameter',
                                  _tensor(storage, 0, (20,), (1,)), True, None)}
  (tmp_path / 'x.pkl').write_bytes(_pickled({'model': weights, 'matching_heuristics': True}))
  _assert_equal(_read(tmp_path / 'x.pkl'),
                {'transposed': value[2:14].reshape(3, 4).T, 'parameter': value})


@pytest.mark.parametrize('older', [False, True])
def test_a_file_of_torch_save_is_read_under_model(tmp_path, older):
  weights = {'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4), 'b': np.ones(2, np.float16)}
  for under in ('model', ''):
    torch_files.save(tmp_path / 'x.pth', weights, under, older)
    _assert_equal(_read(tmp_path / 'x.pth'), weights)


@pytest.mark.parity
@pytest.mark.parametrize('variant,tensors', [('r50', 265), ('swin', 125)])
def test_real_files_are_read(variant, tensors):
  folder = shared.path('parity', 'mask2former', f'checkpoint_tiny_{variant}')
  model = _read(folder / 'model_final.pkl')
  # Numpy arrays for the ResNet, tensors for the Swin.
  backbone = _read(folder / 'backbone_imagenet_style.pkl')
  common = [name for name in backbone if f'backbone.{name}' in model]
  assert len(common) == tensors
  for name in common:
    np.testing.assert_array_equal(backbone[name], model[f'backbone.{name}'])


# === Hostile files ===


class _Hostile:

  def __init__(self, function, *arguments):
    self._call = function, arguments

  def __reduce__(self):
    return self._call


_DTYPE = _Called('numpy.dtype', 'f4', False, True)


def _with_state(*state):
  code = _pickled(state)[2:-1]
  return (b'\x80\x04}X\x01\x00\x00\x00xcnumpy.core.multiarray\n_reconstruct\n'
          b'(cnumpy\nndarray\n)U\x01btR' + code[9:] + b'bs.')


HOSTILE = {
    'system': pickle.dumps({'model': {'x': _Hostile(os.system, 'touch hacked')}}),
    'eval': pickle.dumps({'x': _Hostile(eval, 'open("hacked", "w")')}),
    'getattr': pickle.dumps(_Hostile(getattr, 'x', 'upper')),
    'dotted': b'\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.',
    'load': b'cnumpy\nload\n(X\x01\x00\x00\x00xtR.',
    'import': b'cnumpy.core.multiarray\nset_string_function\n)R.',
    'instance': b'ios\nsystem\n(lt.',
    'object': pickle.dumps({'x': np.array(['a', None], object)}),
    'text': pickle.dumps({'x': np.array(['a', 'b'])}),
    'records': pickle.dumps({'x': np.zeros(2, [('a', 'f4'), ('b', 'i4')])}),
    'long_array': _with_state(1, (1 << 40,), _DTYPE, False, b'1234'),
    'short_array': _with_state(1, (1,), _DTYPE, False, b'12345678'),
    'negative_length': _with_state(1, (-1,), _DTYPE, False, b'1234'),
    'huge_length': _with_state(1, (1 << 100000,), _DTYPE, False, b'1234'),
    'many_axes': _with_state(1, (1,) * 1000, _DTYPE, False, b'1234'),
    'shape_of_texts': _with_state(1, ('a',), _DTYPE, False, b'1234'),
    'no_dtype': _with_state(1, (1,), 'f4', False, b'1234'),
    'no_state': b'\x80\x02}X\x01\x00\x00\x00xcnumpy.core.multiarray\n_reconstruct\n)Rs.',
    'two_values_of_state': _with_state(1, (1,)),
    'no_storage': _pickled({'x': _Called('torch._utils._rebuild_tensor_v2', 5, 0, (1,), (1,))}),
    'no_torch_file': _pickled({'x': _tensor(b'x', 0, (1,), (1,))}),
    'dictionary_as_storage': _pickled({'x': _tensor(
        b''.join((pickle.dumps(0x1950a86a20f9469cfc6c, 2), pickle.dumps(1001, 2),
                  pickle.dumps({'little_endian': True}, 2), pickle.dumps({}, 2),
                  pickle.dumps([], 2))), 0, (1,), (1,))}),
    'number_as_weight': pickle.dumps({'model': {'x': 5}}),
    'number_as_name': pickle.dumps({'model': {5: np.zeros(2)}}),
    'no_weights': pickle.dumps({'model': {}}),
    'no_dictionary': pickle.dumps(5),
    'endless_bytes': b'}X\x01\x00\x00\x00xc__builtin__\nbytes\n(I1099511627776\ntRs.',
    'empty': b'',
    'text_file': b'version https://git-lfs.github.com/spec/v1\n',
    'unfinished': pickle.dumps({'x': np.zeros(2)})[:-9],
    'much_memory': b'\x80\x03B\xff\xff\xff\xff.',
    'more_memory': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x7f.',
    'far_place': b'I5\nr\xff\xff\xff\x7f.',
    'out_of_band': b'\x80\x05\x97.',
    'registered': b'\x80\x02\x82\x01.',
    'later_protocol': b'\x80\x06.',
    'deep': b'})' + 300000 * b'\x85' + b'K\x01s.',
    'deep_in_memo': b'\x80\x04})' + 5000 * b'\x85\x94' + b'K\x01s.',
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_run(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'x.pkl').write_bytes(HOSTILE[name])
  tracemalloc.start()
  with pytest.raises(ValueError, match='^.*x.pkl: (cannot be read as a pickle|holds no state dict)'
                     ) as error:
    _read(tmp_path / 'x.pkl')
  assert tracemalloc.get_traced_memory()[1] < 1 << 25
  tracemalloc.stop()
  assert '\n' not in str(error.value) and len(str(error.value)) < 500
  assert os.listdir(tmp_path) == ['x.pkl']


@pytest.mark.parametrize('view', [(0, (3, 5), (5, 1)), (0, (3,), (100,)), (10, (3,), (1,)),
                                  (3, (2,), (-1,)), (0, (1 << 30,), (0,)), (0, (2, 2), (1,))])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, view):
  storage = _storage(tmp_path, np.arange(12, dtype=np.float32))
  (tmp_path / 'x.pkl').write_bytes(_pickled({'x': _tensor(storage, *view)}))
  with pytest.raises(ValueError, match='a tensor (larger|of unknown)'):
    _read(tmp_path / 'x.pkl')


def test_bytes_that_are_named_again_and_again_take_no_memory(tmp_path):
  data = b'\x00' * (1 << 20)
  array = (b'cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02f4K\x00K\x01tRh\x00tR')
  text = b'X' + struct.pack('<I', len(data)) + data + b'q\x000'
  encoded = b'c_codecs\nencode\n(h\x00U\x06latin1tR0' * 1000
  (tmp_path / 'x.pkl').write_bytes(text + encoded + b'}X\x01\x00\x00\x00x' + array + b's.')
  tracemalloc.start()
  with pytest.raises(ValueError, match='its arrays are larger than the file'):
    _read(tmp_path / 'x.pkl')
  assert tracemalloc.get_traced_memory()[1] < 1 << 24
  tracemalloc.stop()


def test_a_pickle_cannot_replace_what_its_arrays_do(tmp_path):
  """A state with attributes, on an array and on what it may call, changes nothing."""
  state = b'N}X\x05\x00\x00\x00valueK\x05s\x86b'
  array = b'cnumpy.core.multiarray\n_reconstruct\n)R' + state
  (tmp_path / 'x.pkl').write_bytes(b'\x80\x02}X\x01\x00\x00\x00x' + array + b's.')
  with pytest.raises(ValueError, match='cannot be read'):
    _read(tmp_path / 'x.pkl')
  function = b'ccollections\nOrderedDict\n' + state + b'0'
  (tmp_path / 'x.pkl').write_bytes(b'\x80\x02' + function + pickle.dumps(WEIGHTS, 2)[2:])
  with pytest.raises(ValueError, match='cannot be read'):
    _read(tmp_path / 'x.pkl')
  assert not hasattr(collections.OrderedDict, 'value')


def test_a_missing_file_and_a_folder_are_named(tmp_path):
  for path in (tmp_path / 'no.pkl', tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file; give a .pkl or .pth file'):
      _read(path)
