"""--dry_run of data sets whose masks may overlap: their statistics, warnings and problems."""

import numpy as np
import pytest

from deeplab_tf import cli
from deeplab_tf.data import build, catalog, instance_survey, sources
from deeplab_tf.formats import instance_masks
from deeplab_tf.formats.instance_masks import InstanceMasks

INFO = catalog.built_in('coco_instances')


def run(*arguments):
  return cli.run(build.main, ['--dry_run', '--split=val', *map(str, arguments)])


def dry_run(folder, capsys, expect=0):
  folder.save()
  assert run('--dataset=coco_instance_format', f'--root={folder.root}') == expect
  return capsys.readouterr().out.splitlines()


def of_config(folder, capsys, text, expect=0):
  path = folder.root / 'mine.textproto'
  path.write_text(f'model_options {{ max_deeplab {{}} }} eval_dataset_options {{ {text} }}')
  assert run(f'--config_file={path}') == expect
  return capsys.readouterr().out.splitlines()


def rectangles(*corners, size=(100, 200), **changes):
  """InstanceMasks of rectangles (top, left, bottom, right)."""
  masks = np.zeros((*size, len(corners)), np.uint8)
  for row, (top, left, bottom, right) in enumerate(corners):
    masks[top:bottom, left:right, row] = 1
  runs = instance_masks.from_bits(np.packbits(masks, -1, bitorder='little'), len(corners))
  made = InstanceMasks(size, tuple(run['counts'] for run in runs), (1,) * len(corners),
                       (False,) * len(corners), tuple(masks.sum((0, 1)).astype(float)))
  return made._replace(**changes)


def measure(masks):
  notes = sources.Notes()
  return instance_survey.measure(masks, INFO, 'a.png', notes.add), notes.lines()


# --- The whole text ---------------------------------------------------------------------------


def test_figures_of_files_records_and_configs(instance_folder, capsys, tmp_path):
  from pycocotools import mask
  folder = instance_folder
  cat = mask.area(instance_masks.run_lengths(
      folder.content['annotations'][0]['segmentation'], (20, 30)))
  polygon = mask.area(instance_masks.run_lengths(
      folder.content['annotations'][3]['segmentation'], (16, 24)))
  pixels = 20 * 30 + 16 * 24 + 12 * 10
  lines = dry_run(folder, capsys)
  assert lines[:3] == [
      'images: 3, 3 thing and 0 stuff classes',
      'image sizes, height x width: min 12x10, median 16x24, max 20x30',
      'instances per image: min 0, median 1, max 2']
  assert lines[3].split() == ['id', 'class', 'kind', 'instances', 'crowd', 'images', 'pixels']
  assert [line.split() for line in lines[4:6]] == [
      ['1', 'dog', 'thing', '2', '0', '2', f'{100 * (72 + polygon) / pixels:.2f}', '%'],
      ['2', 'cat', 'thing', '1', '1', '1', f'{100 * (60 + cat) / pixels:.2f}', '%']]
  assert lines[6] == 'classes that do not occur: 1 ("cow")'
  labeled = float(lines[7].split()[1])
  # The cat and the dog share pixels, which are counted once.
  assert 100 - 100 * (72 + polygon + 60 + cat) / pixels < labeled < 100
  assert lines[8:] == [
      f'instance areas: min 60.5, median 72, max {polygon} pixels; 3 small (below 32 x 32), 0 '
      'medium, 0 large (from 96 x 96)',
      'images without instances: 1',
      'pairs of instances that share pixels: 1, in 1 images (33.33 %)',
      'problems: 0']
  assert of_config(folder, capsys, folder.options()) == lines
  assert cli.run(build.main, ['--dataset=coco_instance_format', f'--root={folder.root}',
                              '--split=val', f'--output_dir={tmp_path}/records']) == 0
  capsys.readouterr()
  assert of_config(folder, capsys, 'dataset: "coco_instance_format" coco_instance_format { '
                   f'annotation_file: "{folder.json_file}" }} file_pattern: "{tmp_path}/records/*"'
                   ) == lines


