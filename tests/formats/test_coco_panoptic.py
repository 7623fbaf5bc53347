"""Files in COCO's panoptic format: round trips and what is refused."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import panoptic_quality
from deeplab_tf.scoring import panoptic_files

TRUTH = {
    'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 4, 'width': 6}],
    'categories': [{'id': 3, 'name': 'box', 'isthing': 1}, {'id': 9, 'name': 'sky', 'isthing': 0}],
    'annotations': [{
        'image_id': 1, 'file_name': 'a.png',
        'segments_info': [
            {'id': 1, 'category_id': 3, 'area': 12, 'bbox': [0, 0, 3, 4], 'iscrowd': 0},
            {'id': 70000, 'category_id': 9, 'area': 12, 'bbox': [3, 0, 3, 4], 'iscrowd': 0}]}],
}


@pytest.fixture
def files(tmp_path):
  """A ground truth and an equal prediction on disk; returns their folder."""
  ids = np.repeat([[1, 70000]], 4, axis=0).repeat(3, axis=1)
  for name in ('gt', 'pred'):
    (tmp_path / name).mkdir()
    coco_panoptic.write_panoptic_png(tmp_path / name / 'a.png', ids)
    coco_panoptic.write_json(tmp_path / f'{name}.json', TRUTH)
  return tmp_path


def _score(folder):
  return panoptic_files.panoptic_score(folder / 'gt.json', folder / 'pred.json')


def _edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_png_round_trip(tmp_path):
  ids = np.random.default_rng(0).integers(0, 256**3, (13, 17))
  ids[0, :4] = [0, 255, 65536, 256**3 - 1]
  coco_panoptic.write_panoptic_png(tmp_path / 'x.png', ids)
  read = coco_panoptic.read_panoptic_png(tmp_path / 'x.png')
  assert read.dtype == np.int32
  np.testing.assert_array_equal(read, ids)
  np.testing.assert_array_equal(
      coco_panoptic.rgb_to_id(np.asarray(Image.open(tmp_path / 'x.png'))), ids)
  assert [path.name for path in tmp_path.iterdir()] == ['x.png']


def test_alpha_is_not_read(tmp_path):
  rgba = np.dstack([coco_panoptic.id_to_rgb(np.array([[5, 70000]])), [[7, 200]]])
  Image.fromarray(rgba.astype(np.uint8)).save(tmp_path / 'x.png')
  assert coco_panoptic.read_panoptic_png(tmp_path / 'x.png').tolist() == [[5, 70000]]


@pytest.mark.parametrize('picture, word', [
    (Image.new('L', (4, 4)), 'mode L'), (Image.new('P', (4, 4)), 'mode P'),
    (Image.new('I;16', (4, 4)), 'mode I;16')])
def test_other_pngs_are_refused(tmp_path, picture, word):
  picture.save(tmp_path / 'x.png')
  with pytest.raises(ValueError, match=f'x.png: the image has {word}; a panoptic PNG is RGB'):
    coco_panoptic.read_panoptic_png(tmp_path / 'x.png')


def test_sixteen_bits_per_channel_are_refused(tmp_path):
  # Pillow cuts them to eight without a word, and cannot write them.
  def chunk(kind, data):
    return (struct.pack('>I', len(data)) + kind + data
            + struct.pack('>I', zlib.crc32(kind + data)))
  header = struct.pack('>IIBBBBB', 2, 1, 16, 2, 0, 0, 0)
  (tmp_path / 'x.png').write_bytes(
      b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
      + chunk(b'IDAT', zlib.compress(bytes(13))) + chunk(b'IEND', b''))
  with pytest.raises(ValueError, match='mode RGB with 16 bits'):
    coco_panoptic.read_panoptic_png(tmp_path / 'x.png')


def test_no_image_and_half_an_image_are_refused(tmp_path):
  (tmp_path / 'x.png').write_text('no picture')
  with pytest.raises(ValueError, match='x.png: is not an image, or is corrupt'):
    coco_panoptic.read_panoptic_png(tmp_path / 'x.png')
  noise = np.random.default_rng(0).integers(0, 256**3, (40, 40))
  coco_panoptic.write_panoptic_png(tmp_path / 'y.png', noise)
  (tmp_path / 'y.png').write_bytes((tmp_path / 'y.png').read_bytes()[:2000])
  with pytest.raises(ValueError, match='y.png: is not an image, or is corrupt'):
    coco_panoptic.read_panoptic_png(tmp_path / 'y.png')


@pytest.mark.parametrize('stray', [-1, 256**3])
def test_ids_that_do_not_fit_are_refused(tmp_path, stray):
  with pytest.raises(ValueError, match='segment ids'):
    coco_panoptic.write_panoptic_png(tmp_path / 'x.png', np.array([[1, stray]]))
  assert list(tmp_path.iterdir()) == []


def test_label_map_to_files_and_back_to_the_same_score(tmp_path):
  info = catalog.built_in('cityscapes_panoptic')
  label = np.full((12, 20), info.void_label, np.int32)
  label[:4], label[4:8, :5], label[4:8, 5:9], label[8:, :7] = 0, 11001, 11002, 13000
  ids, segments = coco_panoptic.from_label_map(label, info)
  assert [segment['id'] for segment in segments] == [1, 2, 3, 4]
  assert [segment['category_id'] for segment in segments] == [7, 24, 24, 26]
  assert [segment['iscrowd'] for segment in segments] == [0, 0, 0, 1]
  assert segments[2]['bbox'] == [5, 4, 4, 4] and segments[2]['area'] == 16
  np.testing.assert_array_equal(ids == 0, label == info.void_label)
  metric = panoptic_quality.PanopticQuality(info.categories)
  parsed = [coco_panoptic.Segment(s['id'], s['category_id'], bool(s['iscrowd']), s['area'])
            for s in segments]
  assert metric.update(ids, parsed, ids, parsed) == ()
  assert metric.result()['All']['pq'] == 1.0


def test_numpy_numbers_can_be_written(tmp_path):
  coco_panoptic.write_json(tmp_path / 'x.json', {'a': np.int64(3), 'b': np.float32(0.5)})
  assert json.loads((tmp_path / 'x.json').read_text()) == {'a': 3, 'b': 0.5}
  with pytest.raises(TypeError):
    coco_panoptic.write_json(tmp_path / 'y.json', {'a': object()})
  assert [path.name for path in tmp_path.iterdir()] == ['x.json']


def test_a_wrong_area_is_reported_and_used(files):
  _edit(files / 'gt.json', lambda c: c['annotations'][0]['segments_info'][0].update(area=8))
  score = _score(files)
  assert score.metric.result()['per_class'][3]['pq'] == pytest.approx(12 / 8)
  assert len(score.warnings) == 1
  assert '1 ground truth segments' in score.warnings[0] and 'segment 1)' in score.warnings[0]


def test_equal_files_have_no_warnings(files):
  score = _score(files)
  assert score.warnings == () and score.metric.result()['All'] == {
      'pq': 1.0, 'sq': 1.0, 'rq': 1.0, 'n': 2}
  semantic = panoptic_files.semantic_score(files / 'gt.json', files / 'pred.json').metric.result()
  assert semantic['miou'] == 1.0 and semantic['per_class'] == {3: 1.0, 9: 1.0}


def _first(content):
  return content['annotations'][0]['segments_info'][0]


@pytest.mark.parametrize('name, change, words', [
    ('gt', lambda c: _first(c).update(category_id=4), 'image 1: segment 1 is of category 4'),
    ('gt', lambda c: _first(c).update(id=0), 'segment id 0 of category 3'),
    ('pred', lambda c: _first(c).update(id=70000), 'segment id 70000 of category 9 is listed'),
    ('pred', lambda c: _first(c).update(id='one'), 'has \'one\' as "id"'),
    ('pred', lambda c: _first(c).pop('category_id'), 'has no "category_id"'),
    ('pred', lambda c: c['annotations'][0].update(image_id='1'), "no prediction for image 1 "),
    ('pred', lambda c: c['annotations'].append(c['annotations'][0]), 'has two annotations'),
    ('gt', lambda c: c.pop('categories'), 'no "categories"'),
    ('gt', lambda c: c['categories'][0].pop('isthing'), 'has no "isthing" (1 of 2 have none)'),
    ('gt', lambda c: [entry.pop('isthing') for entry in c['categories']],
     'has no "isthing" (2 of 2 have none)'),
    ('gt', lambda c: c['images'].append({'id': 1, 'file_name': 'b.jpg'}),
     'the image id 1 is listed twice in "images", for a.jpg and for b.jpg'),
    ('pred', lambda c: c['images'].append({'id': 1, 'file_name': 'b.jpg'}), 'is listed twice'),
    ('pred', lambda c: c.update(categories=[{'id': 3, 'name': 'sky'}, {'id': 9, 'name': 'box'}]),
     'category 3 is "sky" here and "box" there, where "sky" is category 9'),
    ('pred', lambda c: c.update(categories=[{'name': 'sky'}]), 'has no "id"'),
    ('pred', lambda c: c['categories'].append({'id': 3, 'name': 'tree'}),
     'the category id 3 is listed twice in "categories", as \'box\' and as \'tree\''),
    ('gt', lambda c: c.update(annotations=[]), '"annotations" is empty'),
    ('gt', lambda c: c.pop('annotations'), 'without "annotations"'),
    ('gt', lambda c: c.update(annotations=[{'segmentation': []}]), 'looks like an instance JSON'),
])
def test_malformed_json_is_one_line_with_the_file(files, name, change, words):
  _edit(files / f'{name}.json', change)
  with pytest.raises(ValueError) as error:
    _score(files)
  assert words in str(error.value)
  assert f'{name}.json' in str(error.value) and '\n' not in str(error.value)


def test_names_decide_which_image_an_id_is(tmp_path):
  # Three images of one segment each, of three classes; ids are given in another order.
  sides = {'gt': (3, 1, 2), 'pred': (1, 2, 3)}
  for side, image_ids in sides.items():
    (tmp_path / side).mkdir()
    content = {'images': [], 'annotations': [], 'categories': [
        {'id': index, 'name': f'class {index}', 'isthing': 0} for index in range(3)]}
    for index, image_id in enumerate(image_ids):
      coco_panoptic.write_panoptic_png(tmp_path / side / f'{index}.png', np.full((2, 3), 1))
      content['images'].append({'id': image_id, 'file_name': f'{index}.jpg'})
      content['annotations'].append({'image_id': image_id, 'file_name': f'{index}.png',
                                     'segments_info': [{'id': 1, 'category_id': index}]})
    coco_panoptic.write_json(tmp_path / f'{side}.json', content)
  score = _score(tmp_path)
  assert score.metric.result()['All']['pq'] == 1.0
  assert len(score.warnings) == 1 and 'paired by file name' in score.warnings[0]
  semantic = panoptic_files.semantic_score(tmp_path / 'gt.json', tmp_path / 'pred.json')
  assert semantic.metric.result()['miou'] == 1.0 and semantic.warnings == score.warnings


def test_predictions_need_no_categories_and_may_have_fewer(files):
  _edit(files / 'pred.json', lambda c: c.pop('categories'))
  assert _score(files).warnings == ()
  _edit(files / 'pred.json', lambda c: c.update(categories=TRUTH['categories'][:1]))
  assert 'does not list 1 of the 2 categories' in _score(files).warnings[0]


def test_pngs_are_found_as_windows_names_them(files):
  (files / 'pred' / 'sub').mkdir()
  (files / 'pred' / 'a.png').rename(files / 'pred' / 'sub' / 'a.png')
  _edit(files / 'pred.json', lambda c: c['annotations'][0].update(file_name='sub\\A.PNG'))
  assert _score(files).metric.result()['All']['pq'] == 1.0
  (files / 'pred' / 'a.jpg').touch()
  _edit(files / 'pred.json', lambda c: c['annotations'][0].update(file_name='a.png'))
  with pytest.raises(FileNotFoundError, match='image 1 is missing. Did you mean "a.jpg"'):
    _score(files)


def test_other_files_than_expected(files):
  (files / 'pred.json').write_text('[]')
  with pytest.raises(ValueError, match=r'a list \(instance results'):
    _score(files)
  (files / 'pred.json').write_text('{"annotations": [')
  with pytest.raises(ValueError, match='pred.json: not valid JSON'):
    _score(files)
  with pytest.raises(FileNotFoundError, match='none.json'):
    panoptic_files.panoptic_score(files / 'none.json', files / 'pred.json')


def test_a_missing_or_resized_png_is_named(files):
  coco_panoptic.write_panoptic_png(files / 'pred' / 'a.png', np.full((3, 3), 1))
  with pytest.raises(ValueError, match='a.png are 4 x 6 and 3 x 3 pixels'):
    _score(files)
  (files / 'pred' / 'a.png').unlink()
  with pytest.raises(FileNotFoundError, match='a.png: the prediction PNG of image 1 is missing'):
    _score(files)
