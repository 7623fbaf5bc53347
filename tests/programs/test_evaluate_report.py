"""evaluation/evaluate.py --report: the pages about predictions of each task."""

import base64
import csv
import io
import json
import re
import shutil

import programs
import pytest
import shared
from PIL import Image

PROGRAM = 'evaluation/evaluate.py'


def _flags(folder, output, *more):
  return ('--task=panoptic', f'--ground_truth={folder / "gt.json"}',
          f'--predictions={folder / "pred.json"}', f'--report={output}', *more)


def _page(folder):
  return (folder / 'index.html').read_text(encoding='utf-8')


def _sections(page):
  return re.findall(r'<section[^>]*><h2>([^<]*)', page)


@pytest.mark.parity
def test_many_images(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'many_60')
  run = programs.run(PROGRAM, *_flags(folder, tmp_path / 'report', '--workers=2',
                                      f'--output={tmp_path / "scores.json"}'))
  assert f'written to {tmp_path / "report" / "index.html"}' in run.stdout
  expected = json.loads((folder / 'expected.json').read_text())['panopticapi']
  scores = json.loads((tmp_path / 'scores.json').read_text())
  for group in ('All', 'Things', 'Stuff'):
    assert scores[group]['pq'] == pytest.approx(expected[group]['pq'], abs=1e-9)
  page = _page(tmp_path / 'report')
  for group in ('All', 'Things', 'Stuff'):
    assert f'<b>{100 * expected[group]["pq"]:.1f}</b> PQ' in page
  assert _sections(page) == ['PQ by class', 'PQ by size of segment', 'Confusion of classes',
                             'Images and masks', 'Worst images', 'Best images']
  assert page.count('<article>') == 12
  with open(tmp_path / 'report' / 'images.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 60
  worst = min(rows, key=lambda row: float(row['pq']))
  assert re.search('<article><h3>([^<]*)', page)[1] == worst['file_name']
  counts = [sum(scores[key] for scores in expected['per_class'].values())
            for key in ('tp', 'fp', 'fn')]
  assert [sum(int(row[key]) for row in rows) for key in ('tp', 'fp', 'fn')] == counts


@pytest.mark.parity
def test_photographs_are_shown(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'real_strong')
  images = shared.path('data', 'coco_sample', 'val2017')
  programs.run(PROGRAM, *_flags(folder, tmp_path / 'report', f'--images={images}'))
  page = _page(tmp_path / 'report')
  inputs = re.findall(r'alt="Input of ([^"]*)" src="data:image/jpeg;base64,([^"]*)"', page)
  assert sorted(name for name, _ in inputs) == ['000000142238.jpg', '000000439180.jpg']
  for name, data in inputs:
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown, Image.open(
        images / name) as original:
      assert shown.size == original.size


@pytest.mark.parity
@pytest.mark.parametrize('name, words', [
    ('wrong_classes', '>0.0</b> PQ'), ('things_only', 'no classes'),
    ('empty_predictions', '<dt>ground truth segments</dt><dd>48</dd>')])
def test_unusual_sets_have_a_page_too(tmp_path, name, words):
  folder = shared.path('parity', 'evaluation', 'pq', name)
  programs.run(PROGRAM, *_flags(folder, tmp_path / 'report'))
  page = _page(tmp_path / 'report')
  assert words in page and 'Worst images' in page and 'nan' not in re.sub(r'<img[^>]*>', '', page)


@pytest.mark.parity
def test_a_boundary_report_is_about_the_boundary_score(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'things_only')
  programs.run(PROGRAM, *_flags(folder, tmp_path / 'report', '--boundary'))
  page = _page(tmp_path / 'report')
  expected = json.loads((folder / 'expected.json').read_text())['boundary_pq']['Things']['pq']
  assert 'Boundary panoptic quality' in page and f'<b>{100 * expected:.1f}</b> PQ' in page


@pytest.mark.parity
def test_wrong_use_is_one_line_before_the_work(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'things_only')
  (tmp_path / 'file').write_text('')
  assert 'is a file' in programs.error_line(PROGRAM, *_flags(folder, tmp_path / 'file'))
  report = tmp_path / 'report'
  (tmp_path / 'photos').mkdir()
  assert 'none of the 2 images' in programs.error_line(
      PROGRAM, *_flags(folder, report, f'--images={tmp_path / "photos"}'))
  assert 'no such folder' in programs.error_line(
      PROGRAM, *_flags(folder, report, f'--images={tmp_path / "none"}'))
  assert '--images belongs to --report' in programs.error_line(
      PROGRAM, *_flags(folder, report)[:3], f'--images={tmp_path / "photos"}')
  for flag in ('--definition=deeplab2',):
    assert '--report belongs to' in programs.error_line(PROGRAM, *_flags(folder, report), flag)
  assert not report.exists()


@pytest.mark.parity
def test_an_earlier_page_is_replaced(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'things_only')
  (tmp_path / 'report').mkdir()
  (tmp_path / 'report' / 'index.html').write_text('old')
  (tmp_path / 'report' / 'mine.txt').write_text('kept')
  programs.run(PROGRAM, *_flags(folder, tmp_path / 'report'))
  assert _page(tmp_path / 'report') != 'old'
  assert sorted(path.name for path in (tmp_path / 'report').iterdir()) == [
      'images.csv', 'index.html', 'mine.txt']
  # A folder can be moved: nothing in the page points out of it.
  moved = shutil.move(str(tmp_path / 'report'), str(tmp_path / 'elsewhere'))
  links = re.findall(r'(?:href|src)="([^"#]*)"', _page(tmp_path / 'elsewhere'))
  assert moved and {link for link in links if not link.startswith('data:')} == {'images.csv'}


@pytest.mark.parity
@pytest.mark.parametrize('flags', [(), ('--boundary',)])
def test_instances(tmp_path, flags):
  folder = shared.path('parity', 'evaluation', 'instance_ap', 'real')
  images = shared.path('data', 'coco_sample', 'val2017')
  run = programs.run(
      PROGRAM, '--task=instance', f'--ground_truth={folder / "gt.json"}',
      f'--predictions={folder / "results.json"}', f'--report={tmp_path}', f'--images={images}',
      f'--output={tmp_path / "scores.json"}', '--workers=2', *flags)
  assert f'written to {tmp_path / "index.html"}' in run.stdout
  key = 'boundary' if flags else 'segm'
  expected = json.loads((folder / 'expected.json').read_text())[key]['stats']
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
  page = _page(tmp_path)
  printed = dict(line.split() for line in run.stdout.splitlines()[:12])
  for name in ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'):
    assert f'<span class="big">{printed[name]}</span><span class="name">{name}<' in page
  assert page.count('alt="Input of') == page.count('<article>') > 4


@pytest.mark.parity
def test_semantic_maps_of_panoptic_files(tmp_path):
  folder = shared.path('parity', 'evaluation', 'pq', 'real_strong')
  images = shared.path('data', 'coco_sample', 'val2017')
  run = programs.run(PROGRAM, *_flags(folder, tmp_path / 'report', f'--images={images}'),
                     '--task=semantic', '--workers=2')
  page = _page(tmp_path / 'report')
  printed = dict(re.findall(r'^(\S.*\S) {2,}(\S+)$', run.stdout, re.MULTILINE))
  for name in ('mIoU', 'frequency-weighted IoU', 'pixel accuracy'):
    assert f'<span class="big">{printed[name]}</span><span class="name">{name}<' in page
  assert _sections(page) == ['IoU by class', 'Confusion of classes', 'Images', 'Worst images',
                             'Best images']
  assert page.count('alt="Input of') == 2


def test_semantic_maps_in_folders(tmp_path):
  for side in ('gt', 'pred'):
    (tmp_path / side).mkdir()
    Image.new('L', (8, 6), 1).save(tmp_path / side / 'a.png')
  programs.run(PROGRAM, '--task=semantic', '--num_classes=2', f'--ground_truth={tmp_path / "gt"}',
               f'--predictions={tmp_path / "pred"}', f'--report={tmp_path / "report"}')
  assert '<span class="big">100.0</span><span class="name">mIoU<' in _page(tmp_path / 'report')
