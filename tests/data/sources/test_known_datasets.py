"""Cityscapes, ADE20K, Mapillary Vistas and COCO: all encodings of a label give one label map."""

import json
import shutil

import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from deeplab_tf import cli, modules
from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, readers, sources
from deeplab_tf.data.sources import _labeled_files
from deeplab_tf.protos import data_pb2

pytestmark = pytest.mark.parity

CITYSCAPES, ADE20K, VISTAS = [
    'made_up_cityscapes', 'made_up_ade20k', 'made_up_mapillary_vistas']


def run(*arguments):
  return cli.run(build.main, [str(a) for a in arguments])


def files(dataset, root, split, **options):
  module = modules.load('data.sources', dataset)
  return module.files(sources.BuildOptions(dataset=dataset, root=str(root), split=split, **options))


def labels(*args, **options):
  return {file.name: file.read_label() for file in files(*args, **options)}


def assert_equal_labels(found, expected):
  assert list(found) == list(expected) and found
  for name, label in found.items():
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, expected[name], err_msg=name)


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image).astype(np.int64)


@pytest.fixture(name='copied')
def fixture_copied(tmp_path):
  """Copies a made-up data set, so that parts of it can be taken away."""

  def copy(name, without=()):
    root = tmp_path / f'{name}_{len(list(tmp_path.iterdir()))}'
    shutil.copytree(shared.path('data', name), root, ignore=shutil.ignore_patterns(*without))
    return root

  return copy


# --- Cityscapes -------------------------------------------------------------------------------


def cityscapes_by_hand(root, split, keep_crowd):
  """From labelTrainIds and instanceIds, one value after the other."""
  result = {}
  for path in sorted((root / 'gtFine' / split).glob('*/*_instanceIds.png')):
    ids = pixels(path)
    train_ids = pixels(str(path).replace('instanceIds', 'labelTrainIds'))
    label, counts = np.where(train_ids == 255, 255, train_ids) * 1000, {}
    for value in np.unique(ids):
      region, class_id = ids == value, train_ids[ids == value][0]
      if 11 <= class_id <= 18 and value >= 1000:
        counts[class_id] = counts.get(class_id, 0) + 1
        label[region] += counts[class_id]
      elif 11 <= class_id <= 18 and not keep_crowd:
        label[region] = 255000
    result[path.name.replace('_gtFine_instanceIds.png', '')] = label
  return result


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('keep_crowd', [False, True])
def test_cityscapes_labels_are_those_of_its_pngs_whatever_is_prepared(copied, split, keep_crowd):
  root = shared.path('data', CITYSCAPES)
  expected = cityscapes_by_hand(root, split, keep_crowd)
  roots = {'_trainId.json': root, '.json': copied(CITYSCAPES, ['*_trainId*']),
           'instanceIds.png': copied(CITYSCAPES, ['cityscapes_panoptic_*', '*TrainIds.png'])}
  for end, place in roots.items():
    said = []
    found = labels('cityscapes_panoptic', place, split, say=said.append,
                   treat_crowd_as_ignore=False if keep_crowd else None)
    assert said[0].endswith(end)
    assert_equal_labels(found, expected)


def test_cityscapes_records(copied, tmp_path, capsys):
  root = shared.path('data', CITYSCAPES)
  assert run('--dataset=cityscapes_panoptic', f'--root={root}', '--split=train',
             f'--output_dir={tmp_path / "records"}') == 0
  assert 'WARNING: 4 images; the complete split "train" of cityscapes_panoptic has 2975' in (
      capsys.readouterr().err)
  (path,) = (tmp_path / 'records').iterdir()
  records = [tf.train.Example.FromString(r.numpy()).features.feature
             for r in tf.data.TFRecordDataset(str(path))]
  names = [r['image/filename'].bytes_list.value[0].decode() for r in records]
  assert names == [f'{city}_00000{i}_000019' for city in ('aland', 'bland') for i in (0, 1)]
  expected = cityscapes_by_hand(root, 'train', False)
  for name, record in zip(names, records):
    assert record['image/format'].bytes_list.value[0] == b'png'
    assert record['image/height'].int64_list.value[0] == 96
    assert record['image/width'].int64_list.value[0] == 192
    label = np.frombuffer(record['image/segmentation/class/encoded'].bytes_list.value[0], '<i4')
    np.testing.assert_array_equal(label, expected[name].ravel())


