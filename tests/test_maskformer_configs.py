"""Each config of MaskFormer has the settings of the released one, and its weights and figures."""

import json
import re

import maskformer_configs
import numpy as np
import pytest
import shared

import deeplab_tf
from deeplab_tf.data import catalog
from deeplab_tf.training import schedules

ROWS = maskformer_configs.released()
BACKBONES = {'r50': 'torchvision_resnet50', 'r101': 'torchvision_resnet101',
             'r101c': 'torchvision_resnet101'}


@pytest.fixture(name='row', params=ROWS, ids=lambda row: row.config)
def fixture_row(request):
  return request.param


def _config(row):
  return deeplab_tf.load_config(row.path)


def test_no_other_config_is_here():
  found = {path for dataset in ('coco', 'ade20k')
           for path in (maskformer_configs.CONFIGS / dataset / 'maskformer').glob('*.textproto')}
  assert len(ROWS) == 15 and {row.path for row in ROWS} == found


def test_the_network_is_the_released_one(row):
  options = _config(row).model_options
  backbone, mask2former = options.backbone, options.mask2former
  is_swin = row.backbone.startswith('swin')
  assert backbone.name == BACKBONES.get(row.backbone, row.backbone)
  assert backbone.HasField('resnet') != is_swin
  assert backbone.resnet.frozen_batch_norm != is_swin
  assert backbone.resnet.deeplab_form == (row.backbone == 'r101c')
  assert backbone.drop_path_keep_prob == pytest.approx(0.7 if is_swin else 1.0)
  assert backbone.drop_path_schedule == ('linear' if is_swin else 'constant')
  assert options.image_normalization == options.IMAGENET
  assert mask2former.num_queries == int(row.queries)
  assert (mask2former.num_layers, mask2former.num_heads) == (6, 8)
  assert mask2former.feed_forward_channels == 2048
  assert mask2former.hidden_channels == mask2former.mask_channels == 256
  pixels = mask2former.pixel_decoder
  assert (pixels.Kind.Name(pixels.kind), pixels.channels) == ('FPN', 256)
  assert pixels.num_encoder_layers == int(row.encoder_layers)
  if pixels.num_encoder_layers:
    assert (pixels.feed_forward_channels, pixels.dropout_rate) == (2048, pytest.approx(0.1))
  decoder = mask2former.transformer_decoder
  assert (decoder.cross_attention, decoder.scales, decoder.query_features) == (
      decoder.FULL, decoder.BACKBONE_STRIDE_32, decoder.ZERO)
  assert decoder.self_attention_first and decoder.dropout_rate == pytest.approx(0.1)


def test_the_task_and_its_classes_are_the_released_ones(row):
  config = _config(row)
  assert config.Task.Name(config.task) == row.task.upper()
  for options in (config.train_dataset_options, config.eval_dataset_options):
    assert options.dataset == f'{row.dataset}_panoptic'
  info = catalog.from_config(config)
  assert len(info.class_ids) == int(row.classes)
  assert any(category.isthing for category in info.categories) == (row.task == 'panoptic')
  assert config.train_dataset_options.keep_empty_masks == (row.task == 'panoptic')


def test_the_loss_is_the_released_one(row):
  loss = _config(row).trainer_options.loss_options.mask2former_loss
  weights = (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight)
  assert weights == pytest.approx((1, 20, 1, 0.1))
  assert (loss.matching_at, loss.loss_at, loss.mask_loss) == (loss.MASKS, loss.MASKS, loss.FOCAL)
  assert (loss.focal_alpha, loss.focal_gamma) == (0.25, 2)


def test_the_training_is_the_released_one(row):
  config = _config(row)
  solver = config.trainer_options.solver_options
  assert config.train_dataset_options.batch_size == int(row.batch_size)
  assert solver.training_number_of_steps == int(row.steps)
  assert solver.learning_policy == row.schedule
  assert (solver.optimizer, solver.warmup_steps) == ('adamw', int(row.warmup_steps))
  assert solver.use_gradient_clipping and config.trainer_options.precision == 0
  rates = (solver.base_learning_rate, solver.adamw_weight_decay,
           solver.backbone_learning_rate_multiplier, solver.clip_gradient_norm,
           solver.adamw_epsilon)
  assert rates == pytest.approx((float(row.learning_rate), float(row.weight_decay),
                                 float(row.backbone_rate), 0.01, 1e-8))


