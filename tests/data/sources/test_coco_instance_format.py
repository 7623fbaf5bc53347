"""COCO's instance format: masks equal to pycocotools', files of labeling tools, and bad input."""

import contextlib
import io
import json

import numpy as np
import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from deeplab_tf import cli
from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, errors, label_maps, pipeline, readers, sources
from deeplab_tf.data.sources import coco_instance_format
from deeplab_tf.protos import config_pb2, data_pb2
from deeplab_tf.structures import InstanceLabel, OverlappingMaskTargets
from deeplab_tf.user_errors import DataError

# Errors of a Python function, inside tf.data and outside.
FAILURES = (tf.errors.OpError, DataError)


@pytest.fixture(name='folder')
def _folder(instance_folder):
  return instance_folder


def run(folder, *arguments):
  return cli.run(build.main, ['--dataset=coco_instance_format', f'--root={folder.root}',
                              '--split=val', *map(str, arguments)])


def open_source(text):
  options = text_format.Parse(text, data_pb2.DatasetOptions())
  return readers.open_source(options, catalog.from_options(options), 'dataset_options')


def load(text):
  """Name -> LabeledImage of numpy arrays, in order."""
  source = open_source(text)
  found = source.in_order().map(source.load)
  return {e.name.numpy().decode(): tf.nest.map_structure(lambda x: x.numpy(), e) for e in found}


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
  assert run(folder, f'--output_dir={tmp_path}/records') == 0
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
  assert run(folder, f'--output_dir={tmp_path}/records', *flag) == 0
  found = load('dataset: "coco_instance_format" coco_instance_format { annotation_file: "'
               f'{folder.json_file}" }} file_pattern: "{tmp_path}/records/val-*"')
  assert len(found['photo0'].label.class_ids) == count


def test_the_pipeline_takes_files_and_records(folder, experiment, tmp_path, capsys):
  assert run(folder, f'--output_dir={tmp_path}/records') == 0
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


# --- What is refused --------------------------------------------------------------------------

PACKED = {'size': [20, 30], 'counts': ''}


@pytest.mark.parametrize('change, words', [
    ({'image_id': 99}, 'annotation 40 has image_id 99, which FILE does not list'),
    ({'image_id': '4'}, "annotation 40 has image_id '4', which FILE does not list; it lists the "
     "number 4, and this is the text '4'"),
    ({'category_id': 8}, 'annotation 40 has category_id 8, which FILE does not list'),
    ({'category_id': 'dog'}, "annotation 40 has 'dog' as \"category_id\", which must be a whole"),
    ({'iscrowd': 2}, 'annotation 40 has 2 as "iscrowd", which must be 0 or 1'),
    ({'area': -3}, 'annotation 40 has -3 as "area", which must be a number of pixels'),
    ({'area': float('nan')}, 'annotation 40 has nan as "area"'),
    ({'id': [1]}, 'annotation [1] has [1] as "id"'),
    ({'segmentation': []}, '1 of 4 annotations have no mask ("segmentation" is missing or empty), '
     'e.g. annotation 40: they are detection annotations'),
])
def test_statements_are_checked_when_the_file_is_read(folder, change, words, capsys):
  folder.content['annotations'][1].update(change)
  folder.save()
  with pytest.raises(ValueError) as error:
    open_source(folder.options())
  line = str(error.value)
  assert line.startswith(f'{folder.json_file}: ') and '\n' not in line
  assert words.replace('FILE', str(folder.json_file)) in line
  assert run(folder, '--dry_run') == 2
  output = capsys.readouterr().out
  assert f'problems: 1\n  {" ".join(line.split())}' in output and 'images: 3,' in output


@pytest.mark.parametrize('mask, words', [
    ([[1, 1, 5, 5]], 'has a polygon of 2 corners; three or more are needed'),
    ([[]], 'has a polygon of 0 corners'),
    ([[1, 1, 5, 5, 7]], 'has a polygon that is not a list of three or more x, y'),
    ([[1, 1, 5, 5, 7, None]], 'has a polygon with a corner that is not a number'),
    ('xyz', 'is neither run lengths'),
    ({**PACKED, 'counts': 'zzz'}, 'has counts that are not run lengths'),
    ({**PACKED, 'counts': '0'}, 'has run lengths that add up to 0, not to 20 x 30'),
    ({**PACKED, 'counts': [600, 1]}, 'has run lengths that add up to 601, not to 20 x 30'),
    ({'size': [30, 20], 'counts': [600]}, 'is of size [30, 20], and its image of [20, 30]'),
])
def test_wrong_masks_are_named_with_annotation_image_and_class(folder, mask, words, capsys):
  folder.content['annotations'][1]['segmentation'] = mask
  folder.save()
  expected_line = (f'{folder.json_file}: annotation 40 of photo0.png (category 3 "dog"): the mask '
                   f'{words}')
  source = open_source(folder.options())
  with pytest.raises(FAILURES) as error:
    source.load(tf.constant(0, tf.int64))
  assert errors.describe_data_error(error.value).startswith(expected_line)
  assert source.load(tf.constant(1, tf.int64)).label.class_ids.numpy().tolist() == [1]
  assert run(folder, '--dry_run') == 2
  output = capsys.readouterr().out
  assert f'problems: 1\n  {expected_line}' in output and 'images: 3,' in output
  assert run(folder, f'--output_dir={folder.root}/records') == 2
  assert expected_line in capsys.readouterr().err


