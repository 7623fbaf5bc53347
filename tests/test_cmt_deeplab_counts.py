"""Configs of CMT-DeepLab have the parameters that the paper prints."""

import json
import pathlib
import re

import pytest
import shared

import deeplab_tf
from deeplab_tf import profiling

pytestmark = pytest.mark.parity
CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'coco' / 'cmt_deeplab'

# Config -> the row of reference/paper_tables.json, without input size.
ROWS = {
    'ablation_baseline_res641': 'baseline MaX-DeepLab-S with GELU',
    'ablation_clustering_instance_loss_res641': 'table 2a: baseline + clustering transformer',
    'ablation_clustering_res641': 'table 2a: + pixel-wise contrastive loss',
    'ablation_reference_masks_res641': 'table 2b: baseline + reference mask prediction',
    'ablation_location_res641': 'table 2b: + coord-conv',
    'ablation_decoder_res641': 'stronger decoder',
    'ablation_clustering_decoder_res641': 'clustering update, stronger decoder',
    'ablation_full_res641': 'table 2d: CMT-DeepLab Axial-R50, ImageNet-1K, pixel-wise merge',
    'ablation_22k_res641': 'table 2d: + ImageNet-22K',
    'ablation_22k_rfn_res641': 'table 2d: + RFN',
    'ablation_22k_rfn_maskwise_res641': 'table 2d: + mask-wise merge (with RFN)',
    **{f'axial_{name}': f'table 3: {row}, ImageNet-22K, mask-wise merge' for name, row in {
        'r50_res641': 'Axial-R50, 641, 100k',
        'r50_200k_res641': 'Axial-R50, 641, 200k',
        'r50_res1281': 'Axial-R50, 1281, 100k',
        'r50_200k_res1281': 'Axial-R50, 1281, 200k',
        'r104_res641': 'Axial-R104, 641, 100k',
        'r104_200k_res641': 'Axial-R104, 641, 200k',
        'r104_res1281': 'Axial-R104, 1281, 100k',
        'r104_rfn_res1281': 'Axial-R104-RFN, 1281, 100k'}.items()},
    'axial_r104_rfn_200k_res1281': 'CMT-DeepLab Axial-R104-RFN, ImageNet-22K, 200k',
}
# Rows that are there under two names.
TWICE = {'clustering update', 'location-sensitive', 'CMT-DeepLab Axial-R50',
         'CMT-DeepLab Axial-R50, ImageNet-22K', 'CMT-DeepLab Axial-R104, ImageNet-22K',
         'CMT-DeepLab Axial-R104-RFN, ImageNet-22K, 100k'}
# A few seconds each: without any of the changes, and with all of them.
QUICK = ('ablation_baseline_res641', 'ablation_full_res641')


def _paper() -> dict:
  tables = json.loads(shared.path('reference', 'paper_tables.json').read_text())
  return {row['name']: row for row in tables['cmt_deeplab']['rows']}


def _header(name):
  return re.sub(r'\n#\s+', ' ', (CONFIGS / f'{name}.textproto').read_text(encoding='utf-8'))


def test_every_row_of_the_paper_has_a_config():
  assert set(ROWS.values()) | TWICE == set(_paper())
  assert {path.stem for path in CONFIGS.glob('*.textproto')} == set(ROWS)


@pytest.mark.parametrize('name', ROWS)
def test_scores_and_sizes_are_those_of_the_row(name):
  row, header = _paper()[ROWS[name]], _header(name)
  scores = f'{row["coco_val_pq"]} PQ on val2017 (things {row["pq_th"]}, stuff {row["pq_st"]})'
  assert f'# Paper: {scores}' in re.sub(' +', ' ', header)
  config = deeplab_tf.load_config(CONFIGS / f'{name}.textproto')
  size = [int(n) for n in row['input'].split('x')]
  assert list(config.train_dataset_options.crop_size) == size
  assert list(config.eval_dataset_options.crop_size) == size
  steps = config.trainer_options.solver_options.training_number_of_steps
  assert steps == 1000 * row.get('iterations_k', 200 if '200k' in name else 100)
  is_maskwise = config.evaluator_options.transformer_post_processing == 'maskwise'
  assert is_maskwise == (name.startswith('axial') or 'maskwise' in name)
  if row['params_m'] is not None:
    assert float(re.search(r'([\d.]+) M parameters', header)[1]) == pytest.approx(
        row['params_m'], rel=0.01)
    assert f'(paper: {row["params_m"]} M)' in header


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ROWS])
def test_counts_are_those_of_the_header(name):
  total = profiling.summarize(deeplab_tf.load_config(CONFIGS / f'{name}.textproto')).total
  found = re.search(r'Counts: +([\d.]+) M parameters, ([\d.]+) G', _header(name))
  assert float(found[1]) == pytest.approx(total.inference_parameters / 1e6, abs=0.051)
  assert float(found[2]) == pytest.approx(total.madds / 1e9, rel=0.001)
