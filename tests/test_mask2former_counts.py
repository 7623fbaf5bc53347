"""Configs of Mask2Former have the parameters of the released networks and the paper's FLOPs."""

import json
import math
import re

import mask2former_configs
import pytest
import released_configs
import shared

import deeplab_tf
from deeplab_tf import profiling

pytestmark = pytest.mark.parity
CONFIGS = mask2former_configs.CONFIGS
# Height and width of the multiply-adds in the headers; the other data sets have no common size.
SIZES = {'coco': (800, 1136), 'cityscapes': (1024, 2048), 'ade20k': (640, 640),
         'mapillary_vistas': (640, 640)}
ROWS = mask2former_configs.released()
# Networks that are built, a few seconds each: frozen and trained batch norms, Swin, other classes.
QUICK = ('coco/panoptic_r50', 'coco/panoptic_swin_tiny', 'cityscapes/panoptic_r50',
         'mapillary_vistas/panoptic_r50', 'cityscapes/semantic_r50')
# The panoptic ones, and of the others those whose classes, queries and batch norms differ.
BUILT = [row for row in ROWS if row.task == 'panoptic' or row.config in (
    *QUICK, 'ade20k/semantic_r101', 'cityscapes/semantic_swin_large')]


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


def _expected_parameters(row):
  """Returns the released number, with the classes, queries and batch norms of a config."""
  recorded, weights, norms = _released(row.backbone)
  # A class has a column of 256 weights and a bias; a query has a feature and a position.
  weights += 257 * (int(row.classes) - recorded['num_classes'])
  weights += 512 * (int(row.queries) - recorded['num_queries'])
  return weights + (norms if row.batch_norm == 'trained' else 0)


def test_each_header_names_the_released_weights():
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  released = {}
  for found in tables['mask2former_model_zoo']['rows']:
    # One file was renamed.
    released[found['config'].replace('/maskformer_', '/maskformer2_')] = found['checkpoint']
  assert len(released) == len(ROWS)
  for row in ROWS:
    weights = re.search(r'# Weights:  (\S+)', row.path.read_text())[1]
    found = released[row.released.replace('/maskformer_', '/maskformer2_')]
    assert weights == found.rpartition('/')[2]


def _counts(row):
  """Returns the numbers in the header of a config: millions, and 1e9 multiply-adds or None."""
  return re.search(r'# Counts: +([\d.]+) M parameters(?:, ([\d.]+) G)?', row.path.read_text())


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.config)
def test_a_header_has_the_parameters_of_the_released_network(row):
  assert float(_counts(row)[1]) == pytest.approx(_expected_parameters(row) / 1e6, abs=0.051)


@pytest.mark.parametrize('row', [
    pytest.param(row, id=row.config, marks=() if row.config in QUICK else pytest.mark.slow)
    for row in BUILT])
def test_parameters_are_those_of_the_released_network(row):
  total = profiling.summarize(deeplab_tf.load_config(row.path), SIZES[row.dataset]).total
  assert total.trainable_parameters == total.inference_parameters == _expected_parameters(row)
  if row.dataset in ('coco', 'cityscapes'):
    assert float(_counts(row)[2]) == pytest.approx(total.madds / 1e9, rel=0.001)


@pytest.mark.parametrize('name, row', [
    ('r50', 'R50'), pytest.param('r101', 'R101', marks=pytest.mark.slow),
    pytest.param('swin_large', 'Swin-L', marks=pytest.mark.slow)])
def test_flops_are_the_papers(name, row):
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  (paper,) = [found for found in tables['mask2former']['rows']
              if found['name'] == f'Mask2Former {row}' and found['task'] == 'coco panoptic']
  config = deeplab_tf.load_config(CONFIGS / f'coco/mask2former/panoptic_{name}.textproto')
  assert _mean_flops(config, paper['params_m']) / 1e9 == pytest.approx(paper['flops_g'], rel=0.005)


