"""DeepLab2's records are read, and corrupt ones end in one line that names the file."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data import catalog, errors, pipeline, readers
from deeplab_tf.data.image_normalization import SYMMETRIC
from deeplab_tf.data.records import files, tfrecord
from deeplab_tf.data.sources import _shape_scenes

INFO = catalog.built_in('shapes')


def encoded(image, kind='png'):
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, kind)
  return stream.getvalue()


def example(index=0, **changes):
  image, label = _shape_scenes.generate('train', index)
  values = {'name': f'photo{index}', 'encoded': encoded(image), 'format': 'png',
            'height': 128, 'width': 160, 'label': label}
  return tfrecord.SourceExample(**{**values, **changes})


def write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record if isinstance(record, bytes) else tfrecord.serialize(record))
  return path


def read_all(experiment, pattern):
  config = experiment('', f'dataset: "shapes" crop_size: [128, 160] file_pattern: "{pattern}" '
                      'batch_size: 1')
  return list(pipeline.eval_dataset(config, INFO))


def message_of(experiment, pattern):
  """The one line that the user gets, from opening the files or from reading them."""
  try:
    read_all(experiment, pattern)
  except (ValueError, FileNotFoundError) as error:
    return str(error)
  except tf.errors.OpError as error:
    return errors.describe_data_error(error)
  return 'no error'


# --- Round trip -------------------------------------------------------------------------------


def test_round_trip(tmp_path, experiment):
  write(tmp_path / 'a', [example(0), example(1)])
  found = read_all(experiment, tmp_path / 'a')
  for index, batch in enumerate(found):
    image, label = _shape_scenes.generate('train', index)
    np.testing.assert_allclose(SYMMETRIC.invert(batch.images[0]), image, atol=1e-4)
    np.testing.assert_array_equal(batch.label[0], label)
    assert batch.name.numpy() == [f'photo{index}'.encode()]


def test_record_written_field_by_field_as_deeplab2_does_is_read(tmp_path, experiment):
  image, label = _shape_scenes.generate('train', 3)
  bytes_of = {'image/encoded': encoded(image, 'jpeg'), 'image/filename': b'000000000009',
              'image/format': b'jpeg', 'image/segmentation/class/encoded': label.tobytes(),
              'image/segmentation/class/format': b'raw'}
  numbers = {'image/height': 128, 'image/width': 160, 'image/channels': 3}
  feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
             for key, value in bytes_of.items()}
  feature.update({key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                  for key, value in numbers.items()})
  record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
  (batch,) = read_all(experiment, write(tmp_path / 'a', [record]))
  np.testing.assert_array_equal(batch.label[0], label)


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'LA', 'P'])
def test_other_color_modes_become_rgb(tmp_path, experiment, mode):
  picture = Image.fromarray(_shape_scenes.generate('train', 0)[0]).convert(mode)
  stream = io.BytesIO()
  picture.save(stream, 'png')
  (batch,) = read_all(experiment, write(tmp_path / 'a', [example(encoded=stream.getvalue())]))
  assert batch.images.shape == (1, 128, 160, 3)


def test_counting(tmp_path):
  assert files.count_records(write(tmp_path / 'a', [example(i) for i in range(3)])) == 3
  assert files.count_records(write(tmp_path / 'b', [])) == 0


# --- Files ------------------------------------------------------------------------------------


def test_empty_shards_are_legal_but_not_all_of_them(tmp_path, experiment):
  write(tmp_path / 'a-0', [])
  assert 'all 1 matching files are empty' in message_of(experiment, tmp_path / 'a-*')
  write(tmp_path / 'a-1', [example()])
  assert len(read_all(experiment, tmp_path / 'a-*')) == 1


def test_pattern_that_matches_nothing(tmp_path, experiment):
  assert f'"{tmp_path}/b-*" matches no file' in message_of(experiment, tmp_path / 'b-*')


@pytest.mark.parametrize('keep', [5, 1000, -1, -6])
def test_truncated_file_is_named(tmp_path, experiment, keep):
  write(tmp_path / 'a-0', [example(0)])
  path = write(tmp_path / 'a-1', [example(1), example(2)])
  path.write_bytes(path.read_bytes()[:keep])
  message = message_of(experiment, tmp_path / 'a-*')
  assert str(path) in message and 'truncated' in message and '\n' not in message


@pytest.mark.parametrize('position', [60, -2000])
def test_changed_bytes_are_found(tmp_path, experiment, position):
  write(tmp_path / 'a-0', [example(0)])
  path = write(tmp_path / 'a-1', [example(1), example(2)])
  content = bytearray(path.read_bytes())
  content[position] ^= 255
  path.write_bytes(content)
  message = message_of(experiment, tmp_path / 'a-*')
  assert str(path) in message and 'corrupt' in message


def test_large_files_are_searched_only_after_a_failure(tmp_path, experiment, monkeypatch):
  monkeypatch.setattr(readers, '_CHECKED_BYTES', 0)
  path = write(tmp_path / 'a', [example(1), example(2)])
  path.write_bytes(path.read_bytes()[:-1])
  config = experiment('', f'dataset: "shapes" crop_size: [128, 160] file_pattern: "{path}"')
  dataset = pipeline.eval_dataset(config, INFO)
  assert pipeline.count_examples(config.eval_dataset_options) is None
  with pytest.raises(tf.errors.OpError) as error:
    list(dataset)
  assert f'{path}: is truncated or corrupt: record 1' in errors.describe_data_error(error.value)


@pytest.mark.parametrize('content', [b'just some text, and a bit more of it', b'x'])
def test_other_files_are_refused(tmp_path, experiment, content):
  path = tmp_path / 'notes.txt'
  path.write_bytes(content)
  assert str(path) in message_of(experiment, path)


def test_other_schema_is_named_with_its_features(tmp_path, experiment):
  feature = {'pixels': tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'1']))}
  record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
  for name, content in (('a', record), ('b', b'no example at all')):
    path = write(tmp_path / name, [content])
    message = message_of(experiment, path)
    assert message.startswith(f'{path}: its records are not those of deeplab_tf.data.build')
    # Behind a good record it is found on the way.
    path = write(tmp_path / f'{name}2', [example(), content])
    assert str(path) in message_of(experiment, path)


# --- Records ----------------------------------------------------------------------------------


def wrong_class():
  label = _shape_scenes.generate('train', 0)[1].copy()
  label[5, 5] = 42 * 256 + 1
  return label


@pytest.mark.parametrize('changes, message', [
    ({'encoded': b'this is no image'}, 'photo0: the image is neither JPEG nor PNG'),
    ({'encoded': encoded(np.zeros((128, 160, 3), np.uint8))[:60]}, '(photo0) cannot be decoded'),
    ({'encoded': b''}, 'a record has no image (feature image/encoded)'),
    ({'label': None}, 'photo0: the record has no label'),
    ({'label': np.zeros((128, 161), np.int32)}, 'the image is 128x160, but the record is 128x160 '
     'with a label of 82432 bytes'),
    ({'height': 127}, 'the image is 128x160, but the record is 127x160'),
    ({'label': wrong_class()}, 'photo0: the label holds 10753, which is class 42: data set '
     '"shapes" has no such class'),
    ({'label': np.full((128, 160), -7, np.int32)}, 'photo0: the label holds -7'),
])
def test_wrong_record_is_one_line_with_file_and_image(tmp_path, experiment, changes, message):
  path = write(tmp_path / 'a-0', [example(1), example(0, **changes)])
  found = message_of(experiment, tmp_path / 'a-*')
  assert found.startswith(f'{path}: ') and message in found and '\n' not in found


def test_semantic_only_records_are_refused(tmp_path, experiment):
  record = tf.train.Example.FromString(tfrecord.serialize(example()))
  field = record.features.feature['image/segmentation/class/format']
  field.bytes_list.value[:] = [b'png']
  path = write(tmp_path / 'a', [record.SerializeToString()])
  assert 'format "png", which holds no instances' in message_of(experiment, path)


def test_faults_of_images_read_without_records(panoptic_folder, experiment):
  (panoptic_folder.image_dir / 'photo1.png').write_text('this is no image')
  panoptic_folder.segment()['id'] += 1
  panoptic_folder.save()
  found = set()
  for batch_size in (1, 1):
    config = experiment('', panoptic_folder.options().replace(
        'batch_size: 2', f'batch_size: {batch_size}'))
    with pytest.raises(tf.errors.OpError) as error:
      list(pipeline.eval_dataset(config, catalog.from_config(config)))
    found.add(errors.describe_data_error(error.value))
    panoptic_folder.segment()['id'] -= 1
    panoptic_folder.save()
  assert any('photo0.png: segment id 12 (30 pixels) is not in the JSON' in f for f in found)
  assert any('photo1.png: the image is neither JPEG nor PNG' in f for f in found)
