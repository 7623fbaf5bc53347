"""The record builder: DeepLab2's labels, one clear line per error, no partly written files."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import shared
import tensorflow as tf
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import build, catalog, sources, targets
from deeplab_tf.data.records import tfrecord
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.data.sources import shapes as shapes_source


def read(pattern):
  """The records of files, as name -> Example, in order."""
  examples = {}
  for path in sorted(tf.io.gfile.glob(str(pattern))):
    for record in tf.data.TFRecordDataset(path):
      example = tf.train.Example.FromString(record.numpy())
      examples[example.features.feature['image/filename'].bytes_list.value[0].decode()] = example
  return examples


def label_of(example):
  fields = example.features.feature
  shape = [fields[f'image/{side}'].int64_list.value[0] for side in ('height', 'width')]
  return np.frombuffer(
      fields['image/segmentation/class/encoded'].bytes_list.value[0], '<i4').reshape(shape)


def run(*arguments):
  return cli.run(build.main, [str(a) for a in arguments])


# --- COCO -------------------------------------------------------------------------------------


@pytest.fixture(name='coco_root')
def fixture_coco_root():
  return shared.path('data', 'coco_sample')


@pytest.mark.parity
@pytest.mark.parametrize('flag, suffix', [
    ([], 'crowd_ignored'), (['--treat_crowd_as_ignore'], 'crowd_ignored'),
    (['--keep_crowd'], 'crowd_kept')])
def test_coco_labels_equal_deeplab2(coco_root, tmp_path, flag, suffix):
  assert run('--dataset=coco_panoptic', f'--root={coco_root}', '--split=val',
             f'--output_dir={tmp_path}', *flag) == 0
  expected = np.load(shared.path('parity', 'data_builder', 'coco_sample_labels.npz'))
  info = catalog.built_in('coco_panoptic')
  examples = read(tmp_path / 'val-*')
  assert list(examples) == ['000000142238', '000000439180']
  for name, example in examples.items():
    label = label_of(example)
    np.testing.assert_array_equal(label, expected[f'label_{name}_{suffix}'])
    if suffix == 'crowd_kept':
      is_crowd = targets.is_crowd(tf.constant(label), info).numpy()
      np.testing.assert_array_equal(is_crowd, expected[f'runtime_is_crowd_{name}'])
      np.testing.assert_array_equal(np.where(is_crowd, info.void_label, label),
                                    expected[f'runtime_panoptic_{name}'])


@pytest.mark.parity
def test_coco_records_have_the_fields_of_deeplab2(coco_root, tmp_path):
  run('--dataset=coco_panoptic', f'--root={coco_root}', '--split=val', f'--output_dir={tmp_path}')
  path = shared.path('parity', 'data_builder', 'coco_sample_tfexample_fields.json')
  expected = json.loads(path.read_text())
  for name, example in read(tmp_path / 'val-*').items():
    fields = {}
    for key, feature in example.features.feature.items():
      values = list(feature.bytes_list.value) or list(feature.int64_list.value)
      if isinstance(values[0], bytes):
        values = values[0].decode() if len(values[0]) < 50 else f'{len(values[0])} bytes'
      fields[key] = values
    assert fields.pop('image/classes').endswith(' bytes')  # DeepLab2 passes over it.
    assert fields == expected[name]


@pytest.mark.parity
def test_coco_test_split_has_no_labels(coco_root, tmp_path):
  assert run('--dataset=coco_panoptic', f'--root={coco_root}', '--split=test',
             f'--output_dir={tmp_path}') == 0
  (example,) = read(tmp_path / 'test-*').values()
  assert not [key for key in example.features.feature if 'segmentation' in key]


@pytest.mark.parity
def test_images_are_spread_over_shards_as_deeplab2_does(coco_root, tmp_path):
  run('--dataset=coco_panoptic', f'--root={coco_root}', '--split=val', f'--output_dir={tmp_path}',
      '--num_shards=3')
  files = sorted(tmp_path.iterdir())
  assert [f.name for f in files] == [f'val-{i:05d}-of-00003.tfrecord' for i in range(3)]
  assert [len(read(f)) for f in files] == [1, 1, 0]


# --- Any COCO format and shapes ---------------------------------------------------------------


def build_folder(folder, output, *extra):
  return run('--dataset=coco_format', f'--root={folder.root}', '--split=val',
             f'--output_dir={output}', *extra)


def test_coco_format_labels(panoptic_folder, tmp_path):
  assert build_folder(panoptic_folder, tmp_path) == 0
  for ids, example in zip(panoptic_folder.ids, read(tmp_path / 'val-*').values()):
    # Cats are class 1, numbered by segments_info; grass is 2; the crowd keeps number 0.
    expected = np.select([ids == 12, ids == 300, ids == 5, ids == 70000], [257, 258, 256, 512], 0)
    np.testing.assert_array_equal(label_of(example), expected)
  assert build_folder(panoptic_folder, tmp_path, '--treat_crowd_as_ignore') == 0
  assert not any((label_of(e) == 256).any() for e in read(tmp_path / 'val-*').values())


def test_grey_and_transparent_images_become_rgb(panoptic_folder, tmp_path):
  path = panoptic_folder.image_dir / 'photo0.png'
  for mode in ('L', 'RGBA'):
    with Image.open(path) as image:
      image.convert(mode).save(path)
    assert build_folder(panoptic_folder, tmp_path) == 0
    encoded = read(tmp_path / 'val-*')['photo0'].features.feature['image/encoded']
    assert tf.io.decode_png(encoded.bytes_list.value[0], 0).shape[2] == 3


def test_shapes_records_hold_the_drawings(tmp_path):
  assert run('--dataset=shapes', '--split=val', f'--output_dir={tmp_path}', '--num_images=5',
             '--num_shards=2', '--seed=3') == 0
  examples = list(read(tmp_path / 'val-*').values())
  assert len(examples) == 5
  image, label = _shape_scenes.generate('val', 4, 3)
  np.testing.assert_array_equal(label_of(examples[4]), label)
  encoded = examples[4].features.feature['image/encoded'].bytes_list.value[0]
  np.testing.assert_array_equal(tf.io.decode_png(encoded), image)


# --- Faults of the data -----------------------------------------------------------------------


def fault_category(folder):
  folder.segment(1, 2)['category_id'] = 9
  return 'photo1.png: segment id 300 has category id 9, which data set "coco_format"'


def fault_not_in_json(folder):
  folder.content['annotations'][0]['segments_info'].pop(0)
  return 'photo0.png: segment id 12 (30 pixels) is not in the JSON'


def fault_not_in_png(folder):
  folder.content['annotations'][0]['segments_info'].append(
      {'id': 99, 'category_id': 3, 'iscrowd': 0, 'area': 4})
  return 'photo0.png: segment id 99 (category 3 "cat") is in the JSON, but no pixel'


def fault_stuff_crowd(folder):
  folder.segment(0, 1)['iscrowd'] = 1
  return 'photo0.png: segment id 70000 (category 7 "grass") is crowd, but its class is stuff'


def fault_segment_twice(folder):
  folder.content['annotations'][0]['segments_info'].append(folder.segment())
  return 'photo0.png: segment id 12 (category 3 "cat") occurs twice'


def fault_image_twice(folder):
  folder.content['images'].append(folder.content['images'][0])
  return 'image id 0 occurs twice'


def fault_annotation_twice(folder):
  folder.content['annotations'].append(folder.content['annotations'][0])
  return 'image id 0 has two annotations'


def fault_no_annotation(folder):
  folder.content['annotations'].pop()
  return 'image id 1 (photo1.png) has no annotation'


def fault_png_size(folder):
  folder.save_ids(folder.label_dir / 'photo0.png', folder.ids[0][:-1])
  return 'photo0.png: is 19x30, but the JSON states 20x30'


def fault_png_mode(folder):
  Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder.label_dir / 'photo0.png')
  return 'photo0.png: the image has mode L; a panoptic PNG is RGB with 8 bits'


def fault_png_missing(folder):
  (folder.label_dir / 'photo1.png').unlink()
  return 'photo1.png: no such file; the JSON names it as the panoptic PNG'


def fault_image_missing(folder):
  (folder.image_dir / 'photo1.png').unlink()
  return 'photo1.png: no such file; the JSON names it as the image'


def fault_no_image(folder):
  (folder.image_dir / 'photo1.png').write_text('this is no image')
  return 'photo1.png: is not an image, or is corrupt'


def fault_half_an_image(folder):
  path = folder.image_dir / 'photo1.png'
  path.write_bytes(path.read_bytes()[:-300])
  return 'photo1.png: is not an image, or is corrupt'


def fault_detection_json(folder):
  folder.content['annotations'] = [{'id': 1, 'image_id': 0, 'bbox': [0, 0, 1, 1]}]
  return 'an annotation has no segments_info (it looks like an instance JSON)'


def fault_segment_without_category(folder):
  del folder.segment()['category_id']
  return 'a segment of photo0.png has no "category_id"'


FAULTS = {name: value for name, value in list(globals().items()) if name.startswith('fault_')}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_one_line_and_leaves_no_file(panoptic_folder, tmp_path, capfd, fault):
  message = FAULTS[fault](panoptic_folder)
  panoptic_folder.save()
  output = tmp_path / 'records'
  assert build_folder(panoptic_folder, output, '--num_shards=2') == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and message in lines[0], lines
  assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize('arguments, message', [
    (['--dataset=imagenet', '--root=x'], 'is unknown: available are '),
    (['--dataset=tfds', '--root=x'], 'available are '),
    (['--dataset=coco_panoptic', '--root=x', '--config_file=y'], '--config_file is for '),
    (['--dataset=label_folders'], '--config_file is missing'),
    (['--dataset=shapes', '--max_images=3'], '--max_images is for --dry_run'),
    (['--dataset=shapes', '--max_images=0', '--dry_run'], '--max_images=0: it must be at least 1'),
    (['--dataset=coco_panoptik', '--root=x'], 'Did you mean "coco_panoptic"'),
    (['--dataset=coco_panoptic'], '--root is missing'),
    (['--dataset=coco_panoptic', '--root=/nowhere'], '/nowhere/annotations/panoptic_val2017.json'),
    (['--dataset=coco_format', '--root=/nowhere'], 'name it with --image_dir'),
    (['--dataset=shapes', '--num_images=0'], '--num_images=0'),
])
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, message):
  assert run(*arguments, '--split=val', f'--output_dir={tmp_path}') == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


# --- Interruption -----------------------------------------------------------------------------


def test_a_failure_half_way_keeps_earlier_records_and_leaves_nothing_else(tmp_path):
  options = sources.BuildOptions(split='train', num_images=4)
  examples = shapes_source.examples(options)
  build.build(examples, str(tmp_path), 'train', 2)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

  def interrupt():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    build.build(examples[:3] + [interrupt], str(tmp_path), 'train', 2)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _as_in_a_terminal():
  """Lets SIGINT end a process, which the processes of parallel tests have ignored from birth."""
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize('end', [
    pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT,
    pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_build_leaves_no_shard(tmp_path, end):
  process = subprocess.Popen(
      [sys.executable, '-m', 'deeplab_tf.data.build', '--dataset=shapes', '--split=train',
       '--num_images=100000', f'--output_dir={tmp_path}'], stderr=subprocess.DEVNULL,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}, preexec_fn=_as_in_a_terminal)
  try:
    deadline = time.time() + 60
    while not list(tmp_path.iterdir()) and time.time() < deadline:
      time.sleep(0.05)
    process.send_signal(end)
    assert process.wait(30) != 0
  finally:
    process.kill()
  left = list(tmp_path.iterdir())
  assert not list(tmp_path.glob('*.tfrecord'))
  if end != signal.SIGKILL:
    assert not left
  else:  # What a killed build leaves is never read as data.
    with pytest.raises(FileNotFoundError):
      tfrecord.matching_files([str(tmp_path / 'train-*')])
