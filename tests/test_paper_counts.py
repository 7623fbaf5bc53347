"""Configs have the parameters and multiply-adds that the papers print."""

import json
import pathlib
import re

import pytest
import shared

import deeplab_tf
from deeplab_tf import profiling

pytestmark = pytest.mark.parity
CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'coco' / 'max_deeplab'

# Config -> the row of reference/paper_tables.json.
MAX_DEEPLAB = {
    'max_deeplab_s_res641': ('MaX-DeepLab-S', '641x641'),
    'max_deeplab_s_res1025': ('MaX-DeepLab-S', '1025x1025'),
    'max_deeplab_l_res1025': ('MaX-DeepLab-L', '1025x1025'),
    'ablation_baseline_res641': ('ablation: conv P2P, L=0', '641x641'),
    'ablation_axial_res641': ('ablation: axial P2P, L=0', '641x641'),
    'ablation_baseline_res1025': ('ablation: conv P2P, L=0', '1025x1025'),
    'ablation_axial_res1025': ('ablation: axial P2P, L=0', '1025x1025'),
    'ablation_decoder_l1_res641': ('ablation: conv P2P, L=1', '641x641'),
    'ablation_decoder_l2_res641': ('ablation: conv P2P, L=2', '641x641'),
    'ablation_no_p2m_res641': ('ablation: no P2M', '641x641'),
    'ablation_no_m2m_res641': ('ablation: no M2M', '641x641'),
    'ablation_no_p2m_no_m2m_res641': ('ablation: no P2M, no M2M', '641x641'),
    'ablation_stride_16_8_res641': ('ablation: transformer at strides 16 and 8', '641x641'),
    'ablation_stride_16_8_4_res641':
        ('ablation: transformer at strides 16, 8 and 4', '641x641'),
}
# A few seconds each: without stacks and with them, convolutions and axial blocks.
QUICK = ('max_deeplab_s_res641', 'max_deeplab_l_res1025')


def _paper_rows(section: str) -> dict:
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  return {(row['name'], row['input']): row for row in tables[section]['rows']}


def test_every_row_of_max_deeplab_has_a_config():
  assert {row[:2] for row in MAX_DEEPLAB.values()} == set(_paper_rows('max_deeplab'))


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MAX_DEEPLAB])
def test_max_deeplab_counts_what_the_paper_prints(name):
  paper = _paper_rows('max_deeplab')[MAX_DEEPLAB[name]]
  path = CONFIGS / f'{name}.textproto'
  total = profiling.summarize(deeplab_tf.load_config(path)).total
  parameters, madds = total.inference_parameters / 1e6, total.madds / 1e9
  assert parameters == pytest.approx(paper['params_m'], rel=0.01)
  if paper['madds_b'] is not None:
    assert madds == pytest.approx(paper['madds_b'], rel=0.01)
  # The header says so.
  header = re.search(r'# Counts: +([\d.]+) M parameters, ([\d.]+) G', path.read_text())
  assert float(header[1]) == pytest.approx(parameters, abs=0.051)
  assert float(header[2]) == pytest.approx(madds, rel=0.001)
