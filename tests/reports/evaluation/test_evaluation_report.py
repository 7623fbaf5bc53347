"""The evaluation report: which images it shows, its statements, its files."""

import base64
import csv
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import panoptic_quality, segment_survey
from deeplab_tf.reports.evaluation import evaluation_report, gallery_images
from deeplab_tf.scoring import panoptic_files

CATEGORIES = [{'id': 3, 'name': 'disc', 'isthing': 1}, {'id': 5, 'name': 'box', 'isthing': 1},
              {'id': 9, 'name': 'sky-other-merged', 'isthing': 0}]
NAMES = {3: 'disc', 5: 'box', 9: 'sky'}


def _segments(ids, categories):
  return [{'id': i, 'category_id': categories[i], 'area': int((ids == i).sum()), 'iscrowd': 0}
          for i in np.unique(ids[ids > 0]).tolist()]


def _write_set(folder, pairs, categories=None):
  """Writes pairs of maps, whose ids 1 to 4 are two discs, a box and sky."""
  categories = categories or {1: 3, 2: 3, 3: 5, 4: 9}
  sides = {'gt': [], 'pred': []}
  for number, maps in enumerate(pairs):
    for (side, annotations), ids in zip(sides.items(), maps):
      (folder / side).mkdir(parents=True, exist_ok=True)
      coco_panoptic.write_panoptic_png(folder / side / f'i{number}.png', ids)
      annotations.append({'image_id': number, 'file_name': f'i{number}.png',
                          'segments_info': _segments(ids, categories)})
  images = [{'id': number, 'file_name': f'i{number}.jpg', 'height': 1, 'width': 1}
            for number in range(len(pairs))]
  coco_panoptic.write_json(folder / 'gt.json', {
      'images': images, 'annotations': sides['gt'], 'categories': CATEGORIES})
  coco_panoptic.write_json(folder / 'pred.json', {'annotations': sides['pred']})
  return folder / 'gt.json', folder / 'pred.json'


def _maps(missing):
  """A ground truth of four quarters and a prediction that lacks the first `missing` segments."""
  truth = np.kron([[1, 2], [3, 4]], np.ones((12, 15), np.int64)).astype(np.int64)
  return truth, np.where(truth <= missing, 0, truth)


def test_page_table_and_score_are_written(tmp_path):
  pairs = [_maps(missing) for missing in (0, 1, 3)]
  steps = []
  report = evaluation_report.write(tmp_path / 'new' / 'report', *_write_set(tmp_path, pairs),
                                   progress=steps.append)
  assert sorted(path.name for path in (tmp_path / 'new' / 'report').iterdir()) == [
      'images.csv', 'index.html']
  assert sum(steps) == 3 and report.score.warnings == ()
  expected = panoptic_files.panoptic_score(tmp_path / 'gt.json', tmp_path / 'pred.json')
  for name, values in expected.metric.state().items():
    np.testing.assert_allclose(report.score.metric.state()[name], values, atol=1e-12)
  with open(tmp_path / 'new' / 'report' / 'images.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['file_name'] for row in rows] == ['i0.jpg', 'i1.jpg', 'i2.jpg']
  assert rows[2] == {'image_id': '2', 'file_name': 'i2.jpg', 'pq': f'{1 / 3:.6f}', 'tp': '1',
                     'fp': '0', 'fn': '3'}
  with open(report.page, encoding='utf-8') as file:
    page = file.read()
  assert page.index('Worst images') < page.index('i2.jpg') < page.index('Best images')
  assert page.index('Best images') < page.index('i0.jpg')
  assert '>sky<' in page and 'merged' not in page
  # Ground truth, prediction and errors of each image; no photograph was given.
  assert page.count('<img ') == 9 and 'Input' not in page


def test_the_same_numbers_with_several_processes(tmp_path):
  files = _write_set(tmp_path, [_maps(index % 4) for index in range(9)])
  pages = []
  for number in (1, 2):
    evaluation_report.write(tmp_path / 'report', *files, num_workers=number)
    text = (tmp_path / 'report' / 'index.html').read_text(encoding='utf-8')
    pages.append(text[:text.index('<footer>')])
  assert pages[0] == pages[1]


def test_photographs_are_found_and_shown(tmp_path):
  files = _write_set(tmp_path, [_maps(0), _maps(1)])
  (tmp_path / 'photos' / 'city').mkdir(parents=True)
  Image.new('RGB', (60, 48), (10, 200, 30)).save(tmp_path / 'photos' / 'city' / 'i1.PNG')
  report = evaluation_report.write(tmp_path / 'report', *files, images=tmp_path / 'photos')
  with open(report.page, encoding='utf-8') as file:
    page = file.read()
  assert page.count('alt="Input of') == 1 and 'alt="Input of i1.jpg"' in page
  assert '1 of the 2 images are not in' in page


def test_a_corrupt_photograph_is_left_out_and_one_of_another_size_fitted(tmp_path):
  files = _write_set(tmp_path, [_maps(0), _maps(1)])
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'i0.jpg').write_bytes(b'no image')
  Image.new('RGB', (7, 5)).save(tmp_path / 'photos' / 'i1.jpg')
  report = evaluation_report.write(tmp_path / 'report', *files, images=tmp_path / 'photos')
  with open(report.page, encoding='utf-8') as file:
    page = file.read()
  assert page.count('alt="Input of') == 1 and 'alt="Input of i1.jpg"' in page
  assert 'Without its image: ' in page


