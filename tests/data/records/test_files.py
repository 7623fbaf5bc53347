"""Record files: their classes and names, and what prevents opening them."""

import gzip
import os
import zlib

import pytest
import tensorflow as tf

from deeplab_tf import cli
from deeplab_tf.classes import ImageClasses
from deeplab_tf.data import build, catalog, errors, readers
from deeplab_tf.data.records import classes, files, tfrecord
from deeplab_tf.user_errors import DataError, HostError, MissingFileError

INFO = catalog.built_in('shapes')


@pytest.fixture(name='records')
def _records(tmp_path):
  folder = tmp_path / 'records'
  assert cli.run(build.main, ['--dataset=shapes', '--split=val', '--num_images=3',
                              '--num_shards=1', f'--output_dir={folder}']) == 0
  return folder / 'val-00000-of-00001.tfrecord'


def options_of(pattern, extra=''):
  from google.protobuf import text_format

  from deeplab_tf.protos import config_pb2
  return text_format.Parse(f'train_dataset_options {{ dataset: "shapes" file_pattern: "{pattern}" '
                           f'{extra} }}', config_pb2.ExperimentOptions()).train_dataset_options


def opened(pattern, info=INFO, extra=''):
  return readers.open_source(options_of(pattern, extra), info, 'train_dataset_options')


# --- Classes ----------------------------------------------------------------------------------


def changed(**fields):
  first, *rest = INFO.categories
  return catalog.dataclasses.replace(INFO, categories=(first._replace(**fields), *rest))


def test_every_record_states_its_classes(records, capsys):
  for record in tf.data.TFRecordDataset(str(records)):
    features = tf.train.Example.FromString(record.numpy()).features.feature
    assert features[classes.FEATURE].bytes_list.value == [classes.describe(INFO)]
  assert opened(records).count() == 3
  assert 'note: ' not in capsys.readouterr().err


@pytest.mark.parametrize('extra', ['', 'max_damaged_images: 1'])
@pytest.mark.parametrize('fields, words', [
    ({'name': 'moon'}, '"moon", {own},'), ({'isthing': False}, '"{name}", stuff,'),
    ({'class_id': 77}, 'none')])
def test_a_contradiction_names_a_class(records, fields, words, extra):
  first = INFO.categories[0]
  own = 'a thing' if first.isthing else 'stuff'
  words = words.format(own=own, name=first.name)
  with pytest.raises(DataError, match=(
      f'{records}: class {first.class_id} is "{first.name}", {own}, in the records, and {words}')):
    opened(records, changed(**fields), extra)


def test_another_label_divisor_is_a_contradiction(records):
  other = catalog.dataclasses.replace(INFO, label_divisor=INFO.label_divisor * 2)
  with pytest.raises(DataError, match=f'label_divisor is {INFO.label_divisor} in the records'):
    opened(records, other)


def test_other_colors_and_category_ids_are_none(records):
  assert opened(records, changed(color=(1, 2, 3), category_id=999)).count() == 3


def test_records_that_state_nothing_are_read_with_one_note(records, capsys):
  path = records.with_name('old.tfrecord')
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in tf.data.TFRecordDataset(str(records)):
      example = tf.train.Example.FromString(record.numpy())
      del example.features.feature[classes.FEATURE]
      writer.write(example.SerializeToString())
  for _ in range(2):
    assert opened(path, changed(name='moon')).count() == 3
  assert capsys.readouterr().err.count('note: ') == 1


def test_classes_of_whole_images_are_counted():
  stated = classes.describe(ImageClasses('image_folders', ('cat', 'dog')))
  numbers = ImageClasses('imagenet', ('1', '2', '3'))
  assert classes.difference(stated, numbers) == (
      'the records are of 2 classes, "cat" to "dog", and data set "imagenet" has 3')
  assert classes.difference(stated, ImageClasses('imagenet', ('1', '2'))) is None
  assert 'not stated' in classes.difference(b'{"classes": 3}', INFO)


# --- Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize('folder', ['a[1]', 'b*', 'c?', 'd e', 'f{g}', 'h\\i', '\u00fc'])
def test_any_character_may_stand_in_a_path(tmp_path, records, folder):
  for name in (folder, 'a1', 'bx', 'cx'):
    (tmp_path / name).mkdir()
  target = tmp_path / folder / 'val-00000-of-00001.tfrecord'
  records.rename(target)
  (tmp_path / 'a1' / 'val-1').write_bytes(b'other')
  for pattern in ('val-*', target.name):
    assert tfrecord.matching_files([str(tmp_path / folder / pattern)]) == [str(target)]


def test_brackets_in_a_name_are_a_range_or_themselves(tmp_path):
  for name in ('x-0', 'x-1', 'y[0]'):
    (tmp_path / name).write_bytes(b'')
  found = {pattern: [os.path.basename(file) for file in sorted(
      files.matching(str(tmp_path / pattern)))] for pattern in ('x-[01]', 'y[0]', 'y[0]*')}
  assert found == {'x-[01]': ['x-0', 'x-1'], 'y[0]': ['y[0]'], 'y[0]*': ['y[0]']}


def test_hidden_files_match_no_pattern(records):
  for name in ('._val-00000-of-00001.tfrecord', '.DS_Store', 'Thumbs.db'):
    records.with_name(name).write_bytes(b'\0\5\26\7')
  for pattern in (f'{records.parent}/*', f'{records.parent.parent}/*/*'):
    assert tfrecord.matching_files([pattern]) == [str(records)]


# --- Files that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize('kind, pack', [('GZIP', gzip.compress), ('ZLIB', zlib.compress)])
def test_compressed_records_are_named_with_a_remedy(records, kind, pack):
  path = records.with_name('packed.tfrecord')
  path.write_bytes(pack(records.read_bytes()))
  with pytest.raises(DataError, match=f'{path}: is compressed \\({kind}\\).*unpack it'):
    opened(path)
  with tf.io.TFRecordWriter(str(path), kind) as writer:
    writer.write(b'x')
  with pytest.raises(DataError, match=f'is compressed \\({kind}\\)'):
    tfrecord.matching_files([str(path)])


@pytest.mark.parametrize('error, reason', [
    (tf.errors.PermissionDeniedError, 'Permission denied'),
    (tf.errors.ResourceExhaustedError, 'Too many open files')])
def test_what_cannot_be_opened_is_not_called_corrupt(records, monkeypatch, error, reason):

  def refuse(*args, **kwargs):
    raise error(None, None, f'{records}; {reason}')

  monkeypatch.setattr(tf.io.gfile, 'GFile', refuse)
  with pytest.raises(HostError, match=f'^{records}: cannot be opened: {reason}$'):
    opened(records)


def test_a_file_that_is_gone_is_missing(records):
  with pytest.raises(MissingFileError, match='gone: No such file'):
    files.index_records(f'{records}.gone')


@pytest.mark.parametrize('path', ['/data/a b;c.jpg', '/x/[1]*.png'])
def test_failures_inside_the_pipeline_name_the_file(path):
  error = tf.errors.PermissionDeniedError(
      None, None, '{{function_node __wrapped__}} ' + f'{path}; Permission denied [Op:ReadFile]')
  assert errors.describe_data_error(error) == f'{path}: cannot be opened: Permission denied'