def test_cityscapes_test_split_has_no_labels(tmp_path):
  root = shared.path('data', CITYSCAPES)
  assert [(f.name, f.read_label) for f in files('cityscapes_panoptic', root, 'test')] == [
      ('dland_000000_000019', None), ('dland_000001_000019', None)]
  assert run('--dataset=cityscapes_panoptic', f'--root={root}', '--split=test',
             f'--output_dir={tmp_path}') == 0
  assert not any(b'segmentation' in path.read_bytes() for path in tmp_path.iterdir())


def test_cityscapes_names_a_value_that_is_no_label(copied):
  root = copied(CITYSCAPES, ['cityscapes_panoptic_*'])
  path = root / 'gtFine/val/cland/cland_000000_000019_gtFine_instanceIds.png'
  ids = pixels(path).astype(np.uint16)
  ids[:2, :3] = 40001
  Image.fromarray(ids).save(path)
  with pytest.raises(ValueError, match='Ids.png: value 40001 .6 pixels. is category id 40,'):
    labels('cityscapes_panoptic', root, 'val')
  path.unlink()
  with pytest.raises(FileNotFoundError, match='cland_000000_000019_gtFine_instanceIds.png: no'):
    labels('cityscapes_panoptic', root, 'val')


def test_cityscapes_without_images_is_one_line(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'leftImg8bit/train: holds no CITY/\*_leftImg8bit'):
    files('cityscapes_panoptic', tmp_path, 'train')


# --- ADE20K -----------------------------------------------------------------------------------


def ade20k_by_hand(root, split):
  """From annotations_detectron2 (0..149) and the instance PNGs."""
  info = catalog.built_in('ade20k_panoptic')
  result = {}
  for path in sorted((root / 'annotations_detectron2' / split).glob('*.png')):
    semantic = pixels(path)
    instances = pixels(root / 'annotations_instance' / split / path.name)
    stuff = np.isin(semantic + 1, info.stuff_class_ids)
    label, counts = np.where(stuff, (semantic + 1) * 1000, 0), {}
    for number in np.unique(instances[..., 1]):
      region = (instances[..., 1] == number) & (instances[..., 0] > 0)
      if region.any():
        class_id = info.thing_class_ids[instances[region][0, 0] - 1]
        counts[class_id] = counts.get(class_id, 0) + 1
        label[region] = class_id * 1000 + counts[class_id]
    result[path.stem] = label
  return result


@pytest.mark.parametrize('split, folder', [('train', 'training'), ('val', 'validation')])
def test_ade20k_labels_are_those_of_its_pngs_prepared_or_not(copied, split, folder):
  root = shared.path('data', ADE20K)
  expected = ade20k_by_hand(root, folder)
  original = copied(ADE20K, ['ade20k_panoptic_*', 'annotations_detectron2'])
  assert_equal_labels(labels('ade20k_panoptic', root, split), expected)
  assert_equal_labels(labels('ade20k_panoptic', original, split), expected)


def test_ade20k_accepts_segments_that_were_painted_over(copied):
  root = copied(ADE20K)
  path = root / 'ade20k_panoptic_val.json'
  content = json.loads(path.read_text())
  segments = content['annotations'][0]['segments_info']
  segments[0]['area'] += 50
  segments.insert(0, {'id': 77, 'category_id': 0, 'area': 9, 'iscrowd': 0})
  path.write_text(json.dumps(content))
  assert_equal_labels(labels('ade20k_panoptic', root, 'val'),
                      ade20k_by_hand(shared.path('data', ADE20K), 'validation'))


def test_ade20k_makes_grey_images_rgb(copied, tmp_path):
  root = copied(ADE20K)
  for path, mode in zip(sorted((root / 'images/validation').iterdir()), ('L', 'CMYK')):
    Image.open(path).convert(mode).save(path)
  assert run('--dataset=ade20k_panoptic', f'--root={root}', '--split=val',
             f'--output_dir={tmp_path / "records"}') == 0
  (path,) = (tmp_path / 'records').iterdir()
  for record in tf.data.TFRecordDataset(str(path)):
    encoded = tf.train.Example.FromString(record.numpy()).features.feature['image/encoded']
    assert tf.io.decode_jpeg(encoded.bytes_list.value[0]).shape[2] == 3


@pytest.mark.parametrize('folder, message', [
    ('annotations', r'ADE_val_00000001.png: value 180 .* category id 179, which'),
    ('annotations_instance', r'ADE_val_00000001.png: \(R, G\) = \(180, 180\) '),
])
def test_ade20k_names_a_value_that_is_no_class(copied, folder, message):
  root = copied(ADE20K, ['ade20k_panoptic_*'])
  if folder == 'annotations':  # What instances do not hide.
    instances = root / 'annotations_instance/validation/ADE_val_00000001.png'
    Image.fromarray(pixels(instances).astype(np.uint8) * 0).save(instances)
  path = root / folder / 'validation/ADE_val_00000001.png'
  Image.fromarray(np.full_like(pixels(path), 180).astype(np.uint8)).save(path)
  with pytest.raises(ValueError, match=message):
    labels('ade20k_panoptic', root, 'val')