def test_learning_rates_are_the_released_ones(row):
  schedule = schedules.build(_config(row).trainer_options.solver_options)
  steps, warmup = int(row.steps), int(row.warmup_steps)
  for step in (0, 1, 700, 1499, 1500, 100_000, 369_599, 369_600, steps - 1):
    if step >= steps:
      continue
    expected = float(row.learning_rate)
    expected *= (1 - step / steps)**0.9 if row.schedule == 'poly' else 0.1**(step >= 369_600)
    if step < warmup:
      expected *= 1e-6 + (1 - 1e-6) * step / warmup
    # During the warm-up poly learning rates begin to fall in the released code already.
    np.testing.assert_allclose(schedule(step), expected, rtol=0.01, atol=1e-10, err_msg=str(step))


def test_training_images_have_the_released_sizes(row):
  options = _config(row).train_dataset_options
  augmentations = options.augmentations
  assert 'x'.join(map(str, options.crop_size)) == row.crop
  assert augmentations.random_flip and augmentations.max_category_share == 1
  assert augmentations.HasField('color_jitter') == (row.colors == 'y')
  assert not augmentations.HasField('large_scale_jitter')
  shorter = augmentations.random_shorter_side
  low, high, longest = map(int, re.fullmatch(r'(\d+)\.\.(\d+)/(\d+)', row.train_sizes).groups())
  if row.dataset == 'coco':
    sides = list(range(480, 801, 32))
    first = shorter.crop_first
    assert (first.probability, list(first.sides)) == (0.5, [400, 500, 600])
    assert (first.min_crop_side, first.max_crop_side) == (384, 600)
  else:
    sides = [int(number * 0.1 * 2 * low) for number in range(5, 21)]
    assert not shorter.HasField('crop_first')
  assert list(shorter.sides) == sides and (sides[0], sides[-1]) == (low, high)
  assert shorter.max_longer_side == longest


def test_test_images_have_the_released_sizes(row):
  config = _config(row)
  options = config.eval_dataset_options
  shorter, longest = map(int, row.test_size.split('/'))
  assert options.resize_rule == options.SHORTER_SIDE
  assert list(options.min_resize_value) == [shorter]
  assert list(options.max_resize_value) == [longest]
  assert (options.size_divisor, list(options.crop_size), options.batch_size) == (
      int(row.divisor), [], 1)
  assert config.evaluator_options.eval_max_resize_value == int(row.averaged_longest or 0)


def test_masks_become_a_panoptic_map_as_released(row):
  options = _config(row).evaluator_options.mask2former_postprocessing
  if row.task == 'panoptic':
    assert options.object_mask_threshold == pytest.approx(float(row.object_threshold))
    assert options.overlap_threshold == pytest.approx(float(row.overlap_threshold))
    assert not options.confident_pixels_only


@pytest.mark.parity
def test_a_header_has_the_released_figures_and_weights(row):
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())['maskformer']
  (paper,) = [found for found in tables['rows'] if found.get('config') == row.released]
  header = ' '.join(line.lstrip('# ') for line in row.path.read_text().splitlines()
                    if line.startswith('#'))
  digest = re.search(r'model_final_\w+\.pkl', paper['checkpoint'])[0]
  assert re.search(rf'Weights: +{digest} of the released models', header)
  figures = {'pq': 'PQ on val', 'miou_ss': 'mIoU on val', 'miou_ms': 'averaged over scales'}
  for key, text in figures.items():
    assert key not in paper or f'{paper[key]} {text}' in header
  for key, text in {'pq_th': 'things {}', 'pq_st': 'stuff {}', 'params_m': 'paper: {} M',
                    'flops_g': '{} G, a mean', 'ap_pan_th': '{} AP^Th_pan',
                    'miou_pan': '{} mIoU_pan'}.items():
    assert key not in paper or text.format(paper[key]) in header
  assert f'--config_file={row.path.relative_to(maskformer_configs.CONFIGS.parent)}' in header
