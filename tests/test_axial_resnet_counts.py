"""Configs for ImageNet have the parameters and multiply-adds of the Axial-DeepLab paper."""

import json
import pathlib
import re

import pytest
import shared

import deeplab_tf
from deeplab_tf import profiling

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'imagenet'

# Config -> the row of reference/paper_tables.json.
ROWS = {
    'axial_ablation_resnet50': 'ResNet-50',
    'axial_ablation_attention': 'Conv-Stem + Attention',
    'axial_ablation_attention_bn': 'Conv-Stem + Attention, BN',
    'axial_ablation_ps_attention': 'Conv-Stem + PS-Attention',
    'axial_resnet_s': 'Conv-Stem + Axial-Attention (Axial-ResNet-S)',
    'axial_resnet_full_s': 'Full Axial-Attention',
}
# Some seconds each; the convolutional one and the axial one that the others vary.
QUICK = ('axial_ablation_resnet50', 'axial_resnet_s')
# Our multiply-adds relative to the row where queries share keys in blocks; the headers say so.
SHARED_KEYS = {'axial_ablation_attention': 1.09, 'axial_ablation_attention_bn': 1.09,
               'axial_ablation_ps_attention': 1.14, 'axial_resnet_full_s': 1.02}
# Those of other sizes, and of the PyTorch code, are not in the table.
OTHERS = ('axial_resnet_m', 'axial_resnet_l', 'axial_resnet_xl', 'axial_resnet_full_m',
          'axial_resnet_full_l', 'axial_resnet_full_xl', 'axial26_s', 'axial50_s')


@pytest.mark.parity
def test_every_row_has_a_config():
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  assert {row['name'] for row in tables['axial_resnet_imagenet']['rows']} == set(ROWS.values())


def _counts(name):
  total = profiling.summarize(deeplab_tf.load_config(CONFIGS / f'{name}.textproto')).total
  return total.inference_parameters / 1e6, total.madds / 1e9


def _assert_header_says(name, parameters, madds):
  header = re.search(r'# Counts: +([\d.]+) M parameters, ([\d.]+) G',
                     (CONFIGS / f'{name}.textproto').read_text())
  assert float(header[1]) == pytest.approx(parameters, abs=0.051)
  assert float(header[2]) == pytest.approx(madds, abs=0.0006)


@pytest.mark.parity
@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ROWS])
def test_counts_are_what_the_paper_prints(name):
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  paper = {row['name']: row for row in tables['axial_resnet_imagenet']['rows']}[ROWS[name]]
  parameters, madds = _counts(name)
  assert parameters == pytest.approx(paper['params_m'], rel=0.01)
  # Printed with one digit behind the point.
  assert madds == pytest.approx(SHARED_KEYS.get(name, 1) * paper['madds_b'], abs=0.05)
  _assert_header_says(name, parameters, madds)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name == 'axial26_s' else pytest.mark.slow) for name in OTHERS])
def test_headers_tell_the_counts(name):
  _assert_header_says(name, *_counts(name))