def test_ade20k_has_no_test_split(capsys):
  root = shared.path('data', ADE20K)
  assert run('--dataset=ade20k_panoptic', f'--root={root}', '--split=test', '--dry_run') == 2
  assert 'error: split "test": ade20k_panoptic has train and val' in capsys.readouterr().err


# --- Mapillary Vistas -------------------------------------------------------------------------


def vistas_by_hand(root, split, crowds):
  """From labels and instances; the JSON says only which region is a crowd."""
  info = catalog.built_in('mapillary_vistas')
  result = {}
  for path in sorted((root / split / 'instances').glob('*.png')):
    instances, semantic = pixels(path), pixels(root / split / 'labels' / path.name)
    label, counts = semantic * 1000, {}
    for value in np.unique(instances):
      region, class_id = instances == value, semantic[instances == value][0]
      is_crowd = (path.stem, class_id + 1, int(region.sum())) in crowds
      if class_id in info.thing_class_ids and not is_crowd:
        counts[class_id] = counts.get(class_id, 0) + 1
        label[region] += counts[class_id]
    result[path.stem] = label
  return result


@pytest.mark.parametrize('split, folder', [('train', 'training'), ('val', 'validation')])
def test_vistas_labels_are_those_of_its_pngs_with_or_without_panoptic(copied, split, folder):
  root = shared.path('data', VISTAS)
  content = json.loads((root / folder / 'panoptic/panoptic_2018.json').read_text())
  crowds = {(a['image_id'], s['category_id'], s['area']) for a in content['annotations']
            for s in a['segments_info'] if s['iscrowd']}
  assert crowds
  assert_equal_labels(labels('mapillary_vistas', root, split), vistas_by_hand(root, folder, crowds))
  # The instance PNGs do not know what is a crowd.
  assert_equal_labels(labels('mapillary_vistas', copied(VISTAS, ['panoptic']), split),
                      vistas_by_hand(root, folder, set()))


def as_version_2(root):
  """Moves labels to v2.0/ and gives the JSON more classes, as that version has."""
  for folder in ('training', 'validation'):
    (root / folder / 'v2.0').mkdir()
    for name in ('labels', 'instances', 'panoptic'):
      (root / folder / name).rename(root / folder / 'v2.0' / name)
    old = root / folder / 'v2.0/panoptic/panoptic_2018.json'
    content = json.loads(old.read_text())
    content['categories'] += [{'id': i, 'name': f'new {i}', 'isthing': 0} for i in range(66, 125)]
    old.unlink()
    old.with_name('panoptic_2020.json').write_text(json.dumps(content))


