"""The released configs of Mask2Former give its network input, sizes, crops and learning rates."""

import json
import pathlib

import numpy as np
import pytest
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf.data import image_normalization, pipeline
from deeplab_tf.data.augmentation import options as options_lib
from deeplab_tf.export import serving_module
from deeplab_tf.training import schedules

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
# Data set -> shorter side and longest side of evaluation images, crop, base of the shorter sides in
# training (None for large scale jittering) and longest side there.
SIZES = {
    'coco': ((800, 1333), (1024, 1024), None, 0),
    'cityscapes': ((1024, 2048), (512, 1024), 1024, 4096),
    'ade20k': ((640, 2560), (640, 640), 640, 2560),
    'mapillary_vistas': ((2048, 2048), (1024, 1024), 2048, 8192),
}


def _config(dataset, *overrides):
  path = CONFIGS / dataset / 'mask2former' / 'panoptic_r50.textproto'
  return deeplab_tf.load_config(path, overrides)


def _recorded(*path):
  return shared.path('parity', 'mask2former', *path)


def _prepare(image, augmentation):
  """Returns the input of the network in an evaluation; in an exported model it is the same."""
  prepared, size = pipeline.prepare_for_evaluation(tf.constant(image), augmentation)
  module = serving_module.ServingModule(None, [], None, augmentation)
  served, served_size = tf.function(module.prepare)(image[np.newaxis])
  np.testing.assert_array_equal(served[0], prepared)
  np.testing.assert_array_equal(served_size, size)
  return prepared.numpy(), size.numpy()


@pytest.mark.parity
@pytest.mark.parametrize('name', ['checkpoint_tiny_r50', 'checkpoint_tiny_swin'])
def test_the_network_input_is_mask2formers(name):
  with np.load(_recorded(name, 'expected.npz')) as recorded:
    image, expected = recorded['image_rgb_uint8'], recorded['network_input_nchw'][0]
  config = _config('coco')
  # The recorded images were not resized.
  config.eval_dataset_options.min_resize_value[:] = [min(image.shape[:2])]
  found, size = _prepare(image, pipeline.evaluation_augmentation(config))
  np.testing.assert_array_equal(size, image.shape[:2])
  assert found.shape[:2] == expected.shape[1:]
  np.testing.assert_allclose(found, expected.transpose(1, 2, 0), atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize('size', [(24, 34), (60, 86)])
def test_evaluation_images_have_pillows_pixels_at_the_shorter_side(size):
  with np.load(_recorded('preprocess.npz')) as recorded:
    image, expected = recorded['image'], recorded['image_pil_bilinear_{}x{}'.format(*size)]
  config = _config('coco')
  config.eval_dataset_options.min_resize_value[:] = [size[0]]
  found, resized = _prepare(image, pipeline.evaluation_augmentation(config))
  np.testing.assert_array_equal(resized, size)
  assert found.shape == (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32, 3)
  np.testing.assert_allclose(found[:size[0], :size[1]], (expected - MEAN) / STD, atol=1e-6)
  assert not found[size[0]:].any() and not found[:, size[1]:].any()


@pytest.mark.parity
@pytest.mark.parametrize('dataset', SIZES)
def test_evaluation_images_have_mask2formers_size(dataset):
  (shorter, longest), *_ = SIZES[dataset]
  cases = json.loads(_recorded('preprocess.json').read_text())['resize_shortest_edge']
  cases = [case for case in cases if (case['short'], case['max']) == (shorter, longest)]
  assert len(cases) == 7
  augmentation = pipeline.evaluation_augmentation(_config(dataset))
  for case in cases:
    image = tf.zeros([*case['in_hw'], 3], tf.uint8)
    found, size = pipeline.prepare_for_evaluation(image, augmentation)
    np.testing.assert_array_equal(size, case['out_hw'], err_msg=str(case))
    assert found.shape[:2] == tuple(-(-side // 32) * 32 for side in case['out_hw'])


@pytest.mark.parametrize('dataset', SIZES)
def test_training_images_have_mask2formers_sizes_and_colors(dataset):
  _, crop, base, longest = SIZES[dataset]
  config = _config(dataset)
  made = options_lib.build(config.train_dataset_options, 'train_dataset_options',
                           image_normalization.build(config.model_options))
  assert made.crop_size == crop and made.flip and made.max_category_share == 1
  np.testing.assert_allclose(made.normalization.mean_color, MEAN, rtol=1e-6)
  if base is None:
    np.testing.assert_allclose(made.jitter, [0.1, 2.0], rtol=1e-6)
    assert not made.shorter_sides and made.colors is None
    return
  assert made.shorter_sides == tuple(int(x * 0.1 * base) for x in range(5, 21))
  assert made.max_longer_side == longest and not made.jitter
  colors = made.colors
  assert (colors.probability, colors.brightness, colors.hue) == (0.5, 32, 18)
  assert tuple(colors.contrast) == tuple(colors.saturation) == (0.5, 1.5)


@pytest.mark.parametrize('dataset, steps', [
    ('coco', 368750), ('cityscapes', 90000), ('ade20k', 160000), ('mapillary_vistas', 300000)])
def test_learning_rates_of_the_configs(dataset, steps):
  solver = _config(dataset).trainer_options.solver_options
  schedule = schedules.build(solver, solver.backbone_learning_rate_multiplier)
  assert solver.training_number_of_steps == steps
  if dataset == 'coco':
    rates = {0: 1e-5, 327777: 1e-5, 327778: 1e-6, 355091: 1e-6, 355092: 1e-7, steps - 1: 1e-7}
  else:
    rates = {step: 1e-5 * (1 - step / steps)**0.9 for step in (0, 1, steps // 2, steps * 9 // 10)}
  for step, rate in rates.items():
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)
