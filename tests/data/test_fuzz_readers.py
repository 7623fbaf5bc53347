"""Records and image files with any content are read, or skipped and counted, or refused."""

import contextlib
import io
import struct

import hostile_images
import numpy as np
import programs
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_lib

from deeplab_tf.data import catalog, corrupt, errors, pipeline, readers
from deeplab_tf.data.records import files, tfrecord
from deeplab_tf.data.sources import _image_files, _panoptic_format
from deeplab_tf.formats import rgb_images
from deeplab_tf.protos import config_pb2, data_pb2
from deeplab_tf.user_errors import UserError

INFO = catalog.built_in('shapes')
HEIGHT, WIDTH = 10, 12
OPTIONS = 'dataset: "shapes" crop_size: [16, 16] max_thing_id: 8 batch_size: 2 '
CLASS_OPTIONS = ('dataset: "imagenet" crop_size: [16, 16] batch_size: 2 '
                 'imagenet { num_classes: 5 label_offset: 1 } ')
_FUZZ = settings(deadline=None, max_examples=120, derandomize=True, database=None)


def features(**changes):
  """A sound record, whose features are bytes or numbers; None leaves one out."""
  fields = {'image/encoded': hostile_images.sound('png', (WIDTH, HEIGHT)),
            'image/filename': b'photo', 'image/format': b'png', 'image/height': HEIGHT,
            'image/width': WIDTH, 'image/class/label': 3,
            'image/segmentation/class/encoded': label(256),
            'image/segmentation/class/format': b'raw'}
  names = {name.replace('/', '_'): name for name in fields}
  fields.update({names[name]: value for name, value in changes.items()})
  return fields


def label(value, pixels=HEIGHT * WIDTH):
  return np.full(pixels, value, '<i4').tobytes()