def test_vistas_2_takes_its_classes_from_the_json(copied, tmp_path, capsys):
  root = copied(VISTAS)
  as_version_2(root)
  assert run('--dataset=mapillary_vistas', f'--root={root}', '--split=val', '--dry_run') == 2
  assert 'use --dataset=mapillary_vistas_v2' in capsys.readouterr().err
  records = tmp_path / 'records'
  assert run('--dataset=mapillary_vistas_v2', f'--root={root}', '--split=val',
             f'--output_dir={records}') == 0
  hint = capsys.readouterr().out.split('read them with ')[1]
  # The hint is a textproto, and what it describes is what the records hold.
  options = text_format.Parse(f'{hint} file_pattern: "{records}/val-*"', data_pb2.DatasetOptions())
  info = catalog.from_options(options)
  assert len(info.categories) == 124
  source = readers.open_source(options, info, 'dataset_options')
  read = {e.name.numpy().decode(): e.label.numpy()
          for e in source.in_order().map(source.load)}
  # There class ids start from 1, and 0 is unlabeled.
  expected = {
      name: np.where(label // 1000 == 65, 0, label + 1000) for name, label
      in labels('mapillary_vistas', shared.path('data', VISTAS), 'val').items()}
  assert_equal_labels(read, expected)


# --- COCO's test split ------------------------------------------------------------------------


def test_coco_test_images_are_those_of_the_list_that_is_there(copied, capsys):
  root = copied('coco_sample')
  names = ['000000000001', '000000439180']
  shutil.copy(root / 'test2017/000000439180.jpg', root / 'test2017/000000000001.jpg')
  assert [f.name for f in files('coco_panoptic', root, 'test')] == names[1:]
  assert [f.name for f in files('coco_panoptic', root, 'test', annotation_file=(
      'annotations/image_info_test-dev2017.json'))] == names[1:]
  dev = root / 'annotations/image_info_test-dev2017.json'
  full = root / 'annotations/image_info_test2017.json'
  full.write_text(json.dumps({'images': [{'file_name': f'{name}.jpg'} for name in names]}))
  said = []
  assert [f.name for f in files('coco_panoptic', root, 'test', say=said.append)] == names[1:]
  dev.unlink()
  assert [f.name for f in files('coco_panoptic', root, 'test', say=said.append)] == names
  full.unlink()
  assert [f.name for f in files('coco_panoptic', root, 'test', say=said.append)] == names
  assert said == [f'images: those of {dev}', f'images: those of {full}',
                  f'images: all of {root / "test2017"}']


def test_coco_test_list_must_fit_the_folder(copied):
  root = copied('coco_sample')
  (root / 'annotations/image_info_test-dev2017.json').write_text(
      json.dumps({'images': [{'file_name': f'{i}.jpg'} for i in range(3)]}))
  with pytest.raises(FileNotFoundError, match=r'0.jpg: no such file; .* names it \(and 2 more'):
    files('coco_panoptic', root, 'test')
  (root / 'annotations/image_info_test-dev2017.json').write_text('[]')
  with pytest.raises(ValueError, match='has no list "images"'):
    files('coco_panoptic', root, 'test')


# --- Without records --------------------------------------------------------------------------


def raw_options(dataset, root, extra=''):
  options = data_pb2.DatasetOptions(dataset=dataset, file_pattern=['records-of-the-base'])
  options.raw_data.root, options.raw_data.split = str(root), 'val'
  return text_format.Merge(extra, options)


@pytest.mark.parametrize('dataset, name', [
    ('coco_panoptic', 'coco_sample'), ('cityscapes_panoptic', CITYSCAPES),
    ('ade20k_panoptic', ADE20K), ('mapillary_vistas', VISTAS)])
def test_known_data_sets_are_read_without_records(dataset, name):
  root = shared.path('data', name)
  options = raw_options(dataset, root)
  source = readers.open_source(options, catalog.from_options(options), 'dataset_options')
  found = list(source.in_order().map(source.load))
  # Crowd is kept for scoring.
  assert_equal_labels({e.name.numpy().decode(): e.label.numpy() for e in found},
                      labels(dataset, root, 'val', treat_crowd_as_ignore=False))
  for example, file in zip(found, files(dataset, root, 'val')):
    assert example.image.shape == (*example.label.shape, 3)
    np.testing.assert_array_equal(
        example.image, tf.io.decode_image(tf.io.read_file(file.image_file), 3))


def test_raw_data_of_a_test_split_needs_no_labels():
  options = raw_options('cityscapes_panoptic', shared.path('data', CITYSCAPES),
                        'raw_data { split: "test" }')
  info = catalog.from_options(options)
  with pytest.raises(config_lib.ConfigError, match='set decode_groundtruth_label to false'):
    readers.open_source(options, info, 'dataset_options')
  options.decode_groundtruth_label = False
  source = readers.open_source(options, info, 'dataset_options')
  assert all((e.label == 255000).numpy().all() for e in source.in_order().map(source.load))


@pytest.mark.parametrize('dataset, extra, message', [
    ('cityscapes_panoptic', 'raw_data { split: "dev" }', 'raw_data.split is "dev": it must be one'),
    ('coco_format', '', 'dataset "coco_format" has options of its own'),
    ('cityscapes_panoptic', 'raw_data { root: "${X}" }', 'raw_data.root is the placeholder'),
])
def test_wrong_raw_data_is_one_line(dataset, extra, message):
  options = raw_options(dataset, 'somewhere', extra)
  with pytest.raises(config_lib.ConfigError) as caught:
    readers.open_source(options, catalog.built_in('cityscapes_panoptic'), 'dataset_options')
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_label_of_another_size_than_its_image_is_named(tmp_path):
  Image.fromarray(np.zeros([4, 6, 3], np.uint8)).save(tmp_path / 'a.png')
  file = _labeled_files.LabeledFile(
      'a', str(tmp_path / 'a.png'), lambda: np.zeros([4, 5], np.int32))
  source = _labeled_files.direct([file], catalog.built_in('shapes'), with_label=True)
  with pytest.raises(tf.errors.InvalidArgumentError, match='a.png: the image is 4x6, but its'):
    source.load(tf.constant(0, tf.int64))
