"""PyTorch files are read without PyTorch, and code in their pickles never runs."""

import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_files

from deeplab_tf.checkpoints import torch_reader

WEIGHTS = {
    'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
    'a.half': np.array([1.5, -2], np.float16),
    'a.num_batches_tracked': np.array(3, np.int64),
}


WRITERS = {'zip': torch_files.write, 'older': torch_files.write_older}


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('under', ['', 'state_dict'])
def test_a_state_dict_is_read(tmp_path, under, older):
  torch_files.save(tmp_path / 'x.pth', WEIGHTS, under, older)
  found = torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))
  assert set(found) == set(WEIGHTS)
  for name, value in WEIGHTS.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize('form', WRITERS)
def test_views_of_one_storage_are_read(tmp_path, form):
  storage = np.arange(20, dtype=np.float32)
  code = torch_files.dictionary({
      'transposed': torch_files.tensor('0', storage, [4, 3], [1, 4], 2),
      'empty': torch_files.tensor('0', storage, [0, 3], [3, 1])})
  WRITERS[form](tmp_path / 'x.pth', code, {'0': storage})
  found = torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))
  np.testing.assert_array_equal(found['transposed'], storage[2:14].reshape(3, 4).T)
  assert found['empty'].shape == (0, 3)


class _Hostile:

  def __init__(self, function, *arguments):
    self._call = function, arguments

  def __reduce__(self):
    return self._call


HOSTILE = {
    'system': pickle.dumps(_Hostile(os.system, 'touch hacked'), 2)[2:-1],
    'eval': pickle.dumps(_Hostile(eval, 'open("hacked", "w")'), 2)[2:-1],
    'getattr': pickle.dumps(_Hostile(getattr, 'x', 'upper'), 2)[2:-1],
    'dotted': b'ccollections\nOrderedDict.fromkeys\n(lt\x52',
    'submodule': b'ctorch._utils\nos\n',
    'other_function': b'ctorch._utils\n_rebuild_sparse_tensor\n)R',
    'endless': b'I1\n' * 3 + b'Q',
    'unfinished': b'(X\xff\xff\xff\xff',
    'no_dictionary': b'I5\n',
    'much_memory': b'I5\nr\xff\xff\xff\x7f',
    'later_protocol': b'\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\x7f',
    'number_as_weight': torch_files.dictionary({'x': b'I5\n'}),
    'dictionary_with_own_items': torch_files.dictionary({'x': b'I5\n'})
                                 + b'}X\x05\x00\x00\x00itemsI1\nsb',
    'more_taken_than_made': b'}00',
    'unknown_place': b'}h\x05K\x01s',
    'no_mark': b'K\x01t',
}


@pytest.mark.parametrize('form', WRITERS)
@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_run(name, form, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  WRITERS[form](tmp_path / 'x.pth', HOSTILE[name], {})
  with pytest.raises(ValueError, match='x.pth: (cannot be read|holds no state dict)') as error:
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))
  assert '\n' not in str(error.value)
  assert os.listdir(tmp_path) == ['x.pth']


@pytest.mark.parametrize('form', WRITERS)
@pytest.mark.parametrize('shape,stride,offset', [
    ([3, 5], [5, 1], 0), ([3], [100], 0), ([3], [1], 10), ([2], [-1], 3), ([1 << 30], [0], 0),
    ([2, 2], [1], 0)])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, form, shape, stride, offset):
  storage = np.arange(12, dtype=np.float32)
  code = torch_files.dictionary({'x': torch_files.tensor('0', storage, shape, stride, offset)})
  WRITERS[form](tmp_path / 'x.pth', code, {'0': storage})
  with pytest.raises(ValueError, match='a tensor (larger|of unknown)'):
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


_DEEPER = {'one': b'\x85', 'two': b'K\x01\x86', 'three': b'K\x01K\x01\x87',
           'between': b'N0\x85', 'after_mark': b'(1\x85', 'from_memo': b'\x85q\x010h\x01',
           'parameter': b'\x85q\x010ctorch._utils\n_rebuild_parameter\nh\x01\x85R'}


@pytest.mark.parametrize('form', WRITERS)
@pytest.mark.parametrize('deeper', _DEEPER)
def test_deeply_nested_names_are_refused(tmp_path, form, deeper):
  for count, words in ((1000, "found \\['tuple'\\]"), (5000, 'a tuple of more than'),
                       (300000, 'a tuple of more than')):
    WRITERS[form](tmp_path / 'x.pth', b'})' + count * _DEEPER[deeper] + b'K\x01s', {})
    with pytest.raises(ValueError, match=f'x.pth: .*{words}') as error:
      torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))
    assert len(str(error.value)) < 300


