"""Semantic maps in folders of PNGs."""

import numpy as np
import pytest
import shared
from PIL import Image

from deeplab_tf.formats import coco_panoptic, label_png
from deeplab_tf.scoring import semantic_files


@pytest.fixture
def folders(tmp_path):
  """Two classes and the ignore label 255; the second image lies in a subfolder."""
  for side, values in (('gt', [0, 0, 1, 255]), ('pred', [0, 1, 1, 1])):
    (tmp_path / side / 'city').mkdir(parents=True)
    for name in ('a.png', 'city/b.png'):
      Image.fromarray(np.array([values], np.uint8)).save(tmp_path / side / name)
  return tmp_path


def _score(folder, **options):
  return semantic_files.label_png_score(folder / 'gt', folder / 'pred', 2, **options).metric


def test_folders_are_paired_by_name(folders):
  assert _score(folders).confusion.tolist() == [[2, 2, 0], [0, 2, 0]]
  np.testing.assert_array_equal(_score(folders).confusion, _score(folders, num_workers=2).confusion)
  assert _score(folders).result()['miou'] == 0.5


def test_overlays_and_instance_results_beside_the_maps_are_left_out(folders):
  expected = _score(folders).confusion
  for name in ('a', 'city/b', 'other'):
    Image.new('RGB', (4, 1)).save(folders / 'pred' / f'{name}_overlay.png')
  (folders / 'pred' / 'predictions.json').write_text('[{"image_id": 1}]')
  np.testing.assert_array_equal(_score(folders).confusion, expected)
  # A map may have the name of an overlay where there is no map that it is an overlay of.
  (folders / 'pred' / 'a.png').rename(folders / 'pred' / 'x_overlay.png')
  (folders / 'gt' / 'a.png').rename(folders / 'gt' / 'x_overlay.png')
  np.testing.assert_array_equal(_score(folders).confusion, expected)


def test_classes_that_predictions_list_give_the_names(folders):
  expected = _score(folders).confusion
  (folders / 'pred' / 'predictions.json').write_text(
      '{"images": [], "categories": [{"id": 1, "name": "road"}]}')
  score = semantic_files.label_png_score(folders / 'gt', folders / 'pred', 2)
  np.testing.assert_array_equal(score.metric.confusion, expected)
  assert score.class_names == {0: '0', 1: 'road'}


@pytest.mark.parametrize('mode', ['P', 'I;16', 'L'])
def test_values_are_read_as_they_are(tmp_path, mode):
  values = np.array([[0, 1, 255], [7, 7, 3]], np.uint16 if mode == 'I;16' else np.uint8)
  if mode == 'P':
    image = Image.fromarray(values, 'L').convert('P')
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.putdata(values.ravel())
  else:
    image = Image.fromarray(values)
    assert image.mode == mode
  image.save(tmp_path / 'x.png')
  found = label_png.read(tmp_path / 'x.png')
  np.testing.assert_array_equal(found, values)
  assert found.dtype == np.int32


def test_bad_input_is_named(folders):
  Image.new('RGB', (4, 1)).save(folders / 'pred' / 'a.png')
  with pytest.raises(ValueError, match='a.png: the image has mode RGB; a semantic map has one'):
    _score(folders)
  Image.new('L', (5, 1)).save(folders / 'pred' / 'a.png')
  with pytest.raises(ValueError, match='a.png are 1 x 4 and 1 x 5 pixels'):
    _score(folders)
  with pytest.raises(ValueError, match='a.png: the ground truth holds the class 255'):
    Image.new('L', (4, 1)).save(folders / 'pred' / 'a.png')
    _score(folders, ignore_label=9)
  (folders / 'pred' / 'a.png').unlink()
  with pytest.raises(FileNotFoundError, match='a.png: there is no such file'):
    _score(folders)
  with pytest.raises(FileNotFoundError, match='none: there is no such folder'):
    semantic_files.label_png_score(folders / 'none', folders / 'pred', 2)
  (folders / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='there is no PNG'):
    semantic_files.label_png_score(folders / 'empty', folders / 'pred', 2)


