"""Mean IoU against recorded numbers and on small cases worked out by hand."""

import json

import numpy as np
import pytest
import shared

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import mean_iou
from deeplab_tf.scoring import panoptic_files

SETS = ('ade20k_150', 'all_ignored', 'cityscapes_19', 'cityscapes_19_void_predictions',
        'coco_134_ignore0', 'perfect')


@pytest.mark.parity
@pytest.mark.parametrize('name', SETS)
def test_equals_the_recorded_numbers(name):
  folder = shared.path('parity', 'evaluation', 'miou', name)
  expected = json.loads((folder / 'expected.json').read_text())
  data = np.load(folder / 'data.npz')
  metric = mean_iou.MeanIoU(range(expected['num_classes']), expected['ignore_label'])
  for index in range(expected['images']):
    metric.update(data[f'gt_{index}'], data[f'pred_{index}'])
  np.testing.assert_array_equal(metric.confusion, data['confusion'])
  result = metric.result()
  for name, key in (('miou', 'miou_over_classes_in_gt'),
                    ('miou_union', 'miou_over_classes_with_nonempty_union'),
                    ('miou_detectron2', 'detectron2_rule_miou'),
                    ('fwiou', 'frequency_weighted_iou'), ('mean_accuracy', 'mean_accuracy'),
                    ('pixel_accuracy', 'pixel_accuracy')):
    assert result[name] == pytest.approx(expected[key], abs=1e-9), name
  assert list(result['per_class'].values()) == pytest.approx(expected['per_class_iou'], abs=1e-9)
  # DeepLab2 fails on predictions of no class, and averages over nothing to 0. Its float32 holds
  # seven digits.
  if result['miou_union'] is not None and not metric.confusion[:, -1].any():
    assert result['miou_union'] == pytest.approx(expected['deeplab2_keras_mean_iou'], rel=3e-7)


@pytest.mark.parity
@pytest.mark.parametrize('variant', ['panoptic_a', 'panoptic_b', 'panoptic_c'])
def test_panoptic_files_merged_by_category_equal_the_recorded_numbers(variant, tmp_path):
  folder = shared.path('parity', 'evaluation', 'panoptic_model')
  expected = json.loads((folder / 'expected.json').read_text())
  maps = np.load(folder / 'reference_maps.npz')
  segments = json.loads(str(maps[variant.replace('panoptic', 'segments')]))
  for annotation in segments:
    coco_panoptic.write_panoptic_png(tmp_path / annotation['file_name'],
                                     maps[f'{variant}_{annotation["image_id"]}'])
  coco_panoptic.write_json(tmp_path / 'predictions.json', {'annotations': segments})
  files = (folder / 'panoptic_gt.json', tmp_path / 'predictions.json')
  semantic = panoptic_files.semantic_score(*files).metric.result()
  panoptic = panoptic_files.panoptic_score(*files).metric.result()
  reference = expected[variant]
  for group in ('All', 'Things', 'Stuff'):
    assert panoptic[group] == pytest.approx(reference['pq'][group], abs=1e-9)
  assert semantic['miou'] == pytest.approx(
      reference['miou_of_the_panoptic_map']['classes_in_gt'], abs=1e-9)


def test_an_unpredicted_pixel_is_a_miss_and_no_false_positive():
  metric = mean_iou.MeanIoU([5, 2], ignore_label=0)
  metric.update(np.array([5, 5, 2, 2, 0]), np.array([5, -1, 2, 5, 5]))
  result = metric.result()
  assert result['per_class'] == {5: pytest.approx(1 / 3), 2: pytest.approx(1 / 2)}


def test_the_averages_differ_by_a_class_that_is_only_predicted():
  metric = mean_iou.MeanIoU([1, 2, 3], ignore_label=0)
  metric.update(np.array([[1, 1]]), np.array([[1, 2]]))
  assert metric.result()['miou'] == 0.5
  assert metric.result()['miou_union'] == 0.25
  assert metric.result()['per_class'][3] is None


def test_entries_may_stand_for_several_pixels():
  by_pixel, by_count = (mean_iou.MeanIoU([1, 2], ignore_label=0) for _ in range(2))
  by_pixel.update(np.array([1, 1, 1, 2, 0]), np.array([1, 1, 2, 2, 2]))
  by_count.update(np.array([1, 1, 2, 0]), np.array([1, 2, 2, 2]), np.array([2, 1, 1, 1]))
  np.testing.assert_array_equal(by_pixel.confusion, by_count.confusion)


def test_the_table_names_every_score():
  metric = mean_iou.MeanIoU([1, 2], ignore_label=0)
  assert mean_iou.format_result(metric.result()).count('n/a') == len(mean_iou.SCORES)
  metric.update(np.array([1, 1, 2]), np.array([1, 1, 1]))
  text = mean_iou.format_result(metric.result(), {1: 'road'})
  assert 'pixel accuracy' in text and any(
      line.split() == ['road', '66.7'] for line in text.splitlines())


def test_merging_equals_one_accumulator_and_strays_are_named():
  first, second = (mean_iou.MeanIoU([1, 2], 0) for _ in range(2))
  first.update(np.array([1, 2]), np.array([1, 1]))
  second.update(np.array([2]), np.array([2]))
  first.merge(second)
  assert first.confusion.tolist() == [[1, 0, 0], [1, 1, 0]]
  with pytest.raises(ValueError, match='holds the class 7'):
    first.update(np.array([7]), np.array([1]))
  with pytest.raises(ValueError, match='one shape'):
    first.update(np.array([1]), np.array([1, 1]))
