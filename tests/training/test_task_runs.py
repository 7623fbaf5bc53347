"""Trainings of instance and semantic segmentation: scores, pictures, the best checkpoint."""

import json

import programs
import pytest
import tiny_mask2former
import tiny_runs

from deeplab_tf.metrics import mean_iou
from deeplab_tf.metrics.instance_average_precision import NAMES

TRAIN = 'trainer/train.py'


def _run(folder, task, mode, *overrides):
  path = tiny_mask2former.write_config(folder)
  programs.run(TRAIN, f'--config_file={path}', f'--mode={mode}', f'--model_dir={folder / "run"}',
               f'--override=task: {task}', *[f'--override={each}' for each in overrides])
  return folder / 'run'


@pytest.mark.parametrize('task,names,metric', [
    ('INSTANCE', [*NAMES, 'boundary/AP'], 'AR100'),
    ('SEMANTIC', mean_iou.SCORES, 'miou')])
def test_a_run_keeps_the_scores_of_its_task(tmp_path, task, names, metric):
  model_dir = _run(tmp_path, task, 'train_and_eval',
                   f'evaluator_options {{ best_checkpoint_metric: "{metric}" }}')
  found = json.loads((model_dir / 'metrics.json').read_text())
  assert found['step'] == 4
  scalars = tiny_runs.read_scalars(model_dir / 'eval')
  # There are no large objects in images of this size, and few images.
  assert set(names) - set(scalars) <= {'APm', 'APl', 'ARm', 'ARl'}
  assert all(0 <= scalars[name][4] <= 1 for name in names if name in scalars)
  assert {'pictures/00', 'pictures/01'} <= set(scalars)
  score = json.loads((model_dir / 'best_checkpoint' / 'best_score.json').read_text())
  assert score == pytest.approx(scalars[metric][4], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['INSTANCE', 'SEMANTIC'])
def test_a_training_without_evaluation_draws_its_batches(tmp_path, task):
  model_dir = _run(tmp_path, task, 'train')
  assert {'pictures/00', 'losses/total'} <= set(tiny_runs.read_scalars(model_dir / 'train'))


@pytest.mark.parametrize('options,message', [
    ('extra_scores: AP_TH_PAN', 'AP_TH_PAN is for task PANOPTIC, and the task is INSTANCE'),
    ('save_raw_predictions: true', 'save_raw_predictions writes panoptic maps, and the task')])
def test_options_of_another_task_are_refused_in_one_line(tmp_path, options, message):
  path = tiny_mask2former.write_config(tmp_path)
  line = programs.error_line(
      TRAIN, f'--config_file={path}', '--mode=train_and_eval', f'--model_dir={tmp_path / "run"}',
      '--override=task: INSTANCE', f'--override=evaluator_options {{ {options} }}')
  assert message in line