def _mean_flops(config, parameters):
  """Returns the mean multiply-adds of the released code; checks the parameters, in millions."""
  # The paper averages over 100 images of val2017. Most have an aspect ratio of 4:3 or 3:2.
  mean = 0.0
  for size, share in (((800, 1088), 0.68), ((800, 1216), 0.32)):
    total = profiling.summarize(config, size).total
    assert total.inference_parameters / 1e6 == pytest.approx(parameters, abs=0.5)
    mean += share * (total.madds + _more_in_the_released_code(config, size))
  return mean


# Ablations of the transformer decoder, and their rows of the paper's tables.
ABLATIONS = {
    'cross_attention': 'table 4c: cross-attention', 'smca': 'table 4c: SMCA',
    'mask_pooling': 'table 4c: mask pooling', 'single_scale_32': 'table 4d: single scale 1/32',
    'single_scale_16': 'table 4d: single scale 1/16',
    'single_scale_8': 'table 4d: single scale 1/8',
    'naive_multi_scale': 'table 4d: naive multi-scale, 3 scales'}


@pytest.mark.slow
@pytest.mark.parametrize('name', ABLATIONS)
def test_flops_of_ablations_are_the_papers(name):
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  (flops,) = [row['flops_g'] for row in tables['mask2former']['rows']
              if row['name'] == ABLATIONS[name]]
  path = CONFIGS / f'coco/mask2former/ablation_{name}.textproto'
  header = re.sub(r'\n# +', ' ', path.read_text())
  parameters = float(re.search(r'Counts: +([\d.]+) M parameters', header)[1])
  mean = _mean_flops(deeplab_tf.load_config(path), parameters) / 1e9
  assert mean == pytest.approx(flops, rel=0.005)
  assert mean == pytest.approx(float(re.search(r'describes, ([\d.]+) G', header)[1]), abs=0.051)


def _more_in_the_released_code(config, size):
  """Returns the multiply-adds that the released code takes more, for the same results.

  It computes the masks of the attention at stride 4 before each layer and resizes them to the
  features that the layer reads; here they are computed from resized features. In Swin it also
  projects the padding of the windows.
  """
  options, backbone = config.model_options.mask2former, config.model_options.backbone.name
  pixels = {stride: math.prod(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)}
  masks = sum(pixels[4] - sum(map(pixels.get, strides))
              for strides in _strides_of_masks(options.transformer_decoder, options.num_layers))
  return (options.num_queries * options.mask_channels * masks
          + released_configs.madds_of_window_padding(backbone, size))


def _strides_of_masks(design, num_layers):
  """Returns the strides of the features that each layer with a mask reads."""
  if design.cross_attention in (design.FULL, design.SMCA):
    return []
  strides = {design.CONCATENATED: [(32, 16, 8)], design.STRIDE_32: [(32,)],
             design.STRIDE_16: [(16,)], design.STRIDE_8: [(8,)]}.get(
                 design.scales, [(32,), (16,), (8,)])
  first = 0 if design.query_features == design.LEARNED else 1
  return [strides[i % len(strides)] for i in range(first, num_layers)]


@pytest.mark.parametrize('name, flops, tolerance', [
    ('fpn', 195, 0.04), ('semantic_fpn', 258, 0.03),
    pytest.param('bifpn', 204, 0.04, marks=pytest.mark.slow),
    pytest.param('fapn', None, None, marks=pytest.mark.slow)])
def test_flops_of_other_pixel_decoders_are_the_papers(name, flops, tolerance):
  path = CONFIGS / f'coco/mask2former/ablation_pixel_decoder_{name}.textproto'
  config = deeplab_tf.load_config(path)
  total = profiling.summarize(config, SIZES['coco']).total
  header = re.search(r'# Counts: +([\d.]+) M parameters, ([\d.]+) G', path.read_text())
  assert float(header[1]) == pytest.approx(total.trainable_parameters / 1e6, abs=0.051)
  assert float(header[2]) == pytest.approx(total.madds / 1e9, rel=0.001)
  if flops:
    found = total.madds + _more_in_the_released_code(config, SIZES['coco'])
    assert found / 1e9 == pytest.approx(flops, rel=tolerance)