def test_large_maps_are_drawn_smaller(tmp_path, monkeypatch):
  monkeypatch.setattr(gallery_images, '_LARGEST_SIDE', 15)
  files = _write_set(tmp_path, [_maps(1)])
  report = evaluation_report.write(tmp_path / 'report', *files)
  with open(report.page, encoding='utf-8') as file:
    data = re.findall('src="data:image/png;base64,([^"]*)"', file.read())
  # 24 x 30 by 2 is 12 x 15, which gallery_item enlarges 30 times.
  with Image.open(io.BytesIO(base64.b64decode(data[0]))) as picture:
    assert picture.size == (450, 360)


def test_a_folder_without_the_images_is_refused_before_the_work(tmp_path):
  files = _write_set(tmp_path, [_maps(0)])
  with pytest.raises(FileNotFoundError, match='no such folder'):
    evaluation_report.write(tmp_path / 'report', *files, images=tmp_path / 'none')
  (tmp_path / 'other').mkdir()
  Image.new('RGB', (2, 2)).save(tmp_path / 'other' / 'x.png')
  with pytest.raises(FileNotFoundError, match=r'none of the 1 images .* i0\.jpg; .* 1 other'):
    evaluation_report.write(tmp_path / 'report', *files, images=tmp_path / 'other')
  assert not (tmp_path / 'report').exists()


def test_cityscapes_photographs_are_found_by_the_names_that_they_have(tmp_path):
  Image.new('RGB', (2, 2)).save(tmp_path / 'a_000000_000001_leftImg8bit.png')
  assert gallery_images.image_paths(
      tmp_path, {'a_000000_000001': 'a_000000_000001_gtFine_leftImg8bit.png'})[0] == {
          'a_000000_000001': str(tmp_path / 'a_000000_000001_leftImg8bit.png')}


