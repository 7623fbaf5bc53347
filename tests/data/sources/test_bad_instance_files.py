"""Instance JSONs and masks that are refused, each in one line."""

import json

import pytest
import tensorflow as tf
from data_sources import FAILURES, build_instances, load, open_source
from PIL import Image

from deeplab_tf.data import errors, sources
from deeplab_tf.data.sources import coco_instance_format


@pytest.fixture(name='folder')
def _folder(instance_folder):
  return instance_folder


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
  assert build_instances(folder, '--dry_run') == 2
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
  assert build_instances(folder, '--dry_run') == 2
  output = capsys.readouterr().out
  assert f'problems: 1\n  {expected_line}' in output and 'images: 3,' in output
  assert build_instances(folder, f'--output_dir={folder.root}/records') == 2
  assert expected_line in capsys.readouterr().err


def test_a_detection_json_is_refused_in_one_line(folder, capsys):
  for annotation in folder.content['annotations']:
    annotation.update(segmentation=[], bbox=[1, 1, 5, 5])
  folder.save()
  assert build_instances(folder, f'--output_dir={folder.root}/records') == 2
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
  assert build_instances(folder, '--dry_run') == 2
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
