"""The report about instances: its numbers, its pictures, its files."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import coco, cocoeval
from pycocotools import mask as mask_lib

from deeplab_tf.reports.evaluation import instance_report

SIZE = (60, 80)
CATEGORIES = [{'id': 2, 'name': 'cat'}, {'id': 5, 'name': 'dog & <bone>'}, {'id': 8, 'name': 'cup'}]
GRAY, GREEN = (150,) * 3, (10, 200, 30)


def _runs(top, left, height, width):
  pixels = np.zeros(SIZE, np.uint8, order='F')
  pixels[top:top + height, left:left + width] = 1
  runs = mask_lib.encode(pixels)
  return {'size': runs['size'], 'counts': runs['counts'].decode()}


def _set(folder, images=7, seed=0):
  """Writes ground truth and results with errors of all kinds; returns their paths."""
  rng = np.random.default_rng(seed)
  annotations, results = [], []
  for image_id in range(1, images + 1):
    for _ in range(3):
      top, left, height, width = (int(rng.integers(*span))
                                  for span in ((0, 25), (0, 35), (8, 35), (8, 45)))
      category = int(rng.choice((2, 5)))
      annotations.append({
          'id': len(annotations) + 1, 'image_id': image_id, 'category_id': category,
          'area': height * width, 'iscrowd': 0, 'bbox': [left, top, width, height],
          'segmentation': _runs(top, left, height, width)})
      for _ in range(rng.integers(0, 3)):
        moved = _runs(top + int(rng.integers(0, 6)), left + int(rng.integers(0, 6)), height, width)
        results.append({'image_id': image_id, 'segmentation': moved,
                        'category_id': category if rng.random() < 0.7 else 5,
                        'score': round(float(rng.random()), 3)})
  folder.mkdir(exist_ok=True)
  (folder / 'gt.json').write_text(json.dumps({
      'images': [{'id': i, 'file_name': f'i{i}.jpg', 'height': SIZE[0], 'width': SIZE[1]}
                 for i in range(1, images + 1)],
      'annotations': annotations, 'categories': CATEGORIES}))
  (folder / 'predictions.json').write_text(json.dumps(results))
  return folder / 'gt.json', folder


def _coco(truth, results):
  """Returns COCO's twelve figures and its precision table."""
  ground_truth = coco.COCO(str(truth))
  evaluation = cocoeval.COCOeval(ground_truth, ground_truth.loadRes(str(results)), 'segm')
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
  return evaluation.stats, evaluation.eval['precision']


def _page(report):
  with open(report.page, encoding='utf-8') as file:
    return file.read()


def _cells(row):
  return [re.sub('<[^>]*>', '', cell) for cell in re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row)]


def _table(page, start):
  table = page[page.index(start):]
  body = table[table.index('<tbody'):table.index('</tbody>')]
  return [_cells(row) for row in re.findall('<tr>(.*?)</tr>', body)]


def _shown(value):
  return f'{100 * value:.1f}' if value >= 0 else 'n/a'


def test_scores_are_those_of_cocoeval(tmp_path):
  steps = []
  report = instance_report.write(tmp_path / 'new' / 'report', *_set(tmp_path / 'set'),
                                 progress=steps.append)
  stats, precision = _coco(tmp_path / 'set' / 'gt.json', tmp_path / 'set' / 'predictions.json')
  assert list(report.score.figures.values()) == pytest.approx(stats.tolist())
  page = _page(report)
  tiles = re.findall('<span class="big">([^<]*)</span><span class="name">([^<]*)', page)
  assert tiles == [(_shown(value), name) for name, value in zip(
      ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), stats)]
  (recalls,) = _table(page, 'plain recalls')
  assert recalls[1:] == [_shown(value) for value in stats[6:]]
  rows = {row[0]: row[1:] for row in _table(page, 'Table of AP by IoU')}
  for area, name in enumerate(('all', 'small', 'medium')):
    valid = [values[:, :2, area, -1] for values in precision]  # The third class has no annotation.
    assert rows[name] == [_shown(values[values > -1].mean()) for values in valid]
  assert rows['large'] == ['n/a'] * 10
  classes = {row[0]: row for row in _table(page, 'scored classes')}
  assert set(classes) == {'cat', 'dog &amp; &lt;bone&gt;'}
  for index, name in ((0, 'cat'), (1, 'dog &amp; &lt;bone&gt;')):
    assert classes[name][1] == _shown(precision[:, :, index, 0, -1].mean())
    assert classes[name][3] == _shown(precision[0, :, index, 0, -1].mean())
  assert '1 of the 3 classes is not in the ground truth' in page and sum(steps) == 7


