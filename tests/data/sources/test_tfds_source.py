"""COCO panoptic as prepared by tensorflow-datasets, with the class ids of coco_panoptic."""

import builtins
import importlib.resources
import importlib.resources.abc
import io
import sys
import types

import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from deeplab_tf import cli
from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, pipeline, readers
from deeplab_tf.data.sources import tfds as tfds_source
from deeplab_tf.protos import data_pb2

tfds = pytest.importorskip('tensorflow_datasets')

NAME = 'tfds/coco/2017_panoptic'


def open_source(extra=''):
  options = text_format.Parse(f'dataset: "{NAME}" {extra}', data_pb2.DatasetOptions())
  return readers.open_source(options, catalog.from_options(options), 'train_dataset_options')


def load_all(source):
  return {e.name.numpy().decode(): e for e in source.in_order().map(source.load)}


def run(*arguments):
  return cli.run(build.main, [f'--dataset={NAME}', *map(str, arguments)])


# --- Made up, with its own mocking ------------------------------------------------------------


IDS = np.zeros((8, 10), np.int64)
IDS[2:5, :4], IDS[2:5, 4:7], IDS[2:5, 7:], IDS[5:] = 12, 300, 70000, 5


def encoded(pixels, kind='png'):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind)
  return stream.getvalue()


def example(number, decoded=False):
  image = np.full((8, 10, 3), number, np.uint8)
  png = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], -1).astype(np.uint8)
  return {
      'image': image if decoded else encoded(image), 'image/id': number,
      'image/filename': f'{number:012d}.jpg'.encode(),
      'panoptic_image': png if decoded else encoded(png),
      'panoptic_image/filename': f'{number:012d}.png'.encode(),
      'panoptic_objects': {
          'id': np.array([12, 300, 70000, 5]), 'area': np.array([12, 9, 9, 30]),
          'bbox': np.zeros((4, 4), np.float32), 'label': np.array([0, 0, 0, 131]),
          'is_crowd': np.array([False, False, True, False])}}


@pytest.fixture(name='mocked')
def fixture_mocked(tmp_path):
  """Seven images; changes of the first may be made in the list."""
  examples = [example(number) for number in range(7)]
  asked = []

  def as_data_source(self, split=None, **kwargs):
    asked.append((self.name, split, sorted(kwargs['decoders'])))
    return examples

  with tfds.testing.mock_data(as_data_source_fn=as_data_source, data_dir=str(tmp_path)):
    yield examples
  assert asked[0] == ('coco', asked[0][1], ['image', 'panoptic_image'])


def test_labels_have_the_class_ids_of_coco_panoptic(mocked):
  expected = np.select([IDS == 12, IDS == 300, IDS == 70000, IDS == 5],
                       [256 + 1, 256 + 2, 256, 132 * 256], 0)
  found = load_all(open_source())
  assert list(found) == [f'{number:012d}' for number in range(7)]
  for number, loaded in enumerate(found.values()):
    np.testing.assert_array_equal(loaded.label, expected)
    assert loaded.image.shape == (8, 10, 3) and (loaded.image == number).numpy().all()
  ignored = load_all(open_source('tfds { treat_crowd_as_ignore: true }'))
  np.testing.assert_array_equal(
      ignored['000000000000'].label, np.where(expected == 256, 0, expected))
  mocked[0] = example(0, decoded=True)
  np.testing.assert_array_equal(load_all(open_source())['000000000000'].label, expected)


def test_without_labels(mocked):
  assert mocked
  found = load_all(open_source('decode_groundtruth_label: false'))
  assert not any(loaded.label.numpy().any() for loaded in found.values())


def test_the_order_of_an_epoch_is_a_function_of_the_seed_and_training_resumes(mocked, experiment):
  config = experiment(f'dataset: "{NAME}" crop_size: [9, 11] batch_size: 2 max_thing_id: 4')
  info = catalog.from_config(config)

  def batches(seed, start, count):
    data = pipeline.train_dataset(config, info, 'mask', seed=seed, start_step=start)
    return [images.numpy() for images, _ in data.take(count)]

  assert len(mocked) == 7
  whole = batches(3, 0, 7)
  for one, two in zip(whole[4:], batches(3, 4, 3)):
    np.testing.assert_array_equal(one, two)
  # Two epochs are 14 images: each number twice, in an order of its own.
  numbers = np.round((np.concatenate(whole)[:, 4, 5, 0] + 1) * 127.5).astype(int).tolist()
  assert sorted(numbers[:7]) == sorted(numbers[7:]) == list(range(7))
  assert numbers[:7] != numbers[7:]
  assert not all(np.array_equal(a, b) for a, b in zip(whole, batches(4, 0, 7)))


def test_a_contradiction_is_one_line_with_image_and_segment(mocked):
  mocked[0]['panoptic_objects']['id'][1] = 299
  with pytest.raises(tf.errors.InvalidArgumentError, match=(
      r'2017_panoptic train: 000000000000: segment id 300 \(9 pixels\) is not in the JSON')):
    load_all(open_source())
  limited = open_source('max_damaged_images: 1')
  assert 'segment id 300' in limited.fault(np.int64(0)) and limited.fault(np.int64(1)) is None