def test_tuples_that_a_mark_collects_are_nested_too(tmp_path):
  for code in (b'(' * 5000 + b't' * 5000, b'(' + b'K\x01' * 5000 + b't', b')' + b'2\x86' * 70):
    torch_files.write(tmp_path / 'x.pth', b'}' + code + b'K\x01s', {})
    with pytest.raises(ValueError, match='a tuple of more than 4096 values'):
      torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


def test_a_pickle_cannot_change_what_it_may_call(tmp_path):
  # A function that returns what it was given as a default: a tuple in it would not be counted.
  step = (b'\x85q\x010ctorch._utils\n_rebuild_parameter\nN}X\x0c\x00\x00\x00__defaults__h\x01\x85s'
          b'\x86b)R')
  torch_files.write(tmp_path / 'x.pth', b'})' + step * 20000 + b'K\x01s', {})
  with pytest.raises(ValueError, match='cannot be read'):
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


def test_an_endless_text_is_not_written_into_an_error(tmp_path):
  endless = []
  for _ in range(70):
    endless = [endless, endless]
  code = pickle.dumps(endless, 2)[2:-1]
  pid = b'(' + code + b'NNNK\x01tQ'
  number = pickle.dumps(1 << 20000, 2)[2:-1]
  for written, version, words in (
      (pid, 1001, 'unknown reference list'),
      (b'}' + number + b'Ns', 1001, "found \\['int'\\]"), (b'}', endless, 'its version is list')):
    torch_files.write_older(tmp_path / 'x.pth', written, {}, version=version)
    with pytest.raises(ValueError, match=f'x.pth: .*{words}'):
      torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('one_by_one', [False, True])
def test_many_tensors_are_not_deep(tmp_path, one_by_one):
  value = np.arange(5, dtype=np.float32)
  items = {str(i): torch_files.tensor('0', value) for i in range(3000)}
  code = torch_files.dictionary(items)
  if one_by_one:
    code = b'}' + b''.join(pickle.dumps(name, 2)[2:-1] + item + b's'
                           for name, item in items.items())
  torch_files.write(tmp_path / 'x.pth', code, {'0': value})
  assert len(torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))) == 3000


def test_storages_that_are_missing_or_short_are_refused(tmp_path):
  path, value = tmp_path / 'x.pth', np.zeros(100, np.float32)
  code = torch_files.dictionary({'x': torch_files.tensor('0', value)})
  torch_files.write(path, code, {})
  with pytest.raises(ValueError, match='cannot be read as a PyTorch file'):
    torch_reader.read_torch_weights(str(path))
  torch_files.write(path, code, {'0': value[:50]})
  with pytest.raises(ValueError, match='data/0 is not 100 values of float32'):
    torch_reader.read_torch_weights(str(path))


@pytest.mark.parametrize('member', ['data.pkl', 'byteorder', 'data/0'])
def test_compressed_members_are_refused_and_not_unpacked(tmp_path, member):
  path, value = tmp_path / 'x.pth', np.zeros(1 << 24, np.float32)
  code = torch_files.dictionary({'x': torch_files.tensor('0', value)}) + bool(
      member == 'data.pkl') * (1 << 25) * b')'
  torch_files.write(path, code, {'0': value}, member,
                    byteorder=b'\0' * (1 << 26) if member == 'byteorder' else b'little')
  tracemalloc.start()
  with pytest.raises(ValueError, match=f'{member} is compressed'):
    torch_reader.read_torch_weights(str(path))
  assert tracemalloc.get_traced_memory()[1] < 1 << 24
  tracemalloc.stop()


@pytest.mark.parametrize('member,stated', [('data/0', 4000), ('data.pkl', 4000), ('byteorder', 5)])
def test_a_directory_with_other_sizes_than_are_stored_is_refused(tmp_path, member, stated):
  path = tmp_path / 'x.pth'
  code = torch_files.dictionary({'x': torch_files.tensor('0', np.zeros(1000, np.float32))})
  torch_files.write(path, code, {'0': np.zeros(2, np.float32)})
  torch_files.state_size(path, member, stated)
  with pytest.raises(ValueError, match=f'{member} is compressed or corrupt'):
    torch_reader.read_torch_weights(str(path))


def test_only_little_endian_archives_are_read(tmp_path):
  code = torch_files.dictionary({'x': torch_files.tensor('0', np.zeros(2, np.float32))})
  for byteorder, words in ((b'big', 'byte order is not little'),
                           (b'little and more', 'byteorder has 15 bytes; at most 8 are read')):
    torch_files.write(tmp_path / 'x.pth', code, {'0': np.zeros(2, np.float32)}, byteorder=byteorder)
    with pytest.raises(ValueError, match=words):
      torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('form', WRITERS)