def test_a_detection_json_is_refused_in_one_line(folder, capsys):
  for annotation in folder.content['annotations']:
    annotation.update(segmentation=[], bbox=[1, 1, 5, 5])
  folder.save()
  assert run(folder, f'--output_dir={folder.root}/records') == 2
  assert capsys.readouterr().err == (
      f'error: {folder.json_file}: 4 of 4 annotations have no mask ("segmentation" is missing or '
      'empty), e.g. annotation 11: they are detection annotations, which have boxes only. Export '
      'polygons or run lengths from the labeling tool, or remove these annotations\n')


def test_a_panoptic_json_is_refused(panoptic_folder):
  json_file, images = panoptic_folder.json_file, panoptic_folder.image_dir
  with pytest.raises(ValueError, match='panoptic_val.json: this is a panoptic JSON; expected an '
                     'instance JSON'):
    open_source('dataset: "coco_instance_format" coco_instance_format { annotation_file: '
                f'"{json_file}" image_dir: "{images}" }}')


def test_a_category_that_coco_does_not_have_is_named(folder):
  content = json.loads(folder.json_file.read_text())
  content['categories'] = [{'id': 3, 'name': 'car'}, {'id': 7, 'name': 'train'}, {'id': 12}]
  content['annotations'][0]['category_id'] = 12
  (folder.root / 'annotations' / 'instances_val2017.json').write_text(json.dumps(content))
  folder.image_dir.rename(folder.root / 'val2017')
  raw = f'dataset: "coco_instances" raw_data {{ root: "{folder.root}" split: "val" }}'
  with pytest.raises(ValueError, match='annotation 11 has category id 12, which data set '
                     '"coco_instances" does not have'):
    open_source(raw)
  content['categories'][1]['name'] = 'cat'
  (folder.root / 'annotations' / 'instances_val2017.json').write_text(json.dumps(content))
  with pytest.raises(ValueError, match='category 7 is \'cat\', but "train" in data set "coco_ins'):
    open_source(raw)


def test_missing_images_are_named(folder):
  folder.content['images'][1]['file_name'] = 'photo9.png'
  folder.save()
  with pytest.raises(FileNotFoundError, match='photo9.png: no such file; the JSON names it as the'):
    open_source(folder.options())
  folder.content['images'] = folder.content['annotations'] = []
  folder.save()
  with pytest.raises(ValueError, match='instances_val.json: has no images'):
    open_source(folder.options())


def test_usual_places_are_found_or_named(folder):
  options = sources.BuildOptions(root=str(folder.root), split='val')
  assert len(coco_instance_format.files(options)) == 3
  folder.json_file.rename(folder.root / 'mine.json')
  with pytest.raises(FileNotFoundError, match='holds none of annotations/instances_val.json.*name '
                     'it with --annotation_file'):
    coco_instance_format.files(options)
  assert len(coco_instance_format.files(options._replace(annotation_file='mine.json'))) == 3
  # A test split needs no JSON.
  folder.image_dir.rename(folder.root / 'test')
  test = sources.BuildOptions(root=str(folder.root), split='test')
  assert [file.read_label for file in coco_instance_format.files(test)] == [None] * 3
  assert coco_instance_format.classes(test).masks_overlap


# --- Sizes ------------------------------------------------------------------------------------


def test_a_stated_size_that_the_image_does_not_have_is_named(folder, capsys):
  image = folder.content['images'][1]
  image['height'], image['width'] = 10, 11
  folder.save()
  with pytest.raises(FAILURES) as error:
    open_source(folder.options()).load(tf.constant(1, tf.int64))
  assert errors.describe_data_error(error.value) == (
      f'{folder.image_dir}/photo1.png: the image is 16x24, but its label is 10x11')
  assert run(folder, '--dry_run') == 2
  assert f'{folder.image_dir}/photo1.png: is 16x24, but the JSON states 10x11' in (
      capsys.readouterr().out)


