"""Safetensors files, one or several, are read; corrupt ones are refused in one line."""

import json
import struct

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.checkpoints import safetensors_reader

BFLOAT16 = tf.bfloat16.as_numpy_dtype
_NAMES = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16', 'int64': 'I64', 'uint8': 'U8'}
WEIGHTS = {
    'odd': np.arange(3, dtype=np.uint8),  # What follows is not aligned.
    'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
    'a.half': np.array([1.5, -2], np.float16),
    'a.brain': np.array([1.5, -2, 3], BFLOAT16),
    'a.count': np.array(7, np.int64),
    'a.empty': np.zeros([0, 3], np.float32),
}


def _entries(weights):
  entries, end = {}, 0
  for name, value in weights.items():
    entries[name] = {'dtype': _NAMES[value.dtype.name], 'shape': list(value.shape),
                     'data_offsets': [end, end + value.nbytes]}
    end += value.nbytes
  return entries


def _write(path, header, data, padding=b'  '):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  text += padding
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)


def _save(path, weights):
  _write(path, {'__metadata__': {'format': 'pt'}, **_entries(weights)},
         b''.join(value.tobytes() for value in weights.values()))


def _read(path):
  return safetensors_reader.read_safetensors_weights(str(path))


def _assert_equal(found, weights):
  assert set(found) == set(weights)
  for name, value in weights.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize('given', ['folder', 'file'])
def test_a_file_is_read(tmp_path, given):
  _save(tmp_path / 'model.safetensors', WEIGHTS)
  _assert_equal(_read(tmp_path if given == 'folder' else tmp_path / 'model.safetensors'), WEIGHTS)


@pytest.mark.parity
def test_a_real_file_has_the_shapes_and_dtypes_of_its_header():
  folder = shared.path('parity', 'mask2former', 'checkpoint_tiny_swin')
  described = json.loads((folder / 'weights.json').read_text())['weights']
  found = _read(folder / 'hf')
  thirds = {own['name']: [w['shape'][0] // 3, *w['shape'][1:]] if 'part' in own else w['shape']
            for w in described for own in w['hf']}
  assert {name: list(value.shape) for name, value in found.items()} == thirds
  assert {str(value.dtype) for value in found.values()} == {'float32', 'int64'}


def _save_shards(folder, shards, named=None):
  for name, weights in shards.items():
    _save(folder / name, weights)
  named = named or {tensor: name for name, weights in shards.items() for tensor in weights}
  (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'metadata': {'total_size': 1}, 'weight_map': named}))


_SHARDS = {'model-00001-of-00002.safetensors': {'a': np.ones(2, np.float32)},
           'model-00002-of-00002.safetensors': {'b': np.zeros(3, np.float32)}}
_FIRST, _SECOND = _SHARDS


def test_several_files_are_read(tmp_path):
  _save_shards(tmp_path, _SHARDS)
  _assert_equal(_read(tmp_path), {**_SHARDS[_FIRST], **_SHARDS[_SECOND]})


@pytest.mark.parametrize('named,words', [
    ({'a': _FIRST}, None),
    ({'a': _FIRST, 'b': _FIRST}, 'only one of them has "b"'),
    ({'a': _FIRST, 'b': _SECOND, 'c': _SECOND}, 'only one of them has "c"'),
    ({'a': _FIRST, 'b': '../other.safetensors'}, 'names a file in its folder'),
    ({'a': _FIRST, 'b': '/etc/passwd'}, 'names a file in its folder'),
    ({'a': _FIRST, 'b': '..'}, 'names a file in its folder'),
    ({'a': _FIRST, 'b': 5}, 'names a file in its folder'),
    ({'a': _FIRST, 'b': 'no.safetensors'}, 'no.safetensors: no such file'),
])
def test_an_index_that_does_not_fit_is_refused(tmp_path, named, words):
  _save_shards(tmp_path, _SHARDS, named)
  if words is None:  # The other file is not read.
    assert set(_read(tmp_path)) == {'a'}
    return
  with pytest.raises(ValueError, match=words) as error:
    _read(tmp_path)
  assert '\n' not in str(error.value)