def record(fields):
  made = {name: _feature(value) for name, value in fields.items() if value is not None}
  return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def _feature(value):
  values = value if isinstance(value, list) else [value]
  if all(isinstance(v, bytes) for v in values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
  if all(isinstance(v, int) for v in values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
  return tf.train.Feature(float_list=tf.train.FloatList(value=values))


# What is wrong with the image, with any record, and with the label of a panoptic record.
HOSTILE_IMAGES = {
    'encoded_number': features(image_encoded=7),
    'encoded_twice': features(image_encoded=[b'a', b'b']),
    'encoded_none': features(image_encoded=None),
    'encoded_empty': features(image_encoded=b''),
    'encoded_text': features(image_encoded=b'text'),
    'encoded_start': features(image_encoded=b'\xff\xd8\xff'),
    'encoded_gif': features(image_encoded=hostile_images.sound('gif')),
    'encoded_cut': features(image_encoded=hostile_images.sound('jpeg')[:300]),
    'name_number': features(image_filename=7),
    **{name: features(image_encoded=hostile_images.TOO_LARGE[name]())
       for name in ('png_header', 'png_zeros', 'jpeg_header')},
}
HOSTILE_LABELS = {
    'height_text': features(image_height=b'10'),
    'height_float': features(image_height=10.0),
    'height_negative': features(image_height=-HEIGHT),
    'height_huge': features(image_height=2**63 - 1),
    'height_wraps': features(image_height=2**32 + HEIGHT),
    'width_none': features(image_width=None),
    'width_list': features(image_width=[WIDTH, WIDTH]),
    'other_size': features(image_encoded=hostile_images.sound('png', (WIDTH, HEIGHT + 1))),
    'label_none': features(image_segmentation_class_encoded=None),
    'label_number': features(image_segmentation_class_encoded=5),
    'label_short': features(image_segmentation_class_encoded=label(256)[:-1]),
    'label_long': features(image_segmentation_class_encoded=label(256) + b'1234'),
    'label_class': features(image_segmentation_class_encoded=label(77 * 256)),
    'label_negative': features(image_segmentation_class_encoded=label(-1)),
    'label_largest': features(image_segmentation_class_encoded=label(2**31 - 1)),
    'label_smallest': features(image_segmentation_class_encoded=label(-2**31)),
    'format_png': features(image_segmentation_class_format=b'png'),
    'format_odd': features(image_segmentation_class_format=b'\xff\x1b[31m"\\\n :data>>'),
    'format_number': features(image_segmentation_class_format=1),
    'name_odd': features(image_filename=b'\xff\xfe\0"\n', image_height=1),
    'name_odd_wrong_kind': features(image_filename=b'\xff\xfe', image_height=b''),
    'name_long': features(image_filename=b'a' * 100000, image_height=1),
}
HOSTILE_CLASSES = {
    'class_none': features(image_class_label=None),
    'class_text': features(image_class_label=b'3'),
    'class_twice': features(image_class_label=[3, 3]),
    'class_zero': features(image_class_label=0),
    'class_huge': features(image_class_label=2**63 - 1),
    'class_negative': features(image_class_label=-2**63),
}
# Bytes that are no record of an image at all.
NO_RECORDS = {'nothing': b'', 'text': b'no example at all', 'proto': b'\x0a\xff\xff\xff\xff\x0f'}


def write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for content in records:
      writer.write(content)


def is_one_line(line):
  return line.isprintable() and len(line) < 5000


# --- Through the pipeline ---------------------------------------------------------------------


@pytest.mark.parametrize('options, hostile', [
    (OPTIONS, {**HOSTILE_IMAGES, **HOSTILE_LABELS}),
    (CLASS_OPTIONS, {**HOSTILE_IMAGES, **HOSTILE_CLASSES}),
], ids=['panoptic', 'classes'])
def test_all_that_is_wrong_is_skipped_and_counted(tmp_path, experiment, capsys, options, hostile):
  corrupt._logs.clear()
  records = {name: record(fields) for name, fields in hostile.items()} | NO_RECORDS
  sound = [features(image_filename=b'sound%d' % i) for i in range(3)]
  path = tmp_path / 'a'
  write(path, [record(sound[0]), record(sound[1]), *records.values(), record(sound[2])])
  text = f'{options} file_pattern: "{path}" max_damaged_images: {len(records)}'
  config = experiment(text, text)
  info = catalog.from_config(config)
  names = [name for batch in pipeline.eval_dataset(config, info) for name in batch.name.numpy()]
  assert names == [b'sound0', b'sound1', b'sound2']
  lines = [line for line in capsys.readouterr().err.split('\n') if 'left out' in line]
  assert len(lines) == len(records)
  for line in lines:
    assert line.startswith(f'WARNING: left out: {path}') and is_one_line(line)
  if options is OPTIONS:
    for images, _ in pipeline.train_dataset(config, info, 'mask', 1).take(len(records)):
      assert np.all(np.isfinite(images))


@pytest.fixture(name='reading', scope='module')
def fixture_reading(tmp_path_factory):
  """A file, and the evaluation data set that reads whatever is in it by then."""
  path = tmp_path_factory.mktemp('records') / 'a'
  write(path, [record(features())])
  text = f'eval_dataset_options {{ {OPTIONS} file_pattern: "{path}" }}'
  config = text_format.Parse(text, config_pb2.ExperimentOptions())
  return path, pipeline.eval_dataset(config, INFO)


@pytest.mark.parametrize('content', [
    *map(record, {**HOSTILE_IMAGES, **HOSTILE_LABELS}.values()), *NO_RECORDS.values()],
    ids=[*HOSTILE_IMAGES, *HOSTILE_LABELS, *NO_RECORDS])
def test_by_default_each_is_one_line(reading, content):
  path, dataset = reading
  write(path, [record(features()), content])
  with pytest.raises(tf.errors.OpError) as error:
    list(dataset)
  line = errors.describe_data_error(error.value)
  assert line.startswith(f'{path}: ') and is_one_line(line)


# --- Instance masks ---------------------------------------------------------------------------

INSTANCE_INFO = catalog.built_in('coco_instances')
# Rows 4 to 6 of 10 x 12 pixels.
COUNTS = mask_lib.encode(np.asfortranarray(np.repeat(
    np.isin(np.arange(HEIGHT), [4, 5, 6])[:, None], WIDTH, 1), np.uint8))['counts']


def instance_features(**changes):
  """A sound record of two instances; see `features`."""
  fields = features(image_segmentation_class_encoded=None, image_segmentation_class_format=None)
  fields.update({'image/object/mask/format': b'rle', 'image/object/mask/counts': [COUNTS, COUNTS],
                 'image/object/class/label': [1, 80], 'image/object/is_crowd': [0, 1],
                 'image/object/area': [36.0, 36.0]})
  names = {name.replace('/', '_'): name for name in fields}
  fields.update({names[name]: value for name, value in changes.items()})
  return fields


HOSTILE_INSTANCES = {
    'format_none': instance_features(image_object_mask_format=None),
    'format_odd': instance_features(image_object_mask_format=b'\xff\x1b[31m"\\\n :data>>'),
    'format_number': instance_features(image_object_mask_format=1),
    'counts_none': instance_features(image_object_mask_counts=None),
    'counts_number': instance_features(image_object_mask_counts=[1, 2]),
    'counts_one': instance_features(image_object_mask_counts=[COUNTS]),
    'counts_empty': instance_features(image_object_mask_counts=[COUNTS, b'']),
    'counts_cut': instance_features(image_object_mask_counts=[COUNTS, COUNTS[:-1]]),
    'counts_odd': instance_features(image_object_mask_counts=[COUNTS, b'\xff\0\n :data>>']),
    'counts_long': instance_features(image_object_mask_counts=[COUNTS, b'1' * 10**6]),
    'counts_far': instance_features(image_object_mask_counts=[COUNTS, b'oooooo0']),
    'counts_negative': instance_features(image_object_mask_counts=[COUNTS, b'O0h3']),
    'class_none': instance_features(image_object_class_label=None),
    'class_text': instance_features(image_object_class_label=[b'1', b'1']),
    'class_zero': instance_features(image_object_class_label=[1, 0]),
    'class_huge': instance_features(image_object_class_label=[1, 2**63 - 1]),
    'crowd_none': instance_features(image_object_is_crowd=None),
    'crowd_two': instance_features(image_object_is_crowd=[0, 2]),
    'area_none': instance_features(image_object_area=None),
    'area_nan': instance_features(image_object_area=[1.0, float('nan')]),
    'area_infinite': instance_features(image_object_area=[1.0, float('inf')]),
    'height_huge': instance_features(image_height=2**63 - 1),
    'width_none': instance_features(image_width=None),
    'other_size': instance_features(
        image_encoded=hostile_images.sound('png', (WIDTH, HEIGHT + 1))),
    'panoptic': features(),
    'name_odd': instance_features(image_filename=b'\xff\xfe\0"\n', image_height=1),
}


@pytest.fixture(name='instance_source', scope='module')
def fixture_instance_source(tmp_path_factory):
  """Reads record number n, for each of HOSTILE_INSTANCES, behind a sound one."""
  path = tmp_path_factory.mktemp('instances') / 'a'
  write(path, map(record, [instance_features(), *HOSTILE_INSTANCES.values()]))
  options = text_format.Parse(
      f'dataset: "coco_instances" file_pattern: "{path}" max_damaged_images: 99',
      data_pb2.DatasetOptions())
  source = readers.open_source(options, INSTANCE_INFO, 'dataset_options')
  return path, source, [address.numpy() for address, in source.in_order()]


@pytest.mark.parametrize('number', range(len(HOSTILE_INSTANCES)), ids=HOSTILE_INSTANCES)
def test_each_wrong_record_of_instances_is_one_line(instance_source, number):
  path, source, addresses = instance_source
  sound = source.load(tf.constant(addresses[0])).label
  assert sound.mask_bits.numpy().sum() == 3 * 36 and source.fault(addresses[0]) is None
  with pytest.raises((tf.errors.OpError, UserError)):
    source.load(tf.constant(addresses[number + 1]))
  line = source.fault(addresses[number + 1])
  assert line.startswith(f'{path}: ') and is_one_line(line)


@_FUZZ
@given(counts=st.one_of(st.binary(max_size=20),
                        st.text('0123456789PQo', max_size=20).map(str.encode)))
def test_no_run_lengths_crash_pycocotools(counts):
  content = record(instance_features(image_object_mask_counts=[COUNTS, counts]))
  try:
    label = tfrecord.parse(tf.constant(content), tf.constant('FILE'), INSTANCE_INFO).label
  except UserError as error:
    assert errors.stated(error).startswith('FILE: photo: instance 2 is corrupt: its mask has ')
  else:
    assert label.mask_bits.shape == (HEIGHT, WIDTH, 1)


# --- Files of records -------------------------------------------------------------------------


def container(*records):
  stream = b''
  for content in records:
    length = struct.pack('<Q', len(content))
    stream += (length + files._checksum(length) + content
               + files._checksum(content))
  return stream


CONTAINER = container(record({'image/encoded': b'1'}), b'', b'abc', bytes(40))


@st.composite
def changed(draw, *seeds):
  """Bytes of which some are cut, flipped, overwritten or doubled."""
  content = bytearray(draw(st.sampled_from(seeds)))
  for _ in range(draw(st.integers(1, 4))):
    start = draw(st.integers(0, max(len(content) - 1, 0)))
    action = draw(st.sampled_from(['flip', 'flip', 'overwrite', 'cut', 'remove', 'double']))
    if action == 'flip' and content:
      content[start] ^= 1 << draw(st.integers(0, 7))
    elif action == 'overwrite':
      content[start:start + 4] = draw(st.sampled_from(
          [b'\xff' * 4, b'\x7f\xff\xff\xff', bytes(4), b'\x80\0\0\0', b'\xff\xff\xff\x7f']))
    elif action == 'cut':
      del content[start:]
    elif action == 'remove':
      del content[start:start + draw(st.integers(1, 9))]
    else:
      content[start:start] = content[start:start + draw(st.integers(1, 40))]
  return bytes(content)


@settings(_FUZZ, max_examples=20)
@given(content=st.one_of(changed(CONTAINER), st.binary(max_size=60)))
def test_containers_are_indexed_or_refused(tmp_path_factory, content):
  path = tmp_path_factory.getbasetemp() / 'container'
  path.write_bytes(content)
  file = str(path)
  for read in (lambda: tfrecord.matching_files([file]), lambda: files.count_records(file),
               lambda: tfrecord.matching_files([file], allow_corrupt=True),
               lambda: files.read_record(file, 3, min(9, len(content)))):
    try:
      read()
    except ValueError as error:
      assert file in str(error) and '\n' not in str(error) and isinstance(error, UserError)
  index = files.index_records(file)
  assert len(index.offsets) <= len(content) // 16 and index.end == len(content)
  for number, offset in enumerate([*index.offsets, index.end]):
    line = tfrecord.diagnose_record(file, number, offset, INFO, True)
    assert line.startswith(f'{file}: ') and is_one_line(line)
    with contextlib.suppress(tf.errors.OpError):
      files.record_at(tf.constant(file), tf.constant(offset, tf.int64))


@pytest.mark.parametrize('length', [2**31, 2**31 + 1, 2**40, 2**63, 2**64 - 1, 2**64 - 17])
def test_a_length_with_a_right_checksum_takes_no_memory(tmp_path, experiment, capsys, length):
  # TensorFlow dies of the larger ones.
  corrupt._logs.clear()
  header = struct.pack('<Q', length)
  (tmp_path / 'a').write_bytes(container(record(features())) + header
                               + files._checksum(header) + b'some bytes')
  for options in ('', 'max_damaged_images: 1'):
    config = experiment('', f'{OPTIONS} file_pattern: "{tmp_path}/a" {options}')
    if not options:
      with pytest.raises(ValueError, match=f'{tmp_path}/a: .*record 1'):
        pipeline.eval_dataset(config, INFO)
      continue
    # Building the whole pipeline for each length would take long.
    source = readers.open_source(config.eval_dataset_options, INFO, 'eval_dataset_options')
    addresses = list(source.in_order())
    assert len(addresses) == 2
    source.load(addresses[0][0])
    with pytest.raises(tf.errors.OpError):
      source.load(addresses[1][0])
    line = source.fault(addresses[1][0].numpy())
    assert line == f'{tmp_path}/a: record 1 and what follows in the file cannot be read'


def test_files_too_large_to_be_counted_are_looked_at_when_they_are_opened(
    tmp_path, experiment, monkeypatch):
  monkeypatch.setattr(readers, '_CHECKED_BYTES', 0)
  header = struct.pack('<Q', 2**40)
  sound = container(record(features()))
  (tmp_path / 'a').write_bytes(sound + header + files._checksum(header) + b'some bytes')
  (tmp_path / 'b').write_bytes(sound)
  options = experiment('', f'{OPTIONS} file_pattern: "{tmp_path}/b"').eval_dataset_options
  assert len(list(readers.open_source(options, INFO, 'eval').in_order())) == 1
  options.file_pattern[:] = [f'{tmp_path}/a']
  with pytest.raises(tf.errors.OpError) as caught:
    list(readers.open_source(options, INFO, 'eval').in_order())
  assert errors.describe_data_error(caught.value).startswith(f'{tmp_path}/a: ')


# --- Image files ------------------------------------------------------------------------------


def _seeds(*kinds):
  pixels = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8))
  found = []
  for kind, mode, options in kinds:
    stream = io.BytesIO()
    pixels.convert(mode).save(stream, kind, **options)
    found.append(stream.getvalue())
  return found