def test_a_size_stated_for_the_image_as_stored_is_explained(folder, capsys):
  path = folder.image_dir / 'photo1.png'
  with Image.open(path) as image:
    exif = image.getexif()
    exif[274] = 6
    image.save(path, exif=exif)
  with pytest.raises(FAILURES) as error:
    open_source(folder.options()).load(tf.constant(1, tf.int64))
  line = errors.describe_data_error(error.value)
  assert 'the image is 24x16, but its label is 16x24 (the image is turned upright by its EXIF' in (
      line)
  assert 'the label fits the image as it is stored' in line
  folder.content['images'][1].update(height=24, width=16)
  folder.save()
  assert load(folder.options())['photo1'].label.mask_bits.shape == (24, 16, 1)


def test_a_huge_stated_size_takes_no_memory(folder):
  folder.content['images'][0].update(height=60000, width=60000)
  folder.content['annotations'] = folder.content['annotations'][:1]
  folder.save()
  with pytest.raises(FAILURES, match='the image photo0.png is 60000x60000: at most'):
    open_source(folder.options()).load(tf.constant(0, tf.int64))


# --- Instances as partitions ------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', ['cityscapes', 'ade20k'])
def test_instances_of_a_panoptic_data_set_are_its_things(name, split, tmp_path):
  root = shared.path('data', f'made_up_{name}')
  raw = f'raw_data {{ root: "{root}" split: "{split}" }}'
  panoptic = load(f'dataset: "{name}_panoptic" {raw}')
  info = catalog.built_in(f'{name}_instances')
  assert not info.masks_overlap and info.stuff_class_ids == ()
  found = load(f'dataset: "{name}_instances" {raw}')
  assert list(found) == list(panoptic) and found
  for key, example in panoptic.items():
    is_thing = np.isin(example.label // 1000, info.class_ids)
    assert is_thing.any() and not is_thing.all()
    np.testing.assert_array_equal(
        found[key].label, np.where(is_thing, example.label, info.void_label), err_msg=key)
    assert found[key].label.dtype == np.int32
  assert cli.run(build.main, [f'--dataset={name}_instances', f'--root={root}', f'--split={split}',
                              f'--output_dir={tmp_path}']) == 0
  records = load(f'dataset: "{name}_instances" file_pattern: "{tmp_path}/{split}-*"')
  for key, example in records.items():
    np.testing.assert_array_equal(example.label, found[key].label)


@pytest.mark.parity
def test_crowds_of_cityscapes_can_be_left_out(tmp_path):
  root = shared.path('data', 'made_up_cityscapes')
  text = ('dataset: "cityscapes_instances" raw_data { root: "%s" split: "val" '
          'treat_crowd_as_ignore: %s }')
  kept, ignored = [load(text % (root, value)) for value in ('false', 'true')]
  crowd = 0
  for key, example in kept.items():
    is_crowd = (example.label % 1000 == 0) & (example.label != 255000)
    crowd += is_crowd.sum()
    np.testing.assert_array_equal(ignored[key].label, np.where(is_crowd, 255000, example.label))
  assert crowd
  without = load('dataset: "cityscapes_instances" decode_groundtruth_label: false raw_data '
                 f'{{ root: "{root}" split: "test" }}')
  assert all((example.label == 255000).all() for example in without.values())


def test_ade20k_needs_its_instance_pngs_only(tmp_path):
  for folder, pixels in (('images', np.zeros((4, 5, 3))), ('annotations_instance', [
      [[0, 0, 9], [2, 1, 9], [2, 1, 9], [2, 2, 0], [1, 3, 0]]] * 4)):
    (tmp_path / folder / 'validation').mkdir(parents=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(tmp_path / folder / 'validation' / 'a.png')
  raw = f'dataset: "ade20k_instances" raw_data {{ root: "{tmp_path}" split: "val" }}'
  things = catalog.built_in('ade20k_instances').class_ids
  assert len(things) == 100
  np.testing.assert_array_equal(load(raw)['a'].label, [
      [0, 1000 * things[1] + 1, 1000 * things[1] + 1, 1000 * things[1] + 2,
       1000 * things[0] + 1]] * 4)
  path = tmp_path / 'annotations_instance' / 'validation' / 'a.png'
  Image.fromarray(np.full((4, 5, 3), 101, np.uint8)).save(path)
  with pytest.raises(FAILURES, match=r'a.png: \(R, G\) = \(101, 101\) \(20 pixels\) is'):
    load(raw)
  with pytest.raises(ValueError, match='split "test": ade20k_instances has train and val'):
    open_source(raw.replace('"val"', '"test"'))