def test_photographs_of_one_name_are_told_by_their_folders(tmp_path):
  for name in ('val/cam0/1.JPG', 'val/cam1/1.JPG', 'val/cam1/._1.JPG', 'val/2.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  names = {1: 'cam1\\1.jpg', 2: 'cam0/1.jpg', 3: 'other/2.jpg'}
  found, ambiguous = gallery_images.image_paths(tmp_path, names)
  assert found == {1: str(tmp_path / 'val/cam1/1.JPG'), 2: str(tmp_path / 'val/cam0/1.JPG'),
                   3: str(tmp_path / 'val/2.png')}
  assert ambiguous == {}
  found, ambiguous = gallery_images.image_paths(tmp_path, {1: '1.jpg'})
  assert found == {} and ambiguous == {1: ('val/cam0/1.JPG', 'val/cam1/1.JPG')}


def test_an_ambiguous_photograph_is_a_notice(tmp_path):
  files = _write_set(tmp_path, [_maps(0), _maps(1)])
  for folder in ('photos/a', 'photos/b'):
    (tmp_path / folder).mkdir(parents=True)
    Image.new('RGB', (30, 24)).save(tmp_path / folder / 'i1.jpg')
  Image.new('RGB', (30, 24)).save(tmp_path / 'photos' / 'i0.jpg')
  report = evaluation_report.write(tmp_path / 'report', *files, images=tmp_path / 'photos')
  with open(report.page, encoding='utf-8') as file:
    page = file.read()
  assert 'i1.jpg may be a/i1.jpg, b/i1.jpg' in page and page.count('alt="Input of') == 1


def test_a_bad_prediction_names_its_image_and_leaves_no_page(tmp_path):
  files = _write_set(tmp_path, [_maps(0), _maps(1)])
  coco_panoptic.write_panoptic_png(tmp_path / 'pred' / 'i1.png', np.full((24, 30), 7))
  with pytest.raises(ValueError, match=r'pred\.json: image 1 .*segment 7'):
    evaluation_report.write(tmp_path / 'report', *files)
  assert list((tmp_path / 'report').iterdir()) == []


def test_wrong_areas_are_a_notice(tmp_path):
  files = _write_set(tmp_path, [_maps(0)])
  files[0].write_text(files[0].read_text().replace('"area": 180', '"area": 179', 1).replace(
      '"categories": [', '"categories": [{"id": 1, "name": "sea", "isthing": 0},'))
  report = evaluation_report.write(tmp_path / 'report', *files)
  assert 'area' in report.score.warnings[0]
  with open(report.page, encoding='utf-8') as file:
    page = file.read()
  assert 'of 1 ground truth segments is not' in page
  assert 'Left out of the score: ' in page and 'ground truth never has: 1 of 4 (sea)' in page


def _survey_of(entries):
  survey = segment_survey.SegmentSurvey(())
  survey.image_pq = [pq for pq, _ in entries]
  survey.image_true_positives = [segments for _, segments in entries]
  survey.image_false_negatives = [0] * len(entries)
  return survey


def test_no_image_is_shown_twice_and_poor_ones_only_for_want_of_others():
  nan = math.nan
  survey = _survey_of([(0.5, 9), (0.1, 1), (0.9, 5), (nan, 0), (0.2, 4), (0.7, 3)])
  assert evaluation_report.chosen_images(survey, 1) == ([4], [2])
  assert evaluation_report.chosen_images(survey, 2) == ([4, 0], [2, 5])
  assert evaluation_report.chosen_images(survey, 6) == ([1, 4, 0], [2, 5])
  assert evaluation_report.chosen_images(_survey_of([(0.3, 1)]), 6) == ([0], [])
  assert evaluation_report.chosen_images(_survey_of([(nan, 0)]), 6) == ([], [])
  # Of equal scores those of many segments.
  assert evaluation_report.chosen_images(_survey_of([(0, 3), (0, 8), (1, 4), (1, 5)]), 1) == (
      [1], [3])


def test_words_name_false_negatives_confused_classes_and_false_positives():
  truth = np.repeat([1, 2, 3, 4, 5, 6], 10)[None]
  guess = np.repeat([1, 2, 0, 0, 5, 7], 10)[None]
  segment = panoptic_quality.Segment
  comparison = segment_survey.compare(
      truth, [segment(i, c) for i, c in zip(range(1, 7), (9, 3, 3, 3, 9, 5))],
      guess, [segment(i, c) for i, c in zip((1, 2, 5, 7), (9, 5, 9, 3))])
  assert evaluation_report.describe(comparison, NAMES).split('\n') == [
      'Matched 2 of 6 segments', 'Classification errors: disc as box, box as disc',
      'False negatives: 2\u00a0×\u00a0disc']
  comparison = segment_survey.compare(truth[:, :20], [segment(1, 9), segment(2, 9)],
                                      np.repeat([8, 0], 10)[None],
                                      [segment(8, 9)])
  assert evaluation_report.describe(comparison, NAMES) == (
      'Matched 1 of 2 segments\nFalse negatives: sky')
  comparison = segment_survey.compare(truth[:, :20], [segment(1, 9), segment(2, 9)],
                                      np.full((1, 20), 8), [segment(8, 5)])
  assert evaluation_report.describe(comparison, NAMES) == (
      'Matched 0 of 2 segments\nFalse negatives: 2\u00a0×\u00a0sky\nFalse positives: box')


def test_long_lists_of_words_are_cut():
  assert gallery_images.listed(list('abcdefgh') + ['h']) == (
      '2\u00a0×\u00a0h, a, b, c, d, e and 2 more')


def test_short_names_stay_distinct():
  assert gallery_images.short_names({1: 'wall-other', 2: 'wall-stuff', 3: 'sky-other-merged'}
                                       ) == {1: 'wall-other', 2: 'wall-stuff', 3: 'sky'}
