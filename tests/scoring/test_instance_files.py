"""Average precision of instance masks against COCOeval's recorded numbers."""

import json

import numpy as np
import pytest
import shared

from deeplab_tf.scoring import instance_files

TRUTH = {
    'images': [{'id': 4, 'height': 8, 'width': 8}],
    'categories': [{'id': 1, 'name': 'box'}, {'id': 2, 'name': 'ball'}],
    'annotations': [{'id': 1, 'image_id': 4, 'category_id': 1, 'area': 16, 'iscrowd': 0,
                     'bbox': [0, 0, 4, 4], 'segmentation': [[0, 0, 4, 0, 4, 4, 0, 4]]}],
}
RESULT = {'image_id': 4, 'category_id': 1, 'score': 0.5}


@pytest.mark.parity
@pytest.mark.parametrize('iou_type', ['segm', 'boundary', 'bbox'])
@pytest.mark.parametrize('name', ['all_wrong_class', 'area_borders', 'real', 'score_ties',
                                  'synth'])
def test_equals_cocoeval(name, iou_type):
  folder = shared.path('parity', 'evaluation', 'instance_ap', name)
  expected = json.loads((folder / 'expected.json').read_text())[iou_type]
  score = instance_files.instance_score(folder / 'gt.json', folder / 'results.json', iou_type)
  assert list(score.figures) == list(instance_files.NAMES)
  assert score.figures == pytest.approx(expected['stats'], abs=1e-6)
  assert {str(category): value for category, value in score.per_class.items()} == pytest.approx(
      expected['ap_per_category'], abs=1e-6)


@pytest.fixture
def files(tmp_path):
  (tmp_path / 'gt.json').write_text(json.dumps(TRUTH))
  (tmp_path / 'results.json').write_text(json.dumps([_result()]))
  return tmp_path


def _result(**changes):
  from pycocotools import mask
  pixels = np.zeros((8, 8), np.uint8, order='F')
  pixels[:4, :4] = 1
  runs = mask.encode(pixels)
  runs['counts'] = runs['counts'].decode()
  return {**RESULT, 'segmentation': runs, **changes}


def _score(folder):
  return instance_files.instance_score(folder / 'gt.json', folder / 'results.json')


def test_a_folder_of_predictions_is_taken(files):
  (files / 'out').mkdir()
  (files / 'out' / 'predictions.json').write_text((files / 'results.json').read_text())
  assert instance_files.instance_score(files / 'gt.json', files / 'out').figures == _score(
      files).figures


@pytest.mark.parametrize('content, expected', [
    (b'[]', True), (b' \n[{}]', True), ('[]'.encode('utf-16'), True),
    ('[]'.encode('utf-8-sig'), True), (b'{"a": []}', False), (b'', False)])
def test_results_are_told_by_their_first_bracket(tmp_path, content, expected):
  (tmp_path / 'a.json').write_bytes(content)
  assert instance_files.is_results(tmp_path / 'a.json') == expected
  assert not instance_files.is_results(tmp_path / 'none.json')


def test_a_perfect_result(files):
  score = _score(files)
  assert score.figures['AP'] == pytest.approx(1.0)
  assert score.figures['APl'] == -1
  assert score.per_class == {1: pytest.approx(1.0), 2: None}
  text = instance_files.format_result(score, per_class=True)
  assert 'box' in text and '100.0' in text and 'n/a' in text


def test_no_results_score_zero(files):
  (files / 'results.json').write_text('[]')
  assert _score(files).figures['AP'] == 0


@pytest.mark.parametrize('content, words', [
    ({'annotations': []}, 'not a list'),
    ([{'image_id': 4}], 'result 0 lacks category_id, score, segmentation'),
    ([_result(image_id=9)], 'result 0 has image_id 9'),
    ([_result(category_id=9)], 'result 0 has category_id 9'),
    ([_result(score=float('nan'))], 'result 0 has nan as "score", which must be a number'),
    ([_result(segmentation={'size': [4, 8], 'counts': [0, 32]})],
     'result 0: the mask is of size .4, 8., and its image of .8, 8.'),
])
def test_wrong_results_are_refused(files, content, words):
  (files / 'results.json').write_text(json.dumps(content))
  with pytest.raises(ValueError, match=words):
    _score(files)


