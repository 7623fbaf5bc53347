"""--dry_run prints statistics of a data set and all of its problems."""

import json

import numpy as np
import pytest
import shared
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import build, catalog, survey


def run(*arguments):
  return cli.run(build.main, ['--dry_run', *map(str, arguments)])


def dry_run(folder, capsys, *extra, expect=0):
  folder.save()
  assert run('--dataset=coco_format', f'--root={folder.root}', '--split=val', *extra) == expect
  return capsys.readouterr()


def problems(output):
  """What stands below "problems:"."""
  lines = output.splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('problems: '))
  return lines[start:]


def test_figures_of_a_sound_data_set(panoptic_folder, capsys):
  before = sorted(panoptic_folder.root.rglob('*'))
  lines = dry_run(panoptic_folder, capsys).out.splitlines()
  assert lines[:3] == [
      'images: 2, 1 thing and 1 stuff classes',
      'image sizes, height x width: min 16x24, median 20x30, max 20x30',
      'segments per image: min 3, median 3, max 3']
  # Of 20x30 + 16x24 = 984 pixels: cats 30 + 25 + 30 twice, and void 3 rows of each image.
  grass = 17 * 30 + 13 * 24 - 2 * 85
  assert [line.split() for line in lines[4:6]] == [
      ['1', 'cat', 'thing', '4', '2', '2', f'{100 * 170 / 984:.2f}', '%'],
      ['2', 'grass', 'stuff', '2', '0', '2', f'{100 * grass / 984:.2f}', '%']]
  assert lines[6:] == [f'unlabeled: {100 * 162 / 984:.2f} % of all pixels', 'problems: 0']
  assert sorted(panoptic_folder.root.rglob('*')) == before  # Nothing is written.


def test_it_goes_on_after_a_problem_and_exits_with_2(panoptic_folder, capsys):
  folder = panoptic_folder
  folder.segment(0, 0)['area'] += 1
  folder.segment(0, 2)['area'] = 5
  folder.segment(1, 0)['category_id'] = 9
  folder.segment(1, 1)['iscrowd'] = 1
  folder.content['annotations'][1]['segments_info'].pop(3)  # The crowd, id 5.
  folder.content['annotations'][1]['segments_info'].append({'id': 8, 'category_id': 3})
  captured = dry_run(folder, capsys, expect=2)
  label = folder.label_dir
  assert problems(captured.out) == [
      'problems: 4',
      f'  {label}/photo1.png: segment id 12 has category id 9, which data set "coco_format" does '
      'not have',
      f'  {label}/photo1.png: segment id 5 (30 pixels) is not in the JSON',
      f'  {label}/photo1.png: segment id 70000 (category 7 "grass") is crowd, but its class is '
      'stuff',
      f'  {label}/photo1.png: segment id 8 (category 3 "cat") is in the JSON, but no pixel of the '
      'PNG has it']
  assert captured.err.endswith('error: problems of the data set: 4; see above\n')
  assert captured.out.startswith('images: 2,')


def test_files_that_are_missing_corrupt_or_of_wrong_size_are_problems(panoptic_folder, capsys):
  folder = panoptic_folder
  for number in range(2, 5):
    name = f'photo{number}'
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder.image_dir / f'{name}.png')
    folder.save_ids(folder.label_dir / f'{name}.png', folder.ids[0])
    folder.content['images'].append(
        {**folder.content['images'][0], 'id': number, 'file_name': f'{name}.png'})
    folder.content['annotations'].append(
        {**folder.content['annotations'][0], 'image_id': number, 'file_name': f'{name}.png'})
  (folder.image_dir / 'photo0.png').unlink()
  (folder.label_dir / 'photo1.png').unlink()
  (folder.image_dir / 'photo2.png').write_text('no image')
  folder.save_ids(folder.label_dir / 'photo3.png', folder.ids[0][:-1])
  captured = dry_run(folder, capsys, expect=2)
  assert captured.out.startswith('images: 1,')
  listed = problems(captured.out)
  assert listed[0] == 'problems: 4'
  for line, words in zip(sorted(listed[1:], key=lambda line: line.split('photo')[1]), (
      'val/photo0.png: No such file or directory', 'panoptic_val/photo1.png: ',
      'val/photo2.png: is not an image, or is corrupt',
      'photo3.png: is 19x30, but the JSON states')):
    assert words in line


def test_contradictions_of_the_json_are_problems(panoptic_folder, capsys):
  folder = panoptic_folder
  folder.content['images'].append(folder.content['images'][0])
  folder.content['images'].append({'id': 7, 'file_name': 'photo7.png'})
  folder.content['annotations'].append({**folder.content['annotations'][0], 'image_id': 8})
  captured = dry_run(folder, capsys, expect=2)
  assert captured.out.startswith('images: 2,')
  listed = problems(captured.out)
  assert listed[0] == 'problems: 3'
  for words in ('image id 0 occurs twice', 'image id 7 (photo7.png) has no annotation',
                'the annotation of image id 8 has no image'):
    assert any(words in line for line in listed)


