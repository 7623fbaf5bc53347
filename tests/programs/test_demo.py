"""`make demo` writes its documented files. The test is slow, since it trains for a few steps."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_leaves_checkpoints_logs_saved_model_scores_and_report(tmp_path):
  output = tmp_path / 'demo'
  done = subprocess.run([
      sys.executable, 'scripts/demo.py', f'--output_dir={output}',
      '--override=trainer_options { solver_options { training_number_of_steps: 6 warmup_steps: 1 '
      '} } evaluator_options { eval_interval: 3 } '
      'eval_dataset_options { shapes { num_images: 10 } }'
  ], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  for name in ('model/checkpoint', 'model/train', 'model/eval', 'saved_model/saved_model.pb',
               'predictions/predictions.json', 'report.html'):
    assert (output / name).exists(), name
  scores = json.loads((output / 'metrics.json').read_text())
  assert scores['step'] == 6
  assert set(scores['All']) == {'pq', 'sq', 'rq', 'n'}
  for line in ('PQ', 'report.html', 'tensorboard'):
    assert line in done.stdout


def test_the_demo_does_not_empty_a_folder_that_is_not_its_own(tmp_path):
  kept = tmp_path / 'thesis.txt'
  kept.write_text('years of work')
  done = subprocess.run([sys.executable, 'scripts/demo.py', f'--output_dir={tmp_path}'], cwd=ROOT,
                        capture_output=True, text=True, check=False)
  assert done.returncode != 0
  assert 'contains other files' in done.stderr
  assert kept.exists()
