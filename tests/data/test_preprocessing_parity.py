"""Resizing, padding and targets equal DeepLab2's where nothing is random."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.data import catalog, targets
from deeplab_tf.data.augmentation import transforms

pytestmark = pytest.mark.parity
CASES = ('coco_max_eval', 'coco_max_eval_pad', 'cityscapes_panoptic_eval',
         'cityscapes_downscale', 'cityscapes_resize_factor')
# The others were recorded for center models.
CASES_WITH_MASKS = ('coco_max_eval', 'coco_max_eval_pad', 'cityscapes_downscale')


def read(name):
  folder = shared.path('parity', 'deeplab2', 'preprocessing')
  return dict(np.load(folder / f'{name}.npz')), json.loads((folder / f'{name}.json').read_text())


def pair(values):
  values = list(values or [])
  return values * 2 if len(values) == 1 else values


@pytest.fixture(name='case', params=CASES)
def fixture_case(request):
  arrays, options = read(request.param)
  info = catalog.built_in(options['dataset'])
  image, label = tf.constant(arrays['image'], tf.float32), tf.constant(arrays['label'][..., 0])
  size = transforms.size_in_range(
      tf.shape(label), pair(options['min_resize_value']),
      pair([v for v in options['max_resize_value'] if v]) or options['crop_size'],
      options['resize_factor'] or 0)
  image, label = transforms.resize(image, label, size)
  padded = transforms.pad(image, label, options['crop_size'], void_label=info.void_label)
  return arrays, options, info, image, padded


def test_image_and_label_equal_deeplab2(case):
  arrays, _, info, resized, (image, label) = case
  np.testing.assert_allclose(resized, arrays['out|resized_image'], atol=1e-4)
  np.testing.assert_allclose(image, arrays['out|image'], atol=1e-4)
  np.testing.assert_array_equal(label, arrays['out|panoptic_gt'])
  np.testing.assert_array_equal(targets.is_crowd(label, info), arrays['out|is_crowd_gt'])


def small_instances(options):
  small = options['focus_small_instances']
  return targets.SmallInstances(**small) if small else targets.SmallInstances()


def test_center_targets_equal_deeplab2(case):
  arrays, options, info, _, (_, label) = case
  result = targets.center_targets(label, info, options['sigma'], small_instances(options))
  np.testing.assert_array_equal(result.semantic_map, arrays['out|semantic_gt'])
  np.testing.assert_array_equal(result.semantic_weights, arrays['out|semantic_loss_weight'])
  np.testing.assert_allclose(
      result.center_heatmap[..., 0], arrays['out|instance_center_gt'], atol=1e-6)
  np.testing.assert_array_equal(result.center_weights, arrays['out|center_loss_weight'])
  np.testing.assert_array_equal(result.center_offsets, arrays['out|instance_regression_gt'])
  np.testing.assert_array_equal(result.offset_weights, arrays['out|regression_loss_weight'])


@pytest.mark.parametrize('case', CASES_WITH_MASKS, indirect=True)
def test_mask_targets_equal_deeplab2(case):
  arrays, options, info, _, (_, label) = case
  things = options['max_thing_id']
  result = targets.mask_targets(label, info, things, small_instances(options))
  np.testing.assert_array_equal(result.semantic_map, arrays['out|semantic_gt'])
  np.testing.assert_array_equal(result.semantic_weights, arrays['out|semantic_loss_weight'])
  ids = result.mask_ids.numpy()
  np.testing.assert_array_equal(np.where(ids < things, ids, -1), arrays['out|thing_id_mask_gt'])
  class_ids = np.array([*info.class_ids, -1])
  np.testing.assert_array_equal(
      class_ids[result.mask_classes[:things]], arrays['out|thing_id_class_gt'])
  np.testing.assert_array_equal(class_ids[result.mask_classes[things:]], info.stuff_class_ids)
  np.testing.assert_array_equal(result.mask_isthing, np.arange(len(ids := class_ids[
      result.mask_classes])) < things)
  stuff = np.isin(arrays['out|semantic_gt'], info.stuff_class_ids)
  np.testing.assert_array_equal(
      np.asarray(ids)[result.mask_ids.numpy()[stuff]], arrays['out|semantic_gt'][stuff])


def test_pieces_of_the_augmentation_equal_deeplab2():
  arrays, options = read('pieces')
  image, label = tf.constant(arrays['image']), tf.constant(arrays['label'][..., 0])
  size = tf.shape(label)
  results = {}
  for scale in options['scales']:
    results[f'scale_{scale}'] = transforms.resize(image, label, transforms.scaled_size(size, scale))
  for name, limits in options['resize'].items():
    new_size = transforms.size_in_range(
        size, pair(limits['min']), pair(limits['max']), limits['factor'] or 0)
    results[f'resize_{name}'] = transforms.resize(image, label, new_size)
  for name, (top, left, height, width) in options['pad'].items():
    results[f'pad_{name}'] = transforms.pad(image, label, [height, width],
                                            void_label=options['pad_label'], offset=[top, left])
  assert 3 * len(results) == (len(arrays) - 2) * 3 / 2
  for name, (new_image, new_label) in results.items():
    np.testing.assert_allclose(new_image, arrays[f'{name}|image'], atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(new_label, arrays[f'{name}|label'][..., 0], err_msg=name)


@pytest.mark.parametrize('least, most, step, count', [
    (0.5, 1.5, np.float32(0.1), 10), (0.5, 2.0, np.float32(0.1), 15), (0.5, 1.5, 0.25, 5),
    (1.0, 1.0, 0.25, 1)])
def test_scales_have_the_float32_step_of_deeplab2(least, most, step, count):
  scales = transforms.scales_of_steps(least, most, float(step))
  np.testing.assert_allclose(scales, np.linspace(least, most, count), atol=1e-7)
