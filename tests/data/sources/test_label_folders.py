"""Folders of images and label PNGs of a user, described by the config alone."""

import json
import pathlib

import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_tf import cli
from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, pipeline, readers, sources
from deeplab_tf.data.sources import _label_images, label_folders
from deeplab_tf.protos import data_pb2

ROOT = pathlib.Path(__file__).resolve().parents[3]
CLASSES = 'categories { id: 3 name: "cat" isthing: true } categories { id: 7 name: "grass" } '
STUFF = 'categories { id: 3 name: "cat" } categories { id: 7 name: "grass" } '


class LabelFolder:
  """Two images, 12x15, with grass (7), void (0) and cats (3) of the numbers 0, 5 and 9."""

  def __init__(self, root):
    self.image_dir, self.label_dir = root / 'images', root / 'labels'
    for folder in (self.image_dir, self.label_dir):
      folder.mkdir()
    self.category = np.full((12, 15), 7)
    self.number = np.zeros_like(self.category)
    self.category[:2] = 0
    for row, number in ((3, 9), (6, 5), (9, 0)):
      self.category[row:row + 2, 2:9], self.number[row:row + 2, 2:9] = 3, number
    for name in 'ab':
      Image.fromarray(np.zeros((12, 15, 3), np.uint8)).save(self.image_dir / f'{name}.jpg')
    self.save(self.category, self.number, 0 * self.number)

  def save(self, *channels):
    """Writes both labels: one channel, or three."""
    pixels = np.stack(channels, -1) if len(channels) == 3 else channels[0]
    for name in 'ab':
      Image.fromarray(pixels.astype(np.uint8)).save(self.label_dir / f'{name}.png')

  def text(self, extra='', classes=CLASSES):
    return (f'dataset: "label_folders" crop_size: [13, 17] batch_size: 2 max_thing_id: 8 '
            f'label_folders {{ image_dir: "{self.image_dir}" label_dir: "{self.label_dir}" '
            f'{classes} {extra} }}')

  def expected(self, cats):
    """The panoptic map; `cats` are the instance numbers of the cats 0, 5 and 9."""
    label = np.where(self.category == 0, 0, 2 * 256)
    for number, value in zip((0, 5, 9), cats):
      label[(self.category == 3) & (self.number == number)] = 256 + value
    return label


@pytest.fixture(name='folder')
def fixture_folder(tmp_path):
  return LabelFolder(tmp_path)


def read(text):
  options = text_format.Parse(text, data_pb2.DatasetOptions())
  source = readers.open_source(options, catalog.from_options(options), 'dataset_options')
  return {e.name.numpy().decode(): e.label.numpy() for e in source.in_order().map(source.load)}


def assert_labels(text, expected):
  found = read(text)
  assert list(found) == ['a', 'b']
  for label in found.values():
    np.testing.assert_array_equal(label, expected)


# --- Encodings --------------------------------------------------------------------------------


def test_two_channels_are_category_and_instance(folder):
  assert_labels(folder.text(), folder.expected([1, 2, 3]))


def test_a_number_can_stand_for_crowd(folder):
  assert_labels(folder.text('crowd_instance_number: 0'), folder.expected([0, 1, 2]))
  assert_labels(folder.text('crowd_instance_number: 9'), folder.expected([1, 2, 0]))


