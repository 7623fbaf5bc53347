"""Configs of Axial-DeepLab have the parameters and multiply-adds that its tables print.

Where they differ, the header of the config states by how much and why, as does the table below.
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
    'coco/axial_deeplab/axial_deeplab_s': ('Axial-DeepLab-S', 1.053),
    'coco/axial_deeplab/axial_deeplab_m': ('Axial-DeepLab-M', 1.041),
    'coco/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.032),
    'mapillary_vistas/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.022),
    'cityscapes/axial_deeplab/axial_deeplab_s': ('Axial-DeepLab-S', 1.046),
    'cityscapes/axial_deeplab/axial_deeplab_m': ('Axial-DeepLab-M', 1.040),
    'cityscapes/axial_deeplab/axial_deeplab_l': ('Axial-DeepLab-L', 1.034),
    'cityscapes/axial_deeplab/axial_deeplab_xl': ('Axial-DeepLab-XL', 1.020),
    'cityscapes/panoptic_deeplab/resnet50_beta_os16_no_aspp':
        ('ResNet-50 (Panoptic-DeepLab heads)', 1.008),
    'cityscapes/panoptic_deeplab/resnet50_beta_os16': ('ResNet-50 with ASPP', 1.008),
    'cityscapes/axial_deeplab/ablation_attention': ('Attention', 1.038),
    'cityscapes/axial_deeplab/ablation_ps_attention': ('PS-Attention', 1.062),
    'cityscapes/axial_deeplab/ablation_ps_attention_aspp': ('PS-Attention with ASPP', 1.059),
    'cityscapes/axial_deeplab/ablation_span_5': ('Axial-ResNet-L span 5', 1.008),
    'cityscapes/axial_deeplab/ablation_span_17': ('Axial-ResNet-L span 17', 1.007),
    'cityscapes/axial_deeplab/ablation_span_65': ('Axial-ResNet-L span 65', 1.034),
}
# Not in the table of rows, or without a row in the paper.
OTHERS = (
    'coco/axial_deeplab/axial_deeplab_s_small',
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
    's',
)


# DeepLab2's network: a stem of full width, no max pooling, and projections in place of ASPP.
DEEPLAB2 = """model_options {
  backbone { name: "axial_deeplab_l" stem_width_multiplier: 1 }
  decoder { skip_aspp: false aspp_use_only_1x1_proj_conv: true }
  panoptic_deeplab {
    instance { instance_decoder_override { skip_aspp: false aspp_use_only_1x1_proj_conv: true } }
  }
}"""


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


def _count(name, input_size, overrides=()):
  config = deeplab_tf.load_config(CONFIGS / f'{name}.textproto', overrides)
  return profiling.summarize(config, input_size)


def _assert_header_tells_the_counts(name):
  """Compares parameters and multiply-adds at the size that the header names; returns them."""
  text = re.sub(r'\n#\s+', ' ', (CONFIGS / f'{name}.textproto').read_text())
  parameters, madds, *size = re.search(r'Counts: +([\d.]+) M parameters, ([\d.]+) G multiply-adds '
                                       r'at (\d+)x(\d+)', text).groups()
  summary = _count(name, [int(n) for n in size])
  assert float(parameters) == pytest.approx(summary.total.inference_parameters / 1e6, abs=0.0051)
  assert float(madds) == pytest.approx(summary.total.madds / 1e9, abs=0.051)
  return summary


@pytest.mark.parity
@pytest.mark.parametrize('name', _slow_unless_quick(ROWS))
def test_counts_are_as_near_to_the_paper_as_headers_say(name):
  row, madds_ratio = ROWS[name]
  paper = _paper_rows()[row, name.split('/')[0]]
  summary = _assert_header_tells_the_counts(name)
  crop = deeplab_tf.load_config(CONFIGS / f'{name}.textproto').eval_dataset_options.crop_size
  assert list(summary.input_size) == [n - 1 for n in crop]
  assert summary.total.inference_parameters / 1e6 / paper['params_m'] == pytest.approx(1, abs=0.01)
  assert summary.total.madds / 1e9 / paper['madds_b'] == pytest.approx(madds_ratio, abs=0.001)


@pytest.mark.parametrize('name', _slow_unless_quick(OTHERS))
def test_headers_tell_the_counts(name):
  _assert_header_tells_the_counts(name)


@pytest.mark.parity
@pytest.mark.parametrize('size', _slow_unless_quick(('s', 'm', 'l', 'xl')))
def test_with_its_backbone_and_decoders_the_second_count_is_deeplab2s(size):
  recorded = json.loads(shared.path('reference', 'deeplab2_counts.json').read_text())
  expected = {row['model']: row for row in recorded['axial_deeplab']['rows']}[
      f'Axial-DeepLab-{size.upper()}']
  summary = _count(f'cityscapes/axial_deeplab/axial_deeplab_{size}', (65, 65), [DEEPLAB2])
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
  overrides = (override[1],) if override else ()  # Hashable, for the cache.
  shapes = model_battery.backbone_shapes
  assert shapes(CONFIGS.parent / named, overrides) == shapes(path)
