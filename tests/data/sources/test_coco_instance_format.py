"""COCO's instance format: masks equal to pycocotools', files of labeling tools, and bad input."""

import contextlib
import io

import numpy as np
import pytest
import shared
import tensorflow as tf
from data_sources import build_instances, load, open_source

from deeplab_tf import cli
from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, label_maps, pipeline
from deeplab_tf.protos import config_pb2
from deeplab_tf.structures import InstanceLabel, OverlappingMaskTargets


@pytest.fixture(name='folder')
def _folder(instance_folder):
  return instance_folder


def masks_of(label):
  """bool [height, width, instances]."""
  return np.unpackbits(label.mask_bits, axis=-1, bitorder='little')[
      ..., :len(label.class_ids)].astype(bool)


def expected(json_file):
  """File name -> annotations with their masks, by pycocotools' own reader."""
  from pycocotools.coco import COCO
  with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(str(json_file))
  return {image['file_name']: [(a, coco.annToMask(a).astype(bool)) for a in coco.loadAnns(
      coco.getAnnIds([image['id']]))] for image in coco.dataset['images']}


def assert_as_pycocotools(found, json_file, info):
  truth = expected(json_file)
  assert list(found) == sorted(name.split('.')[0] for name in truth)
  for name, annotated in truth.items():
    label = found[name.split('.')[0]].label
    assert isinstance(label, InstanceLabel)
    assert label.class_ids.tolist() == [
        info.by_category_id[a['category_id']].class_id for a, _ in annotated]
    assert label.is_crowd.tolist() == [bool(a.get('iscrowd', 0)) for a, _ in annotated]
    np.testing.assert_allclose(label.areas, [a.get('area', m.sum()) for a, m in annotated])
    masks = masks_of(label)
    assert masks.shape == (*found[name.split('.')[0]].image.shape[:2], len(annotated))
    for row, (_, mask) in enumerate(annotated):
      np.testing.assert_array_equal(masks[..., row], mask, err_msg=f'{name}: {row}')
    assert [values.dtype for values in label] == [np.uint8, np.int32, bool, np.float32]


# --- Masks ------------------------------------------------------------------------------------


def test_files_and_records_give_the_masks_of_pycocotools(folder, tmp_path):
  info = catalog.from_instance_file(folder.json_file)
  direct = load(folder.options())
  assert_as_pycocotools(direct, folder.json_file, info)
  (overlap,) = np.argwhere(masks_of(direct['photo0'].label)[..., :2].all(-1))[:1]
  assert overlap.shape == (2,)  # The masks of cat and dog do share pixels.
  assert direct['photo2'].label.mask_bits.shape == (12, 10, 0)
  assert build_instances(folder, f'--output_dir={tmp_path}/records') == 0
  records = load('dataset: "coco_instance_format" coco_instance_format { annotation_file: "'
                 f'{folder.json_file}" }} file_pattern: "{tmp_path}/records/val-*"')
  assert list(records) == list(direct)
  for name in direct:
    for one, other in zip(tf.nest.flatten(records[name]), tf.nest.flatten(direct[name])):
      np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parity