def test_many_problems_of_one_kind_are_one_line(panoptic_folder, capsys):
  extra = [{'id': 1000 + i, 'category_id': 3} for i in range(30)]
  panoptic_folder.content['annotations'][0]['segments_info'] += extra
  listed = problems(dry_run(panoptic_folder, capsys, expect=2).out)
  label = panoptic_folder.label_dir
  what = '(category 3 "cat") is in the JSON, but no pixel of the PNG has it'
  assert listed == ['problems: 30', '  30 of one kind: ' + '; '.join(
      f'{label}/photo0.png: segment id {1000 + i} {what}' for i in range(3)) + '; ...']


def test_only_the_first_kinds_of_problems_are_listed():
  found = survey.Survey(catalog.built_in('shapes'))
  found.problems += [f'x.png: has the fault {chr(97 + i) * 3}' for i in range(25)]
  listed = problems('\n'.join(survey.lines(found)))
  assert listed[0] == 'problems: 25' and listed[-1] == '  and 5 more' and len(listed) == 22


def test_max_images_reads_so_many(panoptic_folder, capsys):
  assert dry_run(panoptic_folder, capsys, '--max_images=1').out.startswith('images: 1,')


def test_drawings_and_folders_of_classes_can_be_looked_at(tmp_path, capsys):
  assert run('--dataset=shapes', '--split=val', '--num_images=3') == 0
  assert capsys.readouterr().out.startswith('images: 3, 6 thing and 3 stuff classes\n')
  for name, count in (('cat', 2), ('dog', 1)):
    (tmp_path / name).mkdir()
    for i in range(count):
      Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / name / f'{i}.png')
  assert run('--dataset=image_folders', '--split=train', f'--root={tmp_path}') == 0
  assert '       2 images of cat\n       1 images of dog\n' in capsys.readouterr().out


@pytest.mark.parity
def test_figures_of_coco_are_those_counted_independently(capsys):
  root = shared.path('data', 'coco_sample')
  counts = json.loads((root / 'counts.json').read_text()).values()
  assert run('--dataset=coco_panoptic', f'--root={root}', '--split=val') == 0
  lines = capsys.readouterr().out.splitlines()
  pixels = sum(image['height'] * image['width'] for image in counts)
  void = sum(image['void_pixels'] for image in counts)
  assert f'unlabeled: {100 * void / pixels:.2f} % of all pixels' in lines
  for category in catalog.built_in('coco_panoptic').categories:
    found = [image['per_category'][category.name] for image in counts
             if category.name in image['per_category']]
    if not found:
      continue
    (line,) = [line for line in lines if f'{category.class_id:5d}  {category.name}' in line]
    crowd = sum(f['crowd'] for f in found)
    assert line.split()[-5:] == [
        str(sum(f['segments'] for f in found) - crowd), str(crowd), str(len(found)),
        f'{100 * sum(f["pixels"] for f in found) / pixels:.2f}', '%']


def test_nothing_to_count_is_no_division_by_zero():
  empty = survey.Survey(catalog.built_in('shapes'))
  assert list(survey.lines(empty)) == [
      'images: 0, 6 thing and 3 stuff classes', 'labels: none', 'problems: 0']


def test_records_that_a_config_names_are_looked_at_too(panoptic_folder, tmp_path, capsys):
  folder = panoptic_folder
  folder.save()
  records = tmp_path / 'records'
  arguments = ['--dataset=coco_format', f'--root={folder.root}', '--split=val']
  assert cli.run(build.main, [*arguments, f'--output_dir={records}', '--num_shards=1']) == 0
  expected = dry_run(folder, capsys).out
  config = tmp_path / 'mine.textproto'
  config.write_text(
      f'model_options {{ max_deeplab {{}} }} eval_dataset_options {{ dataset: "coco_format" '
      f'file_pattern: "{records}/val-*" crop_size: [33, 33] '
      f'coco_format {{ annotation_file: "{folder.json_file}" }} }}')
  assert run(f'--config_file={config}', '--split=val') == 0
  assert capsys.readouterr().out == expected[expected.index('images: '):]
  # The second record is corrupt, and the first is counted all the same.
  (path,) = records.glob('val-*')
  data = bytearray(path.read_bytes())
  data[-100] ^= 1
  path.write_bytes(data)
  assert run(f'--config_file={config}', '--split=val') == 2
  assert problems(capsys.readouterr().out) == [
      'problems: 1', f'  {path}: record 1: its checksum is wrong']


def test_without_a_data_set_there_must_be_a_config(capsys):
  assert run('--split=val') == 2
  assert '--config_file and --dry_run' in capsys.readouterr().err