def _changed(**changes):
  return {'x': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24], **changes}}


def _two(first, second):
  return {name: {'dtype': 'F32', 'shape': [(end - start) // 4], 'data_offsets': [start, end]}
          for name, (start, end) in (('x', first), ('y', second))}


@pytest.mark.parametrize('header,words', [
    (_changed(dtype='F4'), "has the dtype 'F4'; allowed are F64, F32"),
    (_changed(dtype=['F32']), 'has the dtype'),
    (_changed(shape=[2, 4]), 'has 24 bytes, which does not fit its shape'),
    (_changed(shape=[-2, -3]), 'does not fit its shape'),
    (_changed(shape=[2.0, 3]), 'does not fit its shape'),
    (_changed(shape=None), 'does not fit its shape'),
    (_changed(shape=[1] * 65 + [6]), 'the shape of "x" is invalid'),
    (_changed(shape=[0, 1 << 70], data_offsets=[0, 0]), 'the shape of "x" is invalid'),
    (_changed(data_offsets=[0, 28]), 'ends at byte 28 of the values, and the file has 24 bytes'),
    (_changed(data_offsets=[0, 20], shape=[5]), 'has 24 bytes of values, and its tensors 20'),
    (_changed(data_offsets=[4, 24], shape=[5]), 'begins at byte 4'),
    (_changed(data_offsets=[-24, 0]), 'the offsets of "x" are invalid'),
    (_changed(data_offsets=[24, 0]), 'the offsets of "x" are invalid'),
    (_changed(data_offsets=[0]), 'the offsets of "x" are invalid'),
    (_changed(data_offsets=[0, 24.0]), 'the offsets of "x" are invalid'),
    (_changed(data_offsets=[False, 24]), 'the offsets of "x" are invalid'),
    ({'x': [0, 24]}, 'the offsets of "x" are invalid'),
    (_two((0, 16), (12, 24)), '"y" begins at byte 12, and the tensor before it ends at byte 16'),
    (_two((0, 8), (12, 24)), '"y" begins at byte 12, and the tensor before it ends at byte 8'),
    (_two((0, 24), (0, 24)), '"y" begins at byte 0, and the tensor before it ends at byte 24'),
    (b'[]', 'is not a JSON object'),
    (b'{"x": ', 'cannot be read as JSON'),
    (b'\xff{}', 'cannot be read as JSON'),
    (b'[' * 100000, 'cannot be read as JSON'),
    (b'{"x": 1, "x": 2}', 'a name occurs twice'),
    (b'{"x": {"shape": 1, "shape": 2}}', 'a name occurs twice'),
    ({}, 'has 24 bytes of values, and its tensors 0'),
])
def test_a_corrupt_header_is_refused_in_one_line(tmp_path, header, words):
  _write(tmp_path / 'x.safetensors', header, bytes(24))
  with pytest.raises(ValueError, match='x.safetensors: .*' + words) as error:
    _read(tmp_path / 'x.safetensors')
  assert '\n' not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize('content,words', [
    (b'', 'it has 0 bytes'), (b'1234567', 'it has 7 bytes'),
    (struct.pack('<Q', 1 << 62) + b'{}', f'header would have {1 << 62} bytes, and the file has 10'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'is not a safetensors file'),
])
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path, content, words):
  (tmp_path / 'model.safetensors').write_bytes(content)
  with pytest.raises(ValueError, match=words):
    _read(tmp_path)


def test_a_file_that_is_cut_off_is_refused_at_any_length(tmp_path):
  _save(tmp_path / 'x', WEIGHTS)
  content = (tmp_path / 'x').read_bytes()
  for length in range(len(content)):
    (tmp_path / 'x').write_bytes(content[:length])
    with pytest.raises(ValueError, match='x: '):
      _read(tmp_path / 'x')


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='give a folder with model.safetensors or model.safe'):
    _read(tmp_path)