def test_three_channels_hold_large_instance_numbers(folder):
  large = folder.number * 1000  # Up to 9000.
  folder.save(folder.category, large // 256, large % 256)
  assert_labels(folder.text('encoding: THREE_CHANNEL'), folder.expected([1, 2, 3]))


def test_one_channel_is_stuff(folder):
  folder.save(folder.category)
  expected = np.select([folder.category == 3, folder.category == 7], [256, 512], 0)
  assert_labels(folder.text('encoding: SEMANTIC', STUFF), expected)


def test_a_palette_is_read_as_indices_and_16_bits_as_they_are(folder):
  expected = np.select([folder.category == 3, folder.category == 7], [256, 512], 0)
  palette = Image.fromarray(folder.category.astype(np.uint8), 'P')
  palette.putpalette([255 - i // 3 for i in range(768)])
  palette.save(folder.label_dir / 'a.png')
  Image.fromarray((folder.category * 100).astype(np.uint16)).save(folder.label_dir / 'b.png')
  found = read(folder.text('encoding: SEMANTIC ignore_category_id: [0, 300, 700]', STUFF))
  np.testing.assert_array_equal(found['a'], expected)
  assert not found['b'].any()


def test_ignored_categories_can_be_chosen(folder):
  folder.category[folder.category == 0] = 255
  folder.category[folder.category == 3] = 0
  folder.save(folder.category)
  classes = 'categories { id: 0 name: "road" } categories { id: 7 name: "grass" } '
  expected = np.select([folder.category == 0, folder.category == 7], [256, 512], 0)
  assert_labels(folder.text('encoding: SEMANTIC ignore_category_id: 255', classes), expected)
  # Category 0 is a class: nothing is ignored, and 255 is unknown.
  with pytest.raises(Exception, match=r'value 255 \(30 pixels\) is category id 255, '):
    read(folder.text('encoding: SEMANTIC', classes))


@pytest.mark.parity
def test_two_channel_examples_of_coco_are_its_panoptic_labels(tmp_path):
  root = shared.path('data', 'coco_sample')
  text = (f'dataset: "label_folders" label_folders {{ image_dir: "{root / "val2017"}" '
          f'label_dir: "{root / "two_channel_examples"}" crowd_instance_number: 255 '
          f'categories_file: "{root / "annotations" / "panoptic_val2017.json"}" }}')
  reference = text_format.Parse(
      f'dataset: "coco_panoptic" raw_data {{ root: "{root}" split: "val" }}',
      data_pb2.DatasetOptions())
  source = readers.open_source(reference, catalog.from_options(reference), 'dataset_options')
  found = read(text)
  for example in source.in_order().map(source.load):
    label, expected = found[example.name.numpy().decode()], example.label.numpy()
    np.testing.assert_array_equal(label // 256, expected // 256)
    # Instances may be counted in another order.
    pairs = set(zip(label.ravel().tolist(), expected.ravel().tolist()))
    assert len(pairs) == len(np.unique(label)) == len(np.unique(expected))
    assert {a for a, b in pairs if a % 256 == 0} == {b for a, b in pairs if b % 256 == 0}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=12),
       st.lists(st.integers(0, 11), min_size=1, max_size=40))
def test_label_map_numbers_instances_in_ascending_order(values, picks):
  image = np.array([[values[i % len(values)] for i in picks]], np.int32)
  info = catalog.from_categories({'categories': [{'id': 1, 'name': 'x', 'isthing': 1}]}, 'here')
  label = _label_images.label_map(image, lambda value: _label_images.Meaning(1), info, where=str)
  ordered = sorted(set(image[0].tolist()))
  assert (label[0] - 256).tolist() == [1 + ordered.index(value) for value in image[0]]


# --- Classes ----------------------------------------------------------------------------------


def test_classes_come_from_the_config_or_a_json(folder, tmp_path):
  info = catalog.from_options(text_format.Parse(folder.text(), data_pb2.DatasetOptions()))
  assert [c[:4] for c in info.categories] == [(1, 3, 'cat', True), (2, 7, 'grass', False)]
  assert (info.num_classes, info.ignore_label, info.label_divisor) == (3, 0, 256)
  entries = [{'id': 7, 'name': 'grass', 'isthing': 0}, {'id': 3, 'name': 'cat', 'isthing': 1}]
  path = tmp_path / 'classes.json'
  for content in (entries, {'categories': entries}):
    path.write_text(json.dumps(content))
    same = catalog.from_options(text_format.Parse(
        folder.text(classes=f'categories_file: "{path}"'), data_pb2.DatasetOptions()))
    assert same == info


@pytest.mark.parametrize('extra, classes, message', [
    ('', '', 'needs its classes: either label_folders.categories or label_folders.categories_file'),
    ('', CLASSES + 'categories_file: "x"', 'needs its classes: either'),
    ('', 'categories_file: "/nowhere.json"', '/nowhere.json: cannot be read as JSON'),
    ('', CLASSES + 'categories { id: 3 name: "dog" }', 'category id 3 occurs twice'),
    ('', 'categories { name: "dog" }', 'has no "id"'),
    ('', 'categories { id: 300 name: "x" }', 'category id 300 does not fit into the channel R'),
    ('', 'categories { id: 1 name: "x" color: [1, 2] }', 'it must be three numbers'),
    ('encoding: SEMANTIC', CLASSES, 'category 3 "cat" is a thing, but'),
    ('ignore_category_id: 7', CLASSES, 'category id 7 is also in label_folders.ignore_category_id'),
    ('label_divisor: 1', CLASSES, 'label_folders.label_divisor is 1'),
])
def test_wrong_classes_are_one_line(folder, extra, classes, message):
  options = text_format.Parse(folder.text(extra, classes), data_pb2.DatasetOptions())
  with pytest.raises(config_lib.ConfigError) as caught:
    catalog.from_options(options)
  assert message in str(caught.value) and '\n' not in str(caught.value)


# --- Faults of the data -----------------------------------------------------------------------


def fault_no_label(folder):
  (folder.label_dir / 'b.png').unlink()
  return 'b.png: no such file; it is expected to be the label of '


def fault_no_image(folder):
  (folder.image_dir / 'b.jpg').unlink()
  return 'b.png: there is no image of that name'


def fault_two_images(folder):
  Image.fromarray(np.zeros((12, 15, 3), np.uint8)).save(folder.image_dir / 'b.png')
  return 'b.png: has the name of '


def fault_blue(folder):
  folder.save(folder.category, folder.number, folder.number)
  return 'channel B is not 0, as label_folders.encoding TWO_CHANNEL'


def fault_mode(folder):
  folder.save(folder.category)
  return 'a.png: has color mode L; 8-bit RGB is expected'


def fault_category(folder):
  folder.category[0, :4] = 9
  folder.save(folder.category, folder.number, 0 * folder.number)
  return 'a.png: (category, instance) = (9, 0) (4 pixels) is category id 9, which'


def fault_size(folder):
  Image.fromarray(np.zeros((12, 14, 3), np.uint8)).save(folder.label_dir / 'a.png')
  return 'a.jpg: is 12x15, but its panoptic PNG is 12x14'


def fault_no_png(folder):
  (folder.label_dir / 'a.png').write_text('this is none')
  return 'a.png: is not an image, or is corrupt'


FAULTS = {name: value for name, value in list(globals().items()) if name.startswith('fault_')}


def config_file(tmp_path, folder):
  path = tmp_path / 'config.textproto'
  path.write_text(f'model_options {{ backbone {{ name: "max_deeplab_s" }} max_deeplab {{}} }} '
                  f'train_dataset_options {{ {folder.text().replace("[13, 17]", "[65, 65]")} }}')
  return path


def run(*arguments):
  return cli.run(build.main, ['--dataset=label_folders', *map(str, arguments)])


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_one_line(folder, tmp_path, capsys, fault):
  message = FAULTS[fault](folder)
  path = config_file(tmp_path, folder)
  output = tmp_path / 'records'
  assert run(f'--config_file={path}', '--split=train', f'--output_dir={output}') == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and message in lines[0], lines
  assert not output.exists() or not list(output.iterdir())


def test_too_many_instances_are_named(folder):
  folder.save(folder.category, np.arange(180).reshape(12, 15), 0 * folder.number)
  with pytest.raises(tf.errors.InvalidArgumentError, match='is instance 4 of category 3 "cat" in'):
    read(folder.text('label_divisor: 4'))


@pytest.mark.parametrize('name', ['image_dir', 'label_dir'])
def test_a_missing_folder_is_named(folder, name):
  with pytest.raises(config_lib.ConfigError, match=rf'/nowhere: no such folder .*{name}'):
    read(folder.text(f'{name}: "/nowhere"').replace(f'{name}: "{getattr(folder, name)}"', ''))
  with pytest.raises(config_lib.ConfigError, match=f'label_folders.{name} is not set'):
    read(folder.text().replace(f'{name}: "{getattr(folder, name)}"', ''))


# --- Records and training ---------------------------------------------------------------------


def test_records_hold_what_is_read_without_them(folder, tmp_path, capsys):
  path = config_file(tmp_path, folder)
  assert run(f'--config_file={path}', '--split=train', f'--output_dir={tmp_path / "records"}') == 0
  assert 'read them with the label_folders of ' in capsys.readouterr().out
  records = read(f'dataset: "label_folders" label_folders {{ {CLASSES} }} '
                 f'file_pattern: "{tmp_path / "records"}/train-*"')
  direct = read(folder.text())
  assert list(records) == list(direct)
  for name, label in records.items():
    np.testing.assert_array_equal(label, direct[name])


def test_the_builder_can_remove_crowd_regions(folder):
  fields = text_format.Parse(folder.text('crowd_instance_number: 9'),
                             data_pb2.DatasetOptions()).label_folders
  for remove, crowd in ((False, 256), (True, 0)):
    options = sources.BuildOptions(label_folders=fields, treat_crowd_as_ignore=remove)
    label = label_folders.files(options)[0].read_label()
    np.testing.assert_array_equal(label[folder.number == 9], crowd)
    assert set(np.unique(label)) == {0, 257, 258, 512} | {crowd}


@pytest.mark.parametrize('arguments, message', [
    (['--split=val'], 'eval_dataset_options.dataset is ""; "label_folders" is expected'),
    (['--split=test'], 'a config describes train and val'),
])
def test_wrong_use_is_one_line(folder, tmp_path, capsys, arguments, message):
  path = config_file(tmp_path, folder)
  assert run(f'--config_file={path}', *arguments, f'--output_dir={tmp_path}') == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_training_reads_the_folders_without_records(folder, experiment):
  config = experiment(folder.text())
  info = catalog.from_config(config)
  images, targets = next(iter(pipeline.train_dataset(config, info, 'mask', seed=0)))
  assert images.shape == (2, 13, 17, 3)
  assert set(np.unique(targets.semantic_map)) <= {0, 1, 2}
  assert tf.reduce_max(targets.mask_classes) == 1


def test_example_configs_describe_folders_and_classes(tmp_path):
  folder = ROOT / 'configs' / 'custom'
  config = config_lib.load_config(str(folder / 'label_folders.textproto'))
  assert [c.name for c in catalog.from_config(config).categories] == [
      'person', 'car', 'road', 'sky']
  path = tmp_path / 'categories.json'
  path.write_text('[{"id": 0, "name": "road", "isthing": 0}]')
  config = config_lib.load_config(str(folder / 'label_folders_semantic.textproto'), [
      f'{options}_dataset_options {{ label_folders {{ categories_file: "{path}" }} }}'
      for options in ('train', 'eval')])
  assert [c.name for c in catalog.from_config(config).categories] == ['road']
  assert not config.train_dataset_options.HasField('coco_format')