def test_sections_and_files(tmp_path):
  report = instance_report.write(tmp_path / 'report', *_set(tmp_path / 'set'), count=2)
  assert sorted(path.name for path in (tmp_path / 'report').iterdir()) == [
      'images.csv', 'index.html']
  page = _page(report)
  assert re.findall(r'<section[^>]*><h2>([^<]*)', page) == [
      'AP by IoU, precision by recall', 'AP by class', 'Kinds of errors', 'Size of instances',
      'Images', 'False positives with the highest scores', 'Largest false negatives',
      'Worst images', 'Best images']
  assert page.count('<article>') == 8
  links = re.findall(r'(?:href|src)="([^"]*)"', page)
  anchors = set(re.findall('<a href="#([^"]*)"', page))
  assert anchors == {'iou', 'classes', 'errors', 'sizes', 'images', 'false_positives',
                     'false_negatives', 'pictures'}
  assert all(f'id="{anchor}"' in page for anchor in anchors)
  assert {link for link in links if not link.startswith(('data:', '#'))} == {'images.csv'}
  with open(tmp_path / 'report' / 'images.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['file_name'] for row in rows] == [f'i{number}.jpg' for number in range(1, 8)]
  assert all(int(row['tp']) + int(row['fn']) == 3 for row in rows)
  worst = min(rows, key=lambda row: float(row['ap']))
  gallery = page[page.index('Worst images'):]
  assert re.search('<article><h3>([^<]*)', gallery)[1] in [
      row['file_name'] for row in rows if row['ap'] == worst['ap']]


def test_kinds_of_errors_are_counted(tmp_path):
  truth, folder = _set(tmp_path / 'set', images=1)
  content = json.loads(truth.read_text())
  content['annotations'] = [
      {**content['annotations'][0], 'id': 1 + index, 'category_id': category, 'area': 400,
       'segmentation': _runs(0, left, 20, 20)} for index, (category, left) in enumerate(
           ((2, 0), (5, 50)))]
  truth.write_text(json.dumps(content))
  results = [(2, 0, 0.9), (2, 0, 0.8), (2, 50, 0.7), (2, 10, 0.3), (8, 25, 0.6)]
  (folder / 'predictions.json').write_text(json.dumps([
      {'image_id': 1, 'category_id': category, 'score': score,
       'segmentation': _runs(0, left, 20, 20)} for category, left, score in results]))
  page = _page(instance_report.write(tmp_path / 'report', truth, folder))
  rows = {row[0]: row[2:] for row in _table(page, 'class="kinds"')}
  assert rows == {
      'true positives': ['1', '20.0', '1', '25.0'], 'duplicates': ['1', '20.0', '1', '25.0'],
      'classification errors': ['1', '20.0', '1', '25.0'],
      'localization errors': ['1', '20.0', '0', '0.0'],
      'no overlap with the class': ['1', '20.0', '1', '25.0']}
  assert _table(page, 'class="mistaken"') == [['1', 'dog &amp; &lt;bone&gt;', 'cat', '1']]
  assert 'cat with a score of 0.800: duplicate, largest IoU with an annotation 1.00' in page
  assert 'cat with a score of 0.700: classification error' in page
  assert page.index('score of 0.800') < page.index('score of 0.700') < page.index('score of 0.300')
  assert 'dog &amp; &lt;bone&gt; of 400 pixels' in page
  sizes = {row[0]: row[1:] for row in _table(page, 'id="sizes"')}
  assert sizes['small'] == ['50.0', '50.0', '2', '1', '50.0'] and sizes['large'][0] == 'n/a'


def test_no_predictions_and_no_annotations_have_a_page_too(tmp_path):
  truth, folder = _set(tmp_path / 'set', images=2)
  (folder / 'predictions.json').write_text('[]')
  page = _page(instance_report.write(tmp_path / 'report', truth, folder))
  assert 'No predictions.' in page and 'False positives with' not in page
  assert '<span class="big">0.0</span><span class="name">AP<' in page
  assert 'Images with annotations but without a result: 2 of 2.' in page
  content = json.loads(truth.read_text())
  truth.write_text(json.dumps({**content, 'annotations': []}))
  page = _page(instance_report.write(tmp_path / 'report', truth, folder))
  assert 'No annotations.' in page and '<span class="big">n/a</span>' in page
  assert 'Worst' not in page and '<svg' not in page and 'nan' not in page


def _pictures(page, caption):
  found = re.findall(f'alt="{caption} of ([^"]*)" src="data:image/png;base64,([^"]*)"', page)
  return [(name, np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
          for name, data in found]


def test_masks_are_drawn_over_the_photographs(tmp_path):
  truth, folder = _set(tmp_path / 'set', images=1)
  content = json.loads(truth.read_text())
  content['annotations'] = [{**content['annotations'][0], 'segmentation': _runs(0, 0, 30, 40)}]
  truth.write_text(json.dumps(content))
  (folder / 'predictions.json').write_text(json.dumps([
      {'image_id': 1, 'category_id': 2, 'score': score, 'segmentation': _runs(30, 40, 30, 40)}
      for score in (0.9, 0.2)]))
  (tmp_path / 'photos').mkdir()
  Image.new('RGB', SIZE[::-1], GREEN).save(tmp_path / 'photos' / 'i1.png')
  page = _page(instance_report.write(tmp_path / 'report', truth, folder,
                                     images=tmp_path / 'photos'))
  gallery = page[page.index('<h2>Pictures'):]
  ((name, ground_truth),), ((_, prediction),), ((_, photograph),) = (
      _pictures(gallery, caption) for caption in ('Ground truth', 'Prediction', 'Input'))
  assert name == 'i1.jpg' and photograph.shape == ground_truth.shape == (360, 480, 3)
  assert (photograph == GREEN).all()
  # Six pixels of a picture are one of the image.
  for picture, inside, outside in ((ground_truth, (12, 12), (300, 400)),
                                   (prediction, (348, 468), (12, 12))):
    assert tuple(picture[outside]) == GREEN and tuple(picture[inside]) != GREEN
  assert '1 of 2 predictions have a score of 0.5 or more and are shown' in gallery
  ((_, errors),) = _pictures(gallery, 'Errors')
  missed, wrong = errors[12, 12].astype(int), errors[348, 468].astype(int)
  assert missed[2] > missed[0] > missed[1] and wrong[0] > 1.5 * wrong[2]
  assert 'false negative</li>' in gallery and np.ptp(errors[300, 12]) == 0
  # The findings show the part of the image around the mask, which is twice as large as the mask.
  positives = page[page.index('<h2>False positives'):page.index('<h2>Largest')]
  assert [picture.shape for _, picture in _pictures(positives, 'Prediction')] == [(360, 480, 3)] * 2


def test_a_small_mask_is_shown_enlarged(tmp_path):
  truth, folder = _set(tmp_path / 'set', images=1)
  (folder / 'predictions.json').write_text(json.dumps([
      {'image_id': 1, 'category_id': 2, 'score': 0.9, 'segmentation': _runs(58, 78, 2, 2)}]))
  page = _page(instance_report.write(tmp_path / 'report', truth, folder))
  positives = page[page.index('<h2>False positives'):page.index('<h2>Largest')]
  ((_, picture),) = _pictures(positives, 'Prediction')
  # 18 x 24 pixels of the image, at its corner, times 20; the rest is gray.
  assert picture.shape == (360, 480, 3)
  changed = (picture != GRAY).any(axis=2)
  assert changed[320:, 440:].all() and not changed[:300].any() and not changed[:, :420].any()
  assert 'Input' not in page


def test_the_same_page_with_several_processes(tmp_path):
  files = _set(tmp_path / 'set')
  pages = []
  for number in (1, 2):
    text = _page(instance_report.write(tmp_path / 'report', *files, num_workers=number))
    pages.append(text[:text.index('<footer>')])
  assert pages[0] == pages[1]


def test_a_boundary_report_says_so(tmp_path):
  report = instance_report.write(tmp_path / 'report', *_set(tmp_path / 'set'), 'boundary')
  assert 'Boundary instance segmentation in detail' in _page(report)
  plain = instance_report.write(tmp_path / 'plain', *_set(tmp_path / 'set'))
  assert report.score.figures['AP'] < plain.score.figures['AP']