@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_is_read_from_its_own_tree(tmp_path, split):
  root = shared.path('data', 'coco_sample')
  info = catalog.built_in('coco_instances')
  json_file = root / 'annotations' / f'instances_{split}2017.json'
  found = load(f'dataset: "coco_instances" raw_data {{ root: "{root}" split: "{split}" }}')
  assert_as_pycocotools(found, json_file, info)
  assert cli.run(build.main, ['--dataset=coco_instances', f'--root={root}', f'--split={split}',
                              f'--output_dir={tmp_path}']) == 0
  assert_as_pycocotools(load(f'dataset: "coco_instances" file_pattern: "{tmp_path}/{split}-*"'),
                        json_file, info)
  # The masks of this sample are the things of its panoptic annotation, crowds included.
  panoptic = load(f'dataset: "coco_panoptic" raw_data {{ root: "{root}" split: "{split}" }}')
  for name, example in panoptic.items():
    things = np.isin(example.label // 256, catalog.built_in('coco_panoptic').thing_class_ids)
    np.testing.assert_array_equal(masks_of(found[name].label).any(-1), things)


@pytest.mark.parity
def test_cocos_test_split_has_no_labels(tmp_path):
  root = shared.path('data', 'coco_sample')
  text = (f'dataset: "coco_instances" raw_data {{ root: "{root}" split: "test" }} '
          'decode_groundtruth_label: %s')
  with pytest.raises(config_lib.ConfigError, match='set decode_groundtruth_label to false'):
    open_source(text % 'true')
  assert cli.run(build.main, ['--dataset=coco_instances', f'--root={root}', '--split=test',
                              f'--output_dir={tmp_path}']) == 0
  records = (f'dataset: "coco_instances" file_pattern: "{tmp_path}/test-*" '
             'decode_groundtruth_label: false')
  for found in (load(text % 'false'), load(records)):
    (example,) = found.values()
    height, width = example.image.shape[:2]
    assert example.label.mask_bits.shape == (height, width, 0)
    assert [values.shape for values in example.label[1:]] == [(0,)] * 3


def test_shapes_are_known_while_tracing(folder):
  source = open_source(folder.options())
  spec = source.in_order().map(source.load).element_spec.label
  assert [s.shape.as_list() for s in spec] == [[None, None, None], [None], [None], [None]]


@pytest.mark.parametrize('flag, count', [([], 3), (['--keep_crowd'], 3),
                                         (['--treat_crowd_as_ignore'], 2)])
def test_crowds_are_kept_unless_they_are_not_wanted(folder, tmp_path, flag, count):
  assert build_instances(folder, f'--output_dir={tmp_path}/records', *flag) == 0
  found = load('dataset: "coco_instance_format" coco_instance_format { annotation_file: "'
               f'{folder.json_file}" }} file_pattern: "{tmp_path}/records/val-*"')
  assert len(found['photo0'].label.class_ids) == count


def test_the_pipeline_takes_files_and_records(folder, experiment, tmp_path, capsys):
  assert build_instances(folder, f'--output_dir={tmp_path}/records') == 0
  (path,) = (tmp_path / 'records').iterdir()
  records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in (records[0].replace(b'rle', b'xyz'), *records):
      writer.write(record)
  direct, text = load(folder.options()), folder.options()
  for options, names in ((text, list(direct)), (
      text.replace(f'image_dir: "{folder.image_dir}"', '')
      + f' file_pattern: "{path}" max_damaged_images: 1', list(direct))):
    config = experiment(f'{options} max_thing_id: 9', options)
    config.task = config_pb2.ExperimentOptions.INSTANCE
    info = catalog.from_config(config)
    found = []
    for batch in pipeline.eval_dataset(config, info):
      for i, name in enumerate(batch.name.numpy()):
        found.append(name.decode())
        label = label_maps.of_image(batch.label, i, *batch.raw_size[i].numpy())
        for one, other in zip(label, direct[found[-1]].label):
          np.testing.assert_array_equal(one, other)
    assert found == names
    for images, targets in pipeline.train_dataset(config, info, 'mask', 1).take(3):
      assert isinstance(targets, OverlappingMaskTargets) and np.isfinite(images).all()
      # The crowd of photo0 is no target: at most two instances, of class indices 0 and 1.
      assert (targets.mask_classes.numpy() >= 0).sum(1).max() <= 2
      assert targets.mask_classes.numpy().max() <= 1
  assert 'left out: ' in capsys.readouterr().err


# --- Classes ----------------------------------------------------------------------------------


def test_classes_are_all_things_in_the_order_of_category_ids(folder):
  info = catalog.from_instance_file(folder.json_file)
  assert [(c.class_id, c.category_id, c.name, c.isthing) for c in info.categories] == [
      (1, 3, 'dog', True), (2, 7, 'cat', True), (3, 90, 'cow', True)]
  assert (info.name, info.num_classes, info.ignore_label, info.masks_overlap) == (
      'coco_instance_format', 4, 0, True)
  assert len({c.color for c in info.categories}) == 3
  folder.content['categories'][0]['isthing'] = 0
  folder.content['categories'][0]['color'] = [1, 2, 3]
  cat = catalog.from_instance_categories(folder.content, 'x.json').by_category_id[7]
  assert cat.isthing and cat.color == (1, 2, 3)


@pytest.mark.parametrize('options, words', [
    ('', 'dataset "coco_instance_format" needs coco_instance_format.annotation_file, the instance'),
    ('coco_instance_format { annotation_file: "/none.json" }',
     '/none.json: no such file (coco_instance_format.annotation_file)'),
    ('coco_instance_format { annotation_file: "${FILE}" }',
     'coco_instance_format.annotation_file is the placeholder'),
])
def test_a_missing_annotation_file_is_one_line(options, words):
  with pytest.raises(config_lib.ConfigError) as error:
    open_source(f'dataset: "coco_instance_format" {options}')
  assert words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('categories, words', [
    (None, 'has no list "categories"; an instance JSON'),
    ([], 'has no list "categories"'),
    ([{'id': 1}], 'has no "name"'),
    ([{'id': 'a', 'name': 'x'}], "category id 'a' of \"x\" is not a whole number"),
    ([3], 'category 3 is not an object'),
])
def test_wrong_categories_are_named(folder, categories, words):
  folder.content['categories'] = categories
  folder.save()
  with pytest.raises(config_lib.ConfigError) as error:
    catalog.from_instance_file(folder.json_file)
  assert str(error.value).startswith(f'{folder.json_file}: ') and words in str(error.value)


# --- Files of labeling tools ------------------------------------------------------------------


def as_text(content):
  for image in content['images']:
    image['id'] = f'photo {image["id"]}'
  for number, annotation in enumerate(content['annotations']):
    annotation['image_id'] = f'photo {annotation["image_id"]}'
    annotation['id'] = f'{number:x}-4f'


def with_folders(content):
  for image in content['images']:
    image['file_name'] = f'val/{image["file_name"]}'


def with_windows_paths(content):
  for image in content['images']:
    image['file_name'] = f'C:\\export\\val\\{image["file_name"]}'


def with_more_fields(content):
  content.update(info={'contributor': ''}, licenses=[{'name': '', 'id': 0, 'url': ''}])
  for image in content['images']:
    image.update(license=0, flickr_url='', date_captured=0)
  for annotation in content['annotations']:
    annotation.update(attributes={'occluded': False}, ignore=0, bbox=[])


def with_flags_as_words(content):
  for annotation in content['annotations']:
    annotation['iscrowd'] = bool(annotation.get('iscrowd', 0))
    annotation.setdefault('area', None)


def with_a_category_above(content):
  content['categories'].insert(0, {'id': 0, 'name': 'animals', 'supercategory': 'none'})


def without_ids(content):
  for annotation in content['annotations']:
    del annotation['id']


@pytest.mark.parametrize('change', [
    as_text, with_folders, with_windows_paths, with_more_fields, with_flags_as_words,
    with_a_category_above, without_ids])
def test_what_labeling_tools_write_is_read(folder, change):
  before = load(folder.options())
  change(folder.content)
  folder.save()
  after = load(folder.options())
  offset = int(change is with_a_category_above)  # Class ids are numbered from the first category.
  assert list(after) == list(before)
  for name in before:
    np.testing.assert_array_equal(after[name].label.class_ids,
                                  before[name].label.class_ids + offset)
    for one, other in zip(after[name].label, before[name].label):
      if one.dtype != np.int32:
        np.testing.assert_array_equal(one, other)