def test_classes_of_which_all_masks_are_crowd_are_named(instance_folder, capsys):
  for annotation in instance_folder.content['annotations']:
    annotation['iscrowd'] = int(annotation['category_id'] == 7)
  lines = dry_run(instance_folder, capsys)
  assert 'WARNING: things of which only crowd regions occur: 1 ("cat")' in lines
  lines = of_config(instance_folder, capsys, instance_folder.options(), expect=2)
  assert lines[-1] == (
      '  class 2 "cat" is a thing, but all 2 of its regions are crowd, iscrowd 1: nothing of it is '
      'trained. Does the labeling tool mark every mask of a certain kind as crowd?')


def test_a_double_annotation_is_a_warning(instance_folder, capsys):
  again = {**instance_folder.content['annotations'][1], 'id': 77}
  instance_folder.content['annotations'].append(again)
  lines = dry_run(instance_folder, capsys)
  assert (f'WARNING: {instance_survey.DUPLICATES}: 1 (photo0: instance 2 "dog" and instance 4 '
          '"dog")') in lines
  assert lines[-1] == 'problems: 0'


def test_without_labels_there_is_nothing_to_count(instance_folder, capsys):
  instance_folder.image_dir.rename(instance_folder.root / 'test')
  assert cli.run(build.main, ['--dry_run', '--dataset=coco_instance_format', '--split=test',
                              f'--root={instance_folder.root}']) == 0
  assert capsys.readouterr().out.splitlines()[2:] == ['labels: none', 'problems: 0']


# --- One image --------------------------------------------------------------------------------


def test_pairs_that_share_pixels_are_counted_without_crowds():
  found, notes = measure(rectangles((0, 0, 10, 10), (9, 9, 20, 20), (10, 0, 20, 9), (0, 0, 50, 50),
                                    is_crowd=(False, False, False, True)))
  assert found.overlaps == 1 and notes == []
  assert found.labeled_pixels == 50 * 50
  assert found.pixels.tolist() == [100, 121, 90, 2500]


def test_many_instances_are_compared_in_parts(monkeypatch):
  corners = [(3 * row, 0, 3 * row + 4, 10) for row in range(20)]  # Each touches the next one.
  whole = measure(rectangles(*corners, corners[0]))
  assert whole[0].overlaps == 19 + 2
  for rows in (1, 3, 7):
    monkeypatch.setattr(instance_survey, '_ROWS', rows)
    assert measure(rectangles(*corners, corners[0]))[0].overlaps == 21
    assert measure(rectangles(*corners, corners[0]))[1] == whole[1]


@pytest.mark.parametrize('other, is_noted', [
    ((0, 0, 20, 20), True), ((0, 0, 20, 19), True), ((0, 0, 20, 18), False)])
def test_masks_that_are_nearly_the_same(other, is_noted):
  found, notes = measure(rectangles((0, 0, 20, 20), (50, 50, 60, 60), other))
  assert found.overlaps == 1
  assert notes == [f'{instance_survey.DUPLICATES}: 1 (a.png: instance 1 "person" and instance 3 '
                   '"person")'] * is_noted


def test_empty_masks_and_odd_areas_are_noted():
  _, notes = measure(rectangles((0, 0, 20, 20), (30, 30, 30, 30), (0, 50, 20, 70), (40, 0, 42, 3),
                                areas=(150.0, 0.0, 300.0, 1.0)))
  assert notes == [
      f'{instance_survey.AREAS}: 1 (a.png: instance 1 "person" has 400 pixels, but area 150)',
      f'{instance_survey.EMPTY}: 1 (a.png: instance 2 "person")']


def test_sizes_are_those_of_average_precision():
  statistics = instance_survey.Statistics()
  for areas in ((1023.5, 1024.0), (9215.0, 9216.0), ()):
    statistics.add(measure(rectangles(
        *[(0, 0, 5, 5), (50, 50, 60, 60)][:len(areas)], areas=areas))[0])
  assert list(instance_survey.lines(statistics)) == [
      'instance areas: min 1023.5, median 5119.5, max 9216 pixels; 1 small (below 32 x 32), 2 '
      'medium, 1 large (from 96 x 96)',
      'images without instances: 1',
      'pairs of instances that share pixels: 0, in 0 images (0.00 %)']
  assert next(instance_survey.lines(instance_survey.Statistics())) == 'images without instances: 0'
