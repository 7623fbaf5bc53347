"""Panoptic quality by DeepLab2's definition against the recorded numbers of its own metric.

DeepLab2 counts in float32, so sums are compared to 1e-5 relative and averages to 1e-6: a few
times its rounding error of 6e-8 per addition.
"""

import json

import numpy as np
import pytest
import shared
from PIL import Image

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.metrics import panoptic_quality
from deeplab_tf.metrics.deeplab2_panoptic_quality import DeepLab2PanopticQuality
from deeplab_tf.scoring import panoptic_files

SETS = ('cityscapes_style', 'empty_predictions', 'fuzz_tiny', 'half_iou', 'many_60',
        'real_identity', 'real_mild', 'real_strong', 'split_stuff', 'synth_480x640',
        'things_only', 'void_crowd', 'wrong_classes')


def _check_result(metric, expected):
  result = metric.result()['All']
  for name, value in expected.items():
    assert result[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parity
@pytest.mark.parametrize('name', SETS)
def test_equals_deeplab2_on_panoptic_files(name):
  folder = shared.path('parity', 'evaluation', 'pq', name)
  expected = json.loads((folder / 'expected.json').read_text())['deeplab2']
  metric = panoptic_files.panoptic_score(folder / 'gt.json', folder / 'pred.json',
                                         definition='deeplab2').metric
  _check_result(metric, expected['result'])
  # Class ids count the categories: from 0 where nothing precedes them, else from 1.
  first = expected['num_classes'] - len(metric.category_ids)
  per_class = {str(first + sorted(metric.category_ids).index(category)): (category, scores)
               for category, scores in metric.result()['per_class'].items()}
  assert per_class.keys() == expected['per_class'].keys()
  for class_id, (category, scores) in per_class.items():
    reference = expected['per_class'][class_id]
    assert [scores[key] for key in ('tp', 'fn', 'fp')] == [
        reference[key] for key in ('tp', 'fn', 'fp')]
    assert metric.iou_sum[metric.category_ids.index(category)] == pytest.approx(
        reference['iou_sum'], rel=1e-5)


def _testdata():
  return shared.path('parity', 'evaluation', 'deeplab2_testdata')


def _info(num_classes, divisor, ignore_label, stuff=()):
  return DatasetInfo(
      'made_up', tuple(Category(index, index, str(index), index not in stuff, (0, 0, 0))
                       for index in range(num_classes) if index != ignore_label),
      num_classes=num_classes, ignore_label=ignore_label, label_divisor=divisor)


def _maps(content, image, divisor):
  """Returns ground truth and prediction as label maps."""
  truth = np.asarray(Image.open(_testdata() / content['gt_file'][image])).astype(np.int32)
  truth = truth if truth.ndim == 2 else truth[..., 0]
  classes = np.zeros_like(truth)
  for grey, class_id in content['gt_class_of_grey_value'][image].items():
    classes[truth == int(grey)] = class_id
  # An ignored pixel has instance number 0 here, so it is void.
  truth = classes * divisor + np.where(classes == 0, 0, truth)
  colours = np.asarray(Image.open(_testdata() / f'{image}_pred_class.png').convert('RGB'))
  guess = np.zeros(truth.shape, np.int32)
  for colour, class_id in content['class_of_prediction_colour'].items():
    guess[(colours == [int(part) for part in colour.split(',')]).all(axis=-1)] = class_id
  instance = np.asarray(Image.open(_testdata() / f'{image}_pred_instance.png'))
  instance = (instance if instance.ndim == 2 else instance[..., 0]).astype(np.int32)
  return truth, guess * divisor + instance


@pytest.mark.parity
@pytest.mark.parametrize('index', range(6))
def test_equals_deeplab2_on_its_own_test_images(index):
  content = json.loads((_testdata() / 'expected.json').read_text())
  case = content['cases'][index]
  info = _info(case['num_classes'], case['label_divisor'], case['ignore_label'])
  metric = DeepLab2PanopticQuality(info.categories)
  for image in case['images']:
    metric.update_from_label_maps(*_maps(content, image, case['label_divisor']), info)
  _check_result(metric, case['result'])
  for name, key in (('total_iou', 'iou_sum'), ('total_tp', 'true_positives'),
                    ('total_fn', 'false_negatives'), ('total_fp', 'false_positives')):
    reference = [case[name][category] for category in metric.category_ids]
    np.testing.assert_allclose(getattr(metric, key), reference, rtol=1e-5)


@pytest.mark.parity
def test_only_the_ignored_class_without_instance_is_void():
  case = json.loads((_testdata() / 'expected.json').read_text())['cases'][6]
  info = _info(case['num_classes'], case['label_divisor'], case['ignore_label'], stuff=(0, 2))
  arrays = {name: np.array(values) for name, values in case['arrays'].items()}
  metric = DeepLab2PanopticQuality(info.categories)
  metric.update_from_label_maps(
      *(arrays[f'{side}_class'] * case['label_divisor'] + arrays[f'{side}_instance']
        for side in ('gt', 'pred')), info)
  _check_result(metric, case['result'])


def test_a_crowd_is_void_and_stuff_is_one_segment():
  info = _info(3, 10, 9, stuff=(0,))
  metric = DeepLab2PanopticQuality(info.categories)
  # Stuff 0 in two predicted parts, a crowd of 1 under class 2.
  truth = np.array([[0, 0, 0, 0, 10, 10, 10, 21, 21]])
  guess = np.array([[1, 1, 2, 2, 21, 21, 21, 21, 21]])
  metric.update_from_label_maps(truth, guess, info)
  result = metric.result()
  assert result['per_class'][0]['tp'] == 1 and result['per_class'][0]['fp'] == 0
  assert result['per_class'][2]['pq'] == 1.0
  assert 1 not in result['per_class']
  assert result['All']['tp'] == 1.0


def test_crowds_of_stuff_leave_the_stuff_beside_them():
  info = _info(3, 10, 9, stuff=(0,))
  metric = DeepLab2PanopticQuality(info.categories)
  # Annotations call two segments of stuff a crowd, which no data set should.
  truth = [panoptic_quality.Segment(1, 0, True), panoptic_quality.Segment(2, 0, True),
           panoptic_quality.Segment(3, 0)]
  metric.update(np.array([[1, 1, 2, 2, 3, 3]]), truth, np.array([[0, 0, 0, 0, 1, 1]]),
                [panoptic_quality.Segment(1, 0)])
  assert metric.result()['per_class'][0] == {
      'pq': 1.0, 'sq': 1.0, 'rq': 1.0, 'tp': 1, 'fp': 0, 'fn': 0}


def test_without_images_there_are_no_means():
  assert DeepLab2PanopticQuality(_info(3, 10, 9).categories).result()['All'] == {
      'pq': None, 'sq': None, 'rq': None, 'n': 0, 'tp': None, 'fn': None, 'fp': None}