_FRAMES = {'save_all': True, 'append_images': [Image.new('RGB', (7, 9))] * 2}
ENCODED = _seeds(
    ('png', 'RGB', {}), ('png', 'L', {}), ('png', 'P', {}), ('png', 'RGBA', {}), ('png', '1', {}),
    ('png', 'RGB', _FRAMES), ('jpeg', 'RGB', {}), ('jpeg', 'L', {}), ('jpeg', 'CMYK', {}),
    ('jpeg', 'RGB', {'progressive': True}), ('mpo', 'RGB', _FRAMES))
OTHERS = _seeds(
    ('gif', 'RGB', _FRAMES), ('bmp', 'RGB', {}), ('bmp', 'P', {}), ('tiff', 'RGB', {}),
    ('tiff', 'RGB', {'compression': 'tiff_lzw'}), ('webp', 'RGB', {}), ('ppm', 'RGB', {}))


@pytest.fixture(name='decoded', scope='module')
def fixture_decoded():
  return tf.function(lambda encoded: tfrecord.decode_or_name(encoded, ['FILE', ': ']),
                     input_signature=[tf.TensorSpec([], tf.string)])


@_FUZZ
@given(content=changed(*ENCODED))
def test_tensorflow_decodes_or_names(decoded, content):
  try:
    image = decoded(tf.constant(content))
  except tf.errors.InvalidArgumentError as error:
    assert errors.stated(error).startswith('FILE: the image is ')
  else:
    assert image.dtype == tf.uint8 and image.shape[2] == 3


@_FUZZ
@given(content=changed(*ENCODED, *OTHERS))
def test_pillow_reads_or_names(tmp_path_factory, content):
  path = tmp_path_factory.getbasetemp() / 'image'
  path.write_bytes(content)
  for read in (rgb_images.read, lambda file: _image_files.example(file, None),
               _panoptic_format.read_segment_ids):
    try:
      read(str(path))
    except ValueError as error:
      assert str(error).startswith(f'{path}: ') and '\n' not in str(error)
      assert isinstance(error, UserError)


# --- Through the programs ---------------------------------------------------------------------


def test_a_program_ends_with_one_line(tmp_path):
  (tmp_path / 'gt.json').write_bytes(b'{"annotations":' + b'[' * 100000)
  line = programs.error_line('evaluation/evaluate.py', '--task=panoptic',
                             f'--ground_truth={tmp_path}/gt.json',
                             f'--predictions={tmp_path}/gt.json')
  assert line.startswith(f'error: {tmp_path}/gt.json: not valid JSON')
