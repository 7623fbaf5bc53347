"""Configs of Axial-DeepLab have the parameters and multiply-adds that its tables print.

Where they do not, the header of the config says by how much and why, and so do the tables below.
"""

import json
import pathlib
import re

import model_battery
import pytest
import shared

import deeplab_tf
from deeplab_tf import profiling

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'

# Config -> the row of reference/paper_tables.json, and our multiply-adds relative to it.
ROWS = {
    'coco/axial_deeplab/axial_deeplab_s': ('Axial-DeepLab-S', 1.120),
    'coco/axial_deeplab/axial_deeplab_m': ('Axial-DeepLab-M', 1.104),
    'coco/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.095),
    'mapillary_vistas/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.072),
    'cityscapes/axial_deeplab/axial_deeplab_s': ('Axial-DeepLab-S', 1.108),
    'cityscapes/axial_deeplab/axial_deeplab_m': ('Axial-DeepLab-M', 1.099),
    'cityscapes/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.092),
    'cityscapes/axial_deeplab/axial_deeplab_xl': ('Axial-DeepLab-XL', 1.077),
    'cityscapes/panoptic_deeplab/resnet50_beta_os16_no_aspp':
        ('ResNet-50 (Panoptic-DeepLab heads)', 0.978),
    'cityscapes/panoptic_deeplab/resnet50_beta_os16': ('ResNet-50 with ASPP', 1.563),
    'cityscapes/axial_deeplab/ablation_attention': ('Attention', 0.777),
    'cityscapes/axial_deeplab/ablation_ps_attention': ('PS-Attention', 0.782),
    'cityscapes/axial_deeplab/ablation_ps_attention_aspp': ('PS-Attention with ASPP', 1.457),
    'cityscapes/axial_deeplab/ablation_span_5': ('Axial-ResNet-L span 5', 1.041),
    'cityscapes/axial_deeplab/ablation_span_17': ('Axial-ResNet-L span 17', 1.045),
    'cityscapes/axial_deeplab/ablation_span_65': ('Axial-ResNet-L span 65', 1.092),
}
# Our parameters, relative to the row, of what is not within 1 % of it.
PARAMETERS = {
    'cityscapes/panoptic_deeplab/resnet50_beta_os16': 1.825,
    'cityscapes/axial_deeplab/ablation_attention': 0.990,
    'cityscapes/axial_deeplab/ablation_ps_attention_aspp': 2.097,
}
# Not in the table of rows, or without a row in the paper.
OTHERS = (
    'cityscapes/axial_deeplab/ablation_attention_aspp',
    'cityscapes/axial_deeplab/ablation_span_9',
    'cityscapes/axial_deeplab/ablation_span_33',
    'coco/panoptic_deeplab/resnet50_beta_os16',
    'coco/panoptic_deeplab/resnet50_beta_os16_no_aspp',
)
# A second or some each.
QUICK = (
    'cityscapes/panoptic_deeplab/resnet50_beta_os16_no_aspp',
    'coco/axial_deeplab/axial_deeplab_s',
    'coco/panoptic_deeplab/resnet50_beta_os16_no_aspp',
    's',
)


def _slow_unless_quick(names):
  return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def _paper_rows():
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  return {(row['name'], row['dataset']): row for row in tables['axial_deeplab']['rows']}


@pytest.mark.parity
def test_every_row_has_a_config():
  assert {(name, path.split('/')[0]) for path, (name, _) in ROWS.items()} == set(_paper_rows())


def test_every_config_is_held_against_its_counts():
  folders = ('*/axial_deeplab', 'cityscapes/panoptic_deeplab', 'coco/panoptic_deeplab')
  found = {str(path.relative_to(CONFIGS).with_suffix(''))
           for folder in folders for path in CONFIGS.glob(f'{folder}/*.textproto')}
  assert found == {*ROWS, *OTHERS}


def _count(name, overrides=(), input_size=None):
  config = deeplab_tf.load_config(CONFIGS / f'{name}.textproto', overrides)
  return profiling.summarize(config, input_size)


def _assert_header_says(name, summary):
  """The header tells both counts of parameters and the multiply-adds at the evaluation size."""
  text = re.sub(r'\n#\s+', ' ', (CONFIGS / f'{name}.textproto').read_text())
  height, width = summary.input_size
  header = re.search(rf'Counts: +([\d.]+) M parameters, ([\d.]+) G multiply-adds at '
                     rf'{height}x{width}.*? ([\d.]+) M are the encoder', text)
  assert float(header[1]) == pytest.approx(summary.total.inference_parameters / 1e6, abs=0.0051)
  assert float(header[2]) == pytest.approx(summary.total.madds / 1e9, abs=0.051)
  assert float(header[3]) == pytest.approx(summary.projected_parameters / 1e6, abs=0.0051)


@pytest.mark.parity
@pytest.mark.parametrize('name', _slow_unless_quick(ROWS))
def test_counts_are_as_near_to_the_paper_as_headers_say(name):
  row, madds_ratio = ROWS[name]
  paper = _paper_rows()[row, name.split('/')[0]]
  summary = _count(name)
  parameters = summary.projected_parameters / 1e6 / paper['params_m']
  if name in PARAMETERS:
    assert parameters == pytest.approx(PARAMETERS[name], abs=0.001)
  else:
    assert parameters == pytest.approx(1, abs=0.01)
  assert summary.total.madds / 1e9 / paper['madds_b'] == pytest.approx(madds_ratio, abs=0.001)
  _assert_header_says(name, summary)


@pytest.mark.parametrize('name', _slow_unless_quick(OTHERS))
def test_headers_tell_the_counts(name):
  _assert_header_says(name, _count(name))


@pytest.mark.parity
@pytest.mark.parametrize('size', _slow_unless_quick(('s', 'm', 'l', 'xl')))
def test_with_the_whole_stem_the_second_count_is_deeplab2s(size):
  recorded = json.loads(shared.path('reference', 'deeplab2_counts.json').read_text())
  expected = {row['model']: row for row in recorded['axial_deeplab']['rows']}[
      f'Axial-DeepLab-{size.upper()}']
  summary = _count(f'cityscapes/axial_deeplab/axial_deeplab_{size}',
                   ['model_options { backbone { stem_width_multiplier: 1 } }'], (65, 65))
  assert summary.by_part['backbone'].trainable_parameters == expected['encoder']
  assert summary.projected_parameters / 1e6 == pytest.approx(
      expected['encoder_plus_1x1_projections_M'], abs=0.0006)


@pytest.mark.parametrize('name', [
    'cityscapes/axial_deeplab/axial_deeplab_s',
    *(pytest.param(f'cityscapes/{name}', marks=pytest.mark.slow) for name in (
        'axial_deeplab/axial_deeplab_m', 'axial_deeplab/axial_deeplab_xl',
        'axial_deeplab/ablation_attention', 'axial_deeplab/ablation_ps_attention',
        'axial_deeplab/ablation_span_5', 'panoptic_deeplab/resnet50_beta_os16'))])
def test_the_config_that_a_header_names_pre_trains_the_whole_backbone(name):
  path = CONFIGS / f'{name}.textproto'
  header = re.sub(r'\n#\s+', ' ', path.read_text())
  named = re.search(r'configs/imagenet/\w+\.textproto', header)[0]
  override = re.search(r"--override='(model_options .*?)'", header)
  overrides = [override[1]] if override else []
  shapes = model_battery.backbone_shapes
  assert shapes(CONFIGS.parent / named, overrides) == shapes(path)
