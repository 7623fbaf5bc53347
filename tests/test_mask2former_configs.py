"""Every released config of Mask2Former is here, with its settings."""

import math
import re

import mask2former_configs
import pytest

import deeplab_tf
from deeplab_tf.data import catalog

ROWS = mask2former_configs.released()
BACKBONES = {'r50': 'torchvision_resnet50', 'r101': 'torchvision_resnet101'}
DATASETS = {
    'panoptic': {'coco': 'coco_panoptic', 'cityscapes': 'cityscapes_panoptic',
                 'ade20k': 'ade20k_panoptic', 'mapillary_vistas': 'mapillary_vistas'},
    'instance': {'coco': 'coco_instances', 'cityscapes': 'cityscapes_instances',
                 'ade20k': 'ade20k_instances'}}
DATASETS['semantic'] = DATASETS['panoptic']
# Steps at which the learning rate falls, by the number of steps of a training on COCO.
DECAY_STEPS = {368750: [327778, 355092], 737500: [655556, 710184]}


@pytest.fixture(name='row', params=ROWS, ids=lambda row: row.config)
def fixture_row(request):
  return request.param


def _config(row):
  return deeplab_tf.load_config(row.path)


def test_every_released_config_is_here_and_no_other():
  paths = {path for dataset in DATASETS['panoptic']
           for path in (mask2former_configs.CONFIGS / dataset / 'mask2former').glob('*.textproto')}
  small = {path for path in paths if path.stem == 'mask2former_r50_small'}
  ablations = {path for path in paths if path.stem.startswith('ablation_')}
  assert len(ROWS) == 47 and len(small) == 1
  assert {row.path for row in ROWS} == paths - small - ablations


def test_the_network_is_the_released_one(row):
  options = _config(row).model_options
  assert options.backbone.name == BACKBONES.get(row.backbone, row.backbone)
  assert options.mask2former.num_queries == int(row.queries)
  assert options.backbone.resnet.frozen_batch_norm == (row.batch_norm == 'frozen')
  is_swin = row.batch_norm == 'none'
  assert is_swin == row.backbone.startswith('swin')
  assert options.backbone.drop_path_keep_prob == pytest.approx(0.7 if is_swin else 1.0)
  assert options.image_normalization == options.IMAGENET


def test_the_task_and_its_classes_are_the_released_ones(row):
  config = _config(row)
  assert config.Task.Name(config.task) == row.task.upper()
  for options in (config.train_dataset_options, config.eval_dataset_options):
    assert options.dataset == DATASETS[row.task][row.dataset]
  info = catalog.from_config(config)
  assert len(info.class_ids) == int(row.classes)
  # Class ids of COCO and ADE20K begin with 1 here, and 0 is unlabeled.
  assert info.ignore_label == {'coco': 0, 'ade20k': 0}.get(row.dataset, int(row.ignore))
  things = sum(category.isthing for category in info.categories)
  assert (things > 0) == (row.task != 'semantic')
  assert config.train_dataset_options.keep_empty_masks == (row.task == 'panoptic')


def test_the_training_is_the_released_one(row):
  config = _config(row)
  solver, data = config.trainer_options.solver_options, config.train_dataset_options
  assert data.batch_size == int(row.batch_size)
  assert solver.training_number_of_steps == int(row.steps)
  assert solver.learning_policy == row.schedule
  assert list(solver.decay_steps) == (DECAY_STEPS[int(row.steps)] if row.schedule == 'step' else [])
  assert (solver.optimizer, solver.warmup_steps) == ('adamw', 0)
  rates = (solver.base_learning_rate, solver.adamw_weight_decay, solver.clip_gradient_norm,
           solver.backbone_learning_rate_multiplier, solver.poly_learning_power)
  assert rates == pytest.approx((1e-4, 0.05, 0.01, 0.1, 0.9))


def test_training_images_have_the_released_sizes(row):
  options = _config(row).train_dataset_options
  augmentations = options.augmentations
  assert 'x'.join(map(str, options.crop_size)) == row.crop
  assert augmentations.random_flip
  assert augmentations.HasField('color_jitter') == (row.colors == 'y')
  if row.dataset == 'coco':
    jitter = augmentations.large_scale_jitter
    assert not augmentations.HasField('random_shorter_side')
    assert f'{jitter.min_scale:g}-{jitter.max_scale:g}' == row.train_sizes
    return
  assert not augmentations.HasField('large_scale_jitter')
  low, high, longest = map(int, re.fullmatch(r'(\d+)\.\.(\d+)/(\d+)', row.train_sizes).groups())
  # 0.5 to 2 times a base, in steps of 0.1, rounded down.
  sides = [math.floor(low * 2 * tenths / 10) for tenths in range(5, 21)]
  assert list(augmentations.random_shorter_side.sides) == sides and sides[-1] == high
  assert augmentations.random_shorter_side.max_longer_side == longest


def test_test_images_have_the_released_sizes(row):
  options = _config(row).eval_dataset_options
  shorter, longest = map(int, row.test_size.split('/'))
  assert options.resize_rule == options.SHORTER_SIDE
  assert list(options.min_resize_value) == [shorter]
  assert list(options.max_resize_value) == [longest]
  assert (options.size_divisor, list(options.crop_size), options.batch_size) == (32, [], 1)


def test_thresholds_are_the_released_ones(row):
  options = _config(row).evaluator_options.mask2former_postprocessing
  assert options.object_mask_threshold == pytest.approx(float(row.object_threshold))
  assert options.overlap_threshold == pytest.approx(float(row.overlap_threshold))


def test_a_command_of_the_header_trains_the_config(row):
  text = row.path.read_text()
  assert f'--config_file={row.path.relative_to(mask2former_configs.CONFIGS.parent)}' in text
  assert re.search(r'# Weights:  model_final_[0-9a-f]{6}\.pkl of the released models', text)