@pytest.mark.parametrize('iou_type', ['segm', 'bbox'])
@pytest.mark.parametrize('changes', [{'area': None}, {'id': 'a-1', 'area': None}, {}])
def test_what_labeling_tools_leave_out_is_taken_from_the_mask(files, iou_type, changes):
  kept = {key: value for key, value in TRUTH['annotations'][0].items()
          if key not in ('id', 'area', 'iscrowd')}
  (files / 'gt.json').write_text(json.dumps({**TRUTH, 'annotations': [{**kept, **changes}]}))
  (annotation,) = instance_files.load_ground_truth(files / 'gt.json', iou_type)['annotations']
  assert annotation['area'] == 16
  assert instance_files.instance_score(files / 'gt.json', files / 'results.json',
                                       iou_type).figures['APs'] == pytest.approx(1.0)


def test_a_panoptic_json_is_refused_as_ground_truth(files):
  panoptic = {**TRUTH, 'annotations': [{'image_id': 4, 'segments_info': []}]}
  (files / 'gt.json').write_text(json.dumps(panoptic))
  with pytest.raises(ValueError, match='gt.json: this is a panoptic JSON'):
    _score(files)


@pytest.mark.parametrize('change, words', [
    ({'image_id': 5}, 'annotation 1 has image_id 5'),
    ({'category_id': 5}, 'annotation 1 has category_id 5'),
])
def test_annotations_of_nothing_are_refused(files, change, words):
  annotations = [{**TRUTH['annotations'][0], **change}]
  (files / 'gt.json').write_text(json.dumps({**TRUTH, 'annotations': annotations}))
  with pytest.raises(ValueError, match=words):
    _score(files)


@pytest.mark.parametrize('segmentation', [
    [[0, 0, 4, 0, 4, 4, 0, 4]],
    {'size': [8, 8], 'counts': [0, 4, 4, 4, 4, 4, 4, 4, 36]},
])
def test_results_may_be_polygons_or_plain_run_lengths(files, segmentation):
  (files / 'results.json').write_text(json.dumps([_result(segmentation=segmentation)]))
  assert _score(files).figures['AP'] == pytest.approx(1.0)


def test_ids_as_text_and_as_number_are_named(files):
  (files / 'results.json').write_text(json.dumps([_result(image_id='4')]))
  with pytest.raises(ValueError, match="image_id '4', which .*gt.json does not list; it lists the "
                     "number 4, and this is the text '4'"):
    _score(files)
  (files / 'gt.json').write_text(json.dumps(
      {**TRUTH, 'annotations': [{**TRUTH['annotations'][0], 'image_id': '04'}]}))
  with pytest.raises(ValueError, match="it lists the number 4, and this is the text '04'"):
    _score(files)


def test_images_of_both_types_are_scored(files):
  images = [{**TRUTH['images'][0], 'id': image_id} for image_id in (0, '1', 2)]
  annotations = [{**TRUTH['annotations'][0], 'id': index, 'image_id': image_id}
                 for index, image_id in enumerate((0, '1'), start=1)]
  (files / 'gt.json').write_text(json.dumps(
      {**TRUTH, 'images': images, 'annotations': annotations}))
  (files / 'results.json').write_text(json.dumps(
      [_result(image_id=image_id) for image_id in (0, '1')]))
  assert _score(files).figures['AP'] == pytest.approx(1.0)


def test_no_results_are_a_score_of_0_with_a_word(files):
  (files / 'results.json').write_text('[]')
  score = _score(files)
  assert score.figures['AP'] == 0
  assert 'images with annotations but without a result: 1 of 1' in score.omitted.lines
  (files / 'gt.json').write_text(json.dumps({**TRUTH, 'images': [], 'annotations': []}))
  with pytest.raises(ValueError, match='"images" is empty'):
    _score(files)


def test_an_image_that_is_listed_twice_is_refused(files):
  (files / 'gt.json').write_text(json.dumps({**TRUTH, 'images': TRUTH['images'] * 2}))
  with pytest.raises(ValueError, match='an image id is listed twice'):
    _score(files)