def test_records_and_dry_run(mocked, tmp_path, capsys):
  assert mocked
  assert run('--split=val', '--dry_run') == 0
  assert 'images: 7, 80 thing and 53 stuff classes' in capsys.readouterr().out
  assert run('--split=val', f'--output_dir={tmp_path / "records"}') == 0
  options = text_format.Parse(f'dataset: "coco_panoptic" file_pattern: "{tmp_path}/records/val-*"',
                              data_pb2.DatasetOptions())
  records = load_all(readers.open_source(options, catalog.from_options(options), ''))
  direct = load_all(open_source('tfds { treat_crowd_as_ignore: true }'))
  assert list(records) == list(direct)
  for name, loaded in records.items():
    np.testing.assert_array_equal(loaded.label, direct[name].label)


# --- Prepared by it ---------------------------------------------------------------------------


@pytest.fixture(name='prepared', scope='module')
def fixture_prepared(tmp_path_factory):
  """Lets tensorflow-datasets prepare the two images of the sample, as TFRecords."""
  root = shared.path('data', 'coco_sample')
  data_dir = tmp_path_factory.mktemp('tfds')
  patch = pytest.MonkeyPatch()
  # It imports this package for older Pythons without depending on it.
  patch.setitem(sys.modules, 'importlib_resources', importlib.resources)
  manager = tfds.download.DownloadManager
  patch.setattr(manager, 'download_and_extract', lambda self, urls: dict.fromkeys(urls, root))
  patch.setattr(manager, 'extract', lambda self, path: root / 'annotations')
  tfds.disable_progress_bar()
  tfds.builder('coco/2017_panoptic', data_dir=data_dir).download_and_prepare()
  patch.undo()
  return data_dir


@pytest.mark.parity
@pytest.mark.parametrize('split', ['validation', 'validation[:50%]', 'train+validation'])
def test_what_it_prepares_by_default_gives_the_labels_of_the_download(prepared, split):
  source = open_source(f'tfds {{ data_dir: "{prepared}" split: "{split}" }}')
  assert source.count() == {'validation': 2, 'validation[:50%]': 1, 'train+validation': 4}[split]
  root = shared.path('data', 'coco_sample')
  options = text_format.Parse(
      f'dataset: "coco_panoptic" raw_data {{ root: "{root}" split: "val" }}',
      data_pb2.DatasetOptions())
  expected = load_all(readers.open_source(options, catalog.from_options(options), ''))
  for loaded in source.in_order().map(source.load):
    name = loaded.name.numpy().decode()
    np.testing.assert_array_equal(loaded.label, expected[name].label)
    np.testing.assert_array_equal(loaded.image, expected[name].image)


def test_a_corrupt_record_is_one_line_with_its_file(tmp_path):
  path = str(tmp_path / 'a')
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(b'no example at all')
  part = types.SimpleNamespace(filename=path, skip=0, take=-1)
  info = types.SimpleNamespace(
      splits={'train': types.SimpleNamespace(file_instructions=[part])},
      features=tfds.features.FeaturesDict({'image/id': np.int64}))
  prepared = tfds_source._tfrecords('train', info, 'train', None)
  with pytest.raises(ValueError, match=f'^{path}: record 0 is corrupt .*prepare the data again$'):
    prepared.fetch(0)


# --- Wrong use --------------------------------------------------------------------------------


def test_data_that_are_not_prepared_are_one_line_with_the_command(tmp_path, capsys):
  with pytest.raises(config_lib.ConfigError) as caught:
    open_source(f'tfds {{ data_dir: "{tmp_path}" }}')
  assert str(caught.value).endswith(
      f'prepare it with: tfds build coco/2017_panoptic --data_dir={tmp_path}')
  assert '\n' not in str(caught.value)
  assert run(f'--root={tmp_path}', '--split=train', '--dry_run') == 2
  assert 'tfds build coco/2017_panoptic' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parity
def test_an_unknown_split_is_one_line(prepared):
  with pytest.raises(config_lib.ConfigError, match='split "dev" cannot be read') as caught:
    open_source(f'tfds {{ data_dir: "{prepared}" split: "dev" }}')
  assert '\n' not in str(caught.value)


def test_a_missing_package_is_one_line(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == 'tensorflow_datasets':
      raise ImportError('No module named tensorflow_datasets')
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(config_lib.ConfigError, match='pip install tensorflow-datasets'):
    open_source()


def test_other_data_sets_of_it_are_unknown():
  options = data_pb2.DatasetOptions(dataset='tfds/coco/2017')
  with pytest.raises(config_lib.ConfigError, match=f'Did you mean "{NAME}"'):
    catalog.from_options(options)
  with pytest.raises(config_lib.ConfigError, match='unknown data set "tfds"'):
    catalog.from_options(data_pb2.DatasetOptions(dataset='tfds'))
