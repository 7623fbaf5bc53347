"""The report about semantic maps: its numbers, its pictures, its files, for both kinds of files."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.reports.evaluation import semantic_report

SIZE = (24, 32)
NAMES = {10: 'road', 20: 'sky-other-merged', 30: 'car & <van>'}


def _maps(count=5, seed=0):
  """Maps of the classes 0, 1 and 2, and of void, which is 255; predictions have errors."""
  rng = np.random.default_rng(seed)
  for number in range(count):
    truth = np.kron(rng.choice([0, 1, 2, 255], (3, 4), p=[0.5, 0.3, 0.1, 0.1]),
                    np.ones((8, 8), np.int64)).astype(np.int64)
    wrong = rng.random(SIZE) < 0.1 * number
    yield truth, np.where(wrong, (truth + 1) % 3, np.where(truth == 255, 0, truth))


def _folders(tmp_path, maps):
  for side in ('gt', 'pred'):
    (tmp_path / side).mkdir()
  for number, pair in enumerate(maps):
    for side, labels in zip(('gt', 'pred'), pair):
      Image.fromarray(labels.astype(np.uint8)).save(tmp_path / side / f'i{number}.png')
    Image.new('RGB', (3, 3)).save(tmp_path / 'pred' / f'i{number}_overlay.png')
  (tmp_path / 'pred' / 'predictions.json').write_text('[]')
  return semantic_report.from_label_pngs(tmp_path / 'gt', tmp_path / 'pred', 3)


def _panoptic(tmp_path, maps):
  """The same maps as panoptic files, whose segments are numbered 1, 2, 3."""
  sides = {'gt': [], 'pred': []}
  for number, pair in enumerate(maps):
    for (side, annotations), labels in zip(sides.items(), pair):
      (tmp_path / side).mkdir(exist_ok=True)
      ids = np.where(labels == 255, 0, labels + 1)
      coco_panoptic.write_panoptic_png(tmp_path / side / f'i{number}.png', ids)
      annotations.append({'image_id': number, 'file_name': f'i{number}.png', 'segments_info': [
          {'id': i, 'category_id': 10 * i, 'area': int((ids == i).sum()), 'iscrowd': 0}
          for i in np.unique(ids[ids > 0]).tolist()]})
  images = [{'id': number, 'file_name': f'i{number}.jpg'} for number in range(len(sides['gt']))]
  (tmp_path / 'gt.json').write_text(json.dumps({
      'images': images, 'annotations': sides['gt'], 'categories': [
          {'id': i, 'name': name, 'isthing': int(i == 30)} for i, name in NAMES.items()]}))
  (tmp_path / 'pred.json').write_text(json.dumps({'annotations': sides['pred']}))
  return semantic_report.from_panoptic(tmp_path / 'gt.json', tmp_path / 'pred.json')


def _page(report):
  with open(report.page, encoding='utf-8') as file:
    return file.read()


def _cells(row):
  return [re.sub('<[^>]*>', '', cell) for cell in re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row)]


def _table(page, start):
  table = page[page.index(start):]
  body = table[table.index('<tbody'):table.index('</tbody>')]
  return [_cells(row) for row in re.findall('<tr>(.*?)</tr>', body)]


def _numpy_confusion(maps):
  table = np.zeros((3, 3), np.int64)
  for truth, prediction in maps:
    counted = truth != 255
    np.add.at(table, (truth[counted], prediction[counted]), 1)
  return table


@pytest.mark.parametrize('source, names', [
    (_folders, ['0', '1', '2']), (_panoptic, ['road', 'sky', 'car &amp; &lt;van&gt;'])])
def test_numbers_are_those_of_numpy(tmp_path, source, names):
  maps = list(_maps())
  report = semantic_report.write(tmp_path / 'new' / 'report', source(tmp_path, maps), count=2)
  table = _numpy_confusion(maps)
  found, rows, columns = np.diagonal(table), table.sum(axis=1), table.sum(axis=0)
  ious = found / (rows + columns - found)
  page = _page(report)
  tiles = dict(re.findall('<span class="name">([^<]*)</span>', tile)[::-1] + re.findall(
      '<span class="big">([^<]*)', tile) for tile in re.findall(
          '<div class="tile">.*?</div>', page))
  expected = {'mIoU': ious.mean(), 'mIoU, classes in either': ious.mean(),
              'mIoU, detectron2': ious.mean(),
              'frequency-weighted IoU': np.average(ious, weights=rows),
              'mean class accuracy': (found / rows).mean(),
              'pixel accuracy': found.sum() / table.sum()}
  assert tiles == {name: f'{100 * value:.1f}' for name, value in expected.items()}
  assert report.score.metric.result()['miou'] == pytest.approx(ious.mean())
  classes = {row[0]: row for row in _table(page, 'scored classes')}
  assert list(classes) == [names[index] for index in np.argsort(-ious)]
  for index, name in enumerate(names):
    shares = (ious[index], found[index] / rows[index], found[index] / columns[index],
              rows[index] / table.sum())
    assert [classes[name][place] for place in (1, 3, 4, 5)] == [
        f'{100 * share:.1f}' for share in shares]
  apart = [(table[i, j], names[i], names[j]) for i in range(3) for j in range(3) if i != j]
  pairs = _table(page, 'class="mistaken"')
  assert [int(row[3]) for row in pairs] == sorted((number for number, *_ in apart if number),
                                                  reverse=True)
  assert {tuple(row[1:3]) for row in pairs} == {(one, other) for number, one, other in apart
                                                if number}
  heat = _table(page, 'class="heat"')
  assert [row[0] for row in heat] == names
  assert heat[0][1] == f'{100 * table[0, 0] / rows[0]:.0f}'


def test_sections_files_and_worst_images(tmp_path):
  maps = list(_maps())
  report = semantic_report.write(tmp_path / 'report', _folders(tmp_path, maps), count=2)
  assert sorted(path.name for path in (tmp_path / 'report').iterdir()) == [
      'images.csv', 'index.html']
  page = _page(report)
  assert re.findall(r'<section[^>]*><h2>([^<]*)', page) == [
      'IoU by class', 'Confusion of classes', 'Images', 'Worst images', 'Best images']
  with open(tmp_path / 'report' / 'images.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['file_name'] for row in rows] == [f'i{number}.png' for number in range(5)]
  for row, (truth, prediction) in zip(rows, maps):
    counted = truth != 255
    accuracy = (truth == prediction)[counted].mean()
    assert float(row['pixel_accuracy']) == pytest.approx(accuracy, abs=1e-6)
  order = sorted(rows, key=lambda row: float(row['miou']))
  shown = re.findall('<article><h3>([^<]*)<span class="badge">mIoU ([^<]*)', page)
  assert shown[:2] == [(row['file_name'], f'{100 * float(row["miou"]):.1f}') for row in order[:2]]
  assert shown[2][0] == order[-1]['file_name'] == 'i0.png'
  assert 'Left out of the score: ignored pixels' in page
  assert 'wrong class</li>' in page and 'wrong instance' not in page


def _picture(page, caption):
  (data,) = re.findall(f'alt="{caption} of [^"]*" src="data:image/png;base64,([^"]*)"', page)
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_errors_are_drawn_where_they_are(tmp_path):
  truth = np.zeros(SIZE, np.int64)
  truth[:, 16:] = 255
  prediction = np.where(np.arange(SIZE[0])[:, None] < 12, 0, 2) + np.zeros_like(truth)
  page = _page(semantic_report.write(tmp_path / 'report',
                                     _folders(tmp_path, [(truth, prediction)])))
  assert 'Pixel accuracy 50.0 %\nMost pixels: 0 as 2 (50.0 %)' in page and 'Input' not in page
  errors = _picture(page, 'Errors')[::15, ::15]  # A pixel of the image is 15 x 15 of the picture.
  correct, wrong, unlabeled = errors[5, 8], errors[20, 8], errors[5, 25]
  assert correct[1] > correct[0] and wrong[0] > wrong[1] and unlabeled.max() < 120
  assert _picture(page, 'Ground truth').shape == _picture(page, 'Prediction').shape == (
      360, 480, 3)


def test_photographs_are_shown(tmp_path):
  source = _panoptic(tmp_path, list(_maps(2)))
  (tmp_path / 'photos').mkdir()
  Image.new('RGB', SIZE[::-1], (10, 200, 30)).save(tmp_path / 'photos' / 'i1.jpg')
  page = _page(semantic_report.write(tmp_path / 'report', source, tmp_path / 'photos'))
  assert page.count('alt="Input of') == 1 and '1 of the 2 images are not in' in page
  assert 'their classes are shown on gray' in page


def test_an_ignored_class_is_void_and_a_class_beyond_all_is_missed(tmp_path):
  for side, value in (('gt', 0), ('pred', 9)):
    (tmp_path / side).mkdir()
    labels = np.full(SIZE, 1)
    labels[:, :16] = value
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / side / 'a.png')
  source = semantic_report.from_label_pngs(tmp_path / 'gt', tmp_path / 'pred', 2, 0)
  report = semantic_report.write(tmp_path / 'report', source)
  assert report.score.metric.result()['miou'] == 1.0
  assert report.score.metric.ignored == 16 * 24


def test_one_perfect_class_and_only_void(tmp_path):
  labels = np.zeros(SIZE, np.int64)
  page = _page(semantic_report.write(tmp_path / 'report', _folders(tmp_path, [(labels, labels)])))
  assert 'No pixel was predicted as another class' in page and 'Pixel accuracy 100.0 %' in page
  (tmp_path / 'void').mkdir()
  void = np.full(SIZE, 255)
  page = _page(semantic_report.write(tmp_path / 'report',
                                     _folders(tmp_path / 'void', [(void, labels)])))
  assert 'No pixel of any class' in page and '<span class="big">n/a</span>' in page
  assert 'Pictures' not in page and '<svg' not in page


def test_the_same_page_with_several_processes(tmp_path):
  source = _folders(tmp_path, list(_maps(9)))
  pages = []
  for number in (1, 2):
    text = _page(semantic_report.write(tmp_path / 'report', source, num_workers=number))
    pages.append(text[:text.index('<footer>')])
  assert pages[0] == pages[1]