def test_a_storage_that_comes_short_is_refused(tmp_path, form, monkeypatch):
  path, value = tmp_path / 'x.pth', np.zeros(100, np.float32)
  WRITERS[form](path, torch_files.dictionary({'x': torch_files.tensor('0', value)}), {'0': value})
  kind = {'zip': torch_reader._Archive, 'older': torch_reader._PickleSequence}[form]
  read = kind.read
  monkeypatch.setattr(kind, 'read', lambda self, storage: read(self, storage)[:-4])
  with pytest.raises(ValueError, match='storage 0 has 396 bytes and not 400'):
    torch_reader.read_torch_weights(str(path))


@pytest.mark.parametrize('changes,error', [
    ({'machine': b'\x89'}, 'its byte order is not little'),
    ({'version': 1002}, 'its version is 1002; only 1001 is known'),
    ({'magic': 5}, 'neither a zip archive nor of the form before'),
    ({'arrays': {}}, 'its list of storages does not fit'),
    ({'arrays': {'0': np.zeros(5, np.float32), '1': np.zeros(2)}}, 'its list of storages does not'),
    ({'arrays': {'0': np.zeros(4, np.float32)}}, 'storage 0 has 4 values and not 5'),
    ({'arrays': {'0': np.zeros(5, np.float16)}}, 'it ends within storage 0'),
])
def test_parts_of_an_older_file_that_do_not_fit_are_refused(tmp_path, changes, error):
  value = np.zeros(5, np.float32)
  code = torch_files.dictionary({'x': torch_files.tensor('0', value, more=b'N')})
  torch_files.write_older(tmp_path / 'x.pth', **{'code': code, 'arrays': {'0': value}, **changes})
  with pytest.raises(ValueError, match=error):
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


def test_a_storage_that_is_part_of_another_is_refused(tmp_path):
  value = np.zeros(5, np.float32)
  part = pickle.dumps(('1', 0, 5), 2)[2:-1]
  code = torch_files.dictionary({'x': torch_files.tensor('0', value, more=part)})
  torch_files.write_older(tmp_path / 'x.pth', code, {'0': value})
  with pytest.raises(ValueError, match='a storage that is part of another'):
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))


def test_a_storage_larger_than_its_file_takes_no_memory(tmp_path):
  path, value = tmp_path / 'x.pth', np.zeros(5, np.float32)
  torch_files.save(path, {'x': value}, older=True)
  size, huge = b'J' + struct.pack('<i', 5), 1 << 45
  data = path.read_bytes().replace(size, b'I%d\n' % huge).replace(
      struct.pack('<q', 5) + value.tobytes(), struct.pack('<q', huge) + value.tobytes())
  path.write_bytes(data)
  tracemalloc.start()
  with pytest.raises(ValueError, match='it ends within storage 0'):
    torch_reader.read_torch_weights(str(path))
  assert tracemalloc.get_traced_memory()[1] < 1 << 24
  tracemalloc.stop()


def test_many_views_take_the_memory_of_their_storage(tmp_path):
  path, value = tmp_path / 'x.pth', np.zeros(1 << 20, np.float32)
  code = torch_files.dictionary({str(i): torch_files.tensor('0', value, more=b'N')
                                 for i in range(100)})
  torch_files.write_older(path, code, {'0': value})
  tracemalloc.start()
  assert len(torch_reader.read_torch_weights(str(path))) == 100
  assert tracemalloc.get_traced_memory()[1] < 5 * value.nbytes
  tracemalloc.stop()


def test_what_is_no_such_file_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such file'):
    torch_reader.read_torch_weights(str(tmp_path / 'x.pth'))
  with pytest.raises(FileNotFoundError, match='no such file'):
    torch_reader.read_torch_weights(str(tmp_path))
  (tmp_path / 'old.pth').write_bytes(pickle.dumps({}))
  with pytest.raises(ValueError, match='neither a zip archive nor of the form before'):
    torch_reader.read_torch_weights(str(tmp_path / 'old.pth'))
  with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
    archive.writestr('x', 'y')
  with pytest.raises(ValueError, match='0 files data.pkl'):
    torch_reader.read_torch_weights(str(tmp_path / 'other.zip'))


@pytest.mark.parametrize('older', [False, True])
def test_corruption_anywhere_is_one_error(tmp_path, older):
  path = tmp_path / 'x.pth'
  torch_files.save(path, WEIGHTS, older=older)
  data, rng = path.read_bytes(), np.random.default_rng(0)
  for _ in range(150):
    place = rng.integers(len(data))
    corrupt = data[:place] if rng.random() < 0.3 else (
        data[:place] + bytes([rng.integers(256)]) + data[place + 1:])
    path.write_bytes(corrupt)
    try:
      torch_reader.read_torch_weights(str(path))
    except ValueError as error:
      assert str(path) in str(error) and '\n' not in str(error)
