"""Configs of Mask2Former have the parameters of the released networks and the paper's FLOPs."""

import json
import math
import pathlib
import re

import pytest
import shared

import deeplab_tf
from deeplab_tf import profiling
from deeplab_tf.backbones import swin
from deeplab_tf.data import catalog

pytestmark = pytest.mark.parity
CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'
# Height and width of the multiply-adds in the headers; the other data sets have no common size.
SIZES = {'coco': (800, 1136), 'cityscapes': (1024, 2048), 'ade20k': (640, 640),
         'mapillary_vistas': (640, 640)}
PATHS = sorted(path for path in CONFIGS.glob('*/mask2former/*.textproto')
               if not path.stem.endswith('r50_small'))
# A few seconds each: frozen and trained batch norms, Swin, other classes.
QUICK = ('coco/panoptic_r50', 'coco/panoptic_swin_tiny', 'cityscapes/panoptic_r50',
         'mapillary_vistas/panoptic_r50')


def _name(path):
  return f'{path.parts[-3]}/{path.stem}'


def _released(variant):
  """Returns the trainable parameters of a released network for COCO, and those of batch norms."""
  path = shared.path('parity', 'mask2former', f'weights_{variant}.json')
  recorded = json.loads(path.read_text())
  weights, norms = 0, 0
  for weight in recorded['weights']:
    name, size = weight['name'], math.prod(weight['shape'])
    if weight.get('role') == 'computed' or name.endswith(('position_index', 'empty_weight')):
      continue
    if variant.startswith('r') and name.startswith('backbone') and '.norm.' in name:
      norms += size * name.endswith(('.weight', '.bias'))  # The others are moving statistics.
    else:
      weights += size
  assert weights == recorded['num_parameters']
  return recorded, weights, norms


def _expected_parameters(config, variant):
  """Returns the released number, with the classes, queries and batch norms of a config."""
  recorded, weights, norms = _released(variant)
  classes = len(catalog.from_config(config).class_ids)
  # A class has a column of 256 weights and a bias; a query has a feature and a position.
  weights += 257 * (classes - recorded['num_classes'])
  weights += 512 * (config.model_options.mask2former.num_queries - recorded['num_queries'])
  is_frozen = config.model_options.backbone.resnet.frozen_batch_norm
  return weights + (0 if is_frozen else norms)


def test_all_released_panoptic_configs_are_there():
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  released = [row for row in tables['mask2former_model_zoo']['rows'] if 'panoptic' in row['task']]
  assert len(PATHS) == len(released) == 17
  # Each header names the released weights.
  names = {re.search(r'# Weights:  (\S+)', path.read_text())[1] for path in PATHS}
  assert names == {row['checkpoint'].rpartition('/')[2] for row in released}


@pytest.mark.parametrize('path', [
    pytest.param(path, id=_name(path), marks=() if _name(path) in QUICK else pytest.mark.slow)
    for path in PATHS])
def test_parameters_are_those_of_the_released_network(path):
  config, dataset = deeplab_tf.load_config(path), path.parts[-3]
  total = profiling.summarize(config, SIZES[dataset]).total
  variant = path.stem.removeprefix('panoptic_').removesuffix('_in21k')
  expected = _expected_parameters(config, variant)
  assert total.trainable_parameters == total.inference_parameters == expected
  counts = re.search(r'# Counts: +([\d.]+) M parameters(?:, ([\d.]+) G)?', path.read_text())
  assert float(counts[1]) == pytest.approx(expected / 1e6, abs=0.051)
  if dataset in ('coco', 'cityscapes'):
    assert float(counts[2]) == pytest.approx(total.madds / 1e9, rel=0.001)


@pytest.mark.parametrize('name, row', [
    ('r50', 'R50'), pytest.param('r101', 'R101', marks=pytest.mark.slow),
    pytest.param('swin_large', 'Swin-L', marks=pytest.mark.slow)])
def test_flops_are_the_papers(name, row):
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  (paper,) = [found for found in tables['mask2former']['rows']
              if found['name'] == f'Mask2Former {row}' and found['task'] == 'coco panoptic']
  config = deeplab_tf.load_config(CONFIGS / f'coco/mask2former/panoptic_{name}.textproto')
  # The paper averages over 100 images of val2017. Most have an aspect ratio of 4:3 or 3:2.
  mean = 0.0
  for size, share in (((800, 1088), 0.68), ((800, 1216), 0.32)):
    total = profiling.summarize(config, size).total
    assert total.inference_parameters / 1e6 == pytest.approx(paper['params_m'], abs=0.5)
    mean += share * (total.madds + _more_in_the_released_code(config, size))
  assert mean / 1e9 == pytest.approx(paper['flops_g'], rel=0.005)


def _more_in_the_released_code(config, size):
  """Returns the multiply-adds that the released code takes more, for the same results.

  It computes the masks of the attention at stride 4 before each layer and resizes them to the
  features that the layer reads; here they are computed from resized features. In Swin it also
  projects the padding of the windows.
  """
  options, backbone = config.model_options.mask2former, config.model_options.backbone.name
  pixels = {stride: math.prod(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)}
  masks = 3 * sum(pixels[4] - pixels[stride] for stride in (32, 16, 8))
  more = options.num_queries * options.mask_channels * masks
  if backbone in swin.VARIANTS:
    variant = swin.VARIANTS[backbone]
    for stage, (stride, blocks) in enumerate(zip(pixels, variant.num_blocks)):
      window = variant.window_size
      padded = math.prod(-(-side // (stride * window)) * window for side in size)
      more += blocks * (padded - pixels[stride]) * (variant.embedding_channels * 2**stage)**2
  return more