def test_folders_come_before_names_and_hidden_files_are_none(tmp_path):
  for name, value in (('cam0/1.png', 0), ('cam1/1.PNG', 1)):
    for side in ('gt', 'pred'):
      path = tmp_path / side / (name if side == 'gt' else name.lower())
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(np.full((2, 3), value, np.uint8)).save(path)
      path.with_name(f'._{path.name}').write_bytes(b'of macOS')
  Image.new('L', (1, 1)).save(tmp_path / 'pred' / 'other.png')
  score = semantic_files.label_png_score(tmp_path / 'gt', tmp_path / 'pred', 2)
  assert score.metric.confusion.tolist() == [[6, 0, 0], [0, 6, 0]]
  assert score.omitted.figures['predictions_not_scored'] == 1
  assert 'cam1/1.PNG with cam1/1.png' in score.warnings[0]
  (tmp_path / 'pred' / 'cam1' / '1.png').rename(tmp_path / 'pred' / '1.png')
  with pytest.raises(FileNotFoundError, match='cam1/1.PNG: there is no such file'):
    (tmp_path / 'pred' / '1.png').rename(tmp_path / 'pred' / '2.png')
    semantic_files.label_png_score(tmp_path / 'gt', tmp_path / 'pred', 2)


def test_an_ambiguous_name_is_no_guess(tmp_path):
  for name in ('gt/1.png', 'pred/cam0/1.png', 'pred/cam1/1.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (3, 2)).save(tmp_path / name)
  with pytest.raises(ValueError, match='ambiguous: .* may be cam0/1.png, cam1/1.png'):
    semantic_files.label_png_score(tmp_path / 'gt', tmp_path / 'pred', 2)
  with pytest.raises(ValueError, match='1.png: the name is ambiguous: it may be .* cam0/1.png, c'):
    semantic_files.label_png_score(tmp_path / 'pred', tmp_path / 'gt', 2)


def test_panoptic_predictions_are_merged_by_category(tmp_path):
  # As predict.py writes them, of images/sub/a.jpg with the label labels/sub/a.png.
  (tmp_path / 'labels' / 'sub').mkdir(parents=True)
  (tmp_path / 'out' / 'sub').mkdir(parents=True)
  Image.fromarray(np.array([[0, 1, 1, 2, 255]], np.uint8)).save(tmp_path / 'labels/sub/a.png')
  coco_panoptic.write_panoptic_png(tmp_path / 'out/sub/a.png', np.array([[7, 7, 8, 0, 9]]))
  (tmp_path / 'out' / 'sub' / 'a_overlay.png').write_bytes(b'no map')
  coco_panoptic.write_json(tmp_path / 'out' / 'predictions.json', {
      'images': [{'id': 'a', 'file_name': 'sub/a.jpg'}],
      'annotations': [{'image_id': 'a', 'file_name': 'sub/a.png', 'segments_info': [
          {'id': 7, 'category_id': 0}, {'id': 8, 'category_id': 1}, {'id': 9, 'category_id': 2}]}]})
  for predictions in ('out', 'out/predictions.json'):
    score = semantic_files.label_png_score(tmp_path / 'labels', tmp_path / predictions, 3)
    assert score.metric.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert score.warnings == () and score.omitted.figures['no_class_pixels'] == 1
  (tmp_path / 'out' / 'sub' / 'a.png').unlink()
  with pytest.raises(FileNotFoundError, match='image a is missing'):
    semantic_files.label_png_score(tmp_path / 'labels', tmp_path / 'out', 3)


@pytest.mark.parity
def test_pngs_of_recorded_maps_give_their_confusion(tmp_path):
  data = np.load(shared.path('parity', 'evaluation', 'miou', 'cityscapes_19_void_predictions',
                             'data.npz'))
  for side in ('gt', 'pred'):
    (tmp_path / side).mkdir()
    for index in range(4):
      Image.fromarray(data[f'{side}_{index}'].astype(np.uint8)).save(
          tmp_path / side / f'{index}.png')
  metric = semantic_files.label_png_score(tmp_path / 'gt', tmp_path / 'pred', 19).metric
  np.testing.assert_array_equal(metric.confusion, data['confusion'])
