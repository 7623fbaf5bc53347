"""Differences between a JSON and the files on disk: which are allowed, and which are reported."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import build, catalog, sources
from deeplab_tf.data.sources import _labeled_files, _panoptic_format
from deeplab_tf.user_errors import UserError


@pytest.fixture(name='folder')
def _folder(panoptic_folder):
  return panoptic_folder


def both(folder, capsys, tmp_path, expect):
  """What the dry run prints, and what the builder prints on standard error."""
  folder.save()
  arguments = ['--dataset=coco_format', f'--root={folder.root}', '--split=val']
  assert cli.run(build.main, [*arguments, '--dry_run']) == expect
  output = capsys.readouterr().out
  assert cli.run(build.main, [*arguments, f'--output_dir={tmp_path}/records']) == expect
  return output, capsys.readouterr().err


def rename(folder, images, labels):
  for image, annotation in zip(folder.content['images'], folder.content['annotations']):
    image['file_name'] = images.format(image['file_name'])
    annotation['file_name'] = labels.format(annotation['file_name'])


# --- Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize('images, labels', [
    ('val\\{}', 'panoptic_val\\{}'), ('C:\\data\\val\\{}', '.\\{}'), ('./{}', '{}'),
    ('val/{}', '{}')])
def test_file_names_of_other_systems_are_found(folder, capsys, tmp_path, images, labels):
  rename(folder, images, labels)
  output, _ = both(folder, capsys, tmp_path, expect=0)
  assert output.startswith('images: 2,')
  found = _panoptic_format.annotated_images('x.json', folder.content, str(folder.image_dir),
                                            str(folder.label_dir))
  assert [image.name for image in found] == ['photo0', 'photo1']


def test_capital_extensions_on_disk_are_found(folder, capsys, tmp_path):
  for directory in (folder.image_dir, folder.label_dir):
    (directory / 'photo0.png').rename(directory / 'photo0.PNG')
  output, _ = both(folder, capsys, tmp_path, expect=0)
  assert output.startswith('images: 2,') and 'problems: 0' in output


def test_the_nearest_name_is_shown(folder, capsys, tmp_path):
  folder.content['images'][1]['file_name'] = 'photo1.jpg'
  output, error = both(folder, capsys, tmp_path, expect=2)
  assert 'photo1.jpg Did you mean "photo1.png"?' in output
  assert 'photo1.jpg: no such file; the JSON names it as the image. Did you mean "photo1.png"' in (
      error)


# --- Ids --------------------------------------------------------------------------------------


def test_ids_as_text_and_as_number_are_named_with_a_remedy(folder, capsys, tmp_path):
  for annotation in folder.content['annotations']:
    annotation['image_id'] = str(annotation['image_id'])
  folder.content['annotations'].append({**folder.content['annotations'][0], 'image_id': 'x'})
  output, error = both(folder, capsys, tmp_path, expect=2)
  line = ('ids of images are numbers in "images" and text in "annotations", e.g. 0 and \'0\' (2 '
          'images): write them alike in both lists')
  assert line in output and 'the annotation of image id x has no image' in output
  assert line in error and 'has no annotation' not in output


def test_many_images_without_annotation_are_one_line(folder, capsys, tmp_path):
  for number in range(10, 20):
    folder.content['images'].append({'id': number, 'file_name': f'{number}.png'})
  output, error = both(folder, capsys, tmp_path, expect=2)
  line = ('image id 10 (10.png), image id 11 (11.png), image id 12 (12.png) has no annotation (and '
          '7 more like it)')
  assert line in output and line in error and 'problems: 1\n' in output


# --- Areas and segments -----------------------------------------------------------------------


def test_areas_of_polygons_are_one_warning(folder, capsys, tmp_path):
  for annotation in folder.content['annotations']:
    for segment in annotation['segments_info']:
      segment['area'] = segment['area'] * 0.97
  output, error = both(folder, capsys, tmp_path, expect=0)
  for text in (output, error):
    (line,) = [line for line in text.splitlines() if line.startswith('WARNING: ')]
    assert 'nothing that is built or trained uses it: 8 (' in line
    assert f'{folder.label_dir}/photo0.png: segment id 12 (category 3 "cat") has 30 pixels' in line
  assert 'problems: 0' in output


def test_stuff_in_several_segments_is_named(folder, capsys, tmp_path):
  folder.ids[0][15:] = 70001
  folder.save_ids(folder.label_dir / 'photo0.png', folder.ids[0])
  folder.content['annotations'][0]['segments_info'].append({'id': 70001, 'category_id': 7})
  folder.segment(0, 1)['area'] = int((folder.ids[0] == 70000).sum())
  output, _ = both(folder, capsys, tmp_path, expect=0)
  (line,) = [line for line in output.splitlines() if line.startswith('WARNING: ')]
  assert 'stuff of one class in several segments' in line
  assert line.endswith(f': 1 ({folder.label_dir}/photo0.png: category 7 "grass" has 2)')


def test_things_of_which_there_is_only_crowd_are_named(folder, capsys, tmp_path):
  for annotation in folder.content['annotations']:
    for segment in annotation['segments_info']:
      segment['iscrowd'] = int(segment['category_id'] == 3)
  output, _ = both(folder, capsys, tmp_path, expect=0)
  assert 'WARNING: things of which only crowd regions occur: 1 ("cat")' in output


# --- Categories -------------------------------------------------------------------------------


def test_categories_without_isthing_get_a_remedy(folder, capsys, tmp_path):
  for category in folder.categories:
    del category['isthing']
  folder.save()
  with pytest.raises(UserError, match=r'\(2 of 2 have none\): add "isthing": 1 to'):
    catalog.from_annotation_file(folder.json_file)
  del folder.content['annotations'][0]['segments_info']
  folder.save()
  with pytest.raises(UserError, match='a detection JSON'):
    catalog.from_annotation_file(folder.json_file)


# --- Without a JSON ---------------------------------------------------------------------------


def test_labels_are_found_under_names_of_other_systems(tmp_path):
  images = []
  for name in ('a.JPG', 'sub\u00fc.png'):
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / name)
    images.append(str(tmp_path / name))
  labels = tmp_path / 'labels'
  labels.mkdir()
  for name in ('a.PNG', 'subu\u0308.png'):
    (labels / name).write_bytes(b'')
  paired = _labeled_files.paired(
      _labeled_files.unlabeled(images), lambda image: [str(labels / f'{image.name}.png')],
      lambda path: path)
  assert [image.read_label() for image in paired] == [
      str(labels / 'a.PNG'), str(labels / 'subu\u0308.png')]


def test_notes_are_counted_by_cause():
  notes = sources.Notes()
  for number in range(5, 0, -1):
    notes.add('broken', f'x{number}')
  notes.add('odd', 'y')
  assert notes.lines() == ['broken: 5 (x1; x2; x3; ...)', 'odd: 1 (y)']


def test_a_json_may_begin_with_a_mark(folder):
  folder.json_file.write_text('\ufeff' + json.dumps(folder.content), encoding='utf-8')
  assert len(_panoptic_format.read_json(folder.json_file)['images']) == 2
