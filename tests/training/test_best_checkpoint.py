"""The best checkpoint is kept, whatever training deletes."""

import pytest
import tensorflow as tf

from deeplab_tf.checkpoints import files
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.panoptic_evaluator import PanopticEvaluator

SCORES = PanopticEvaluator.scores


def _save(folder, step):
  return tf.train.Checkpoint(value=tf.Variable(float(step))).write(str(folder / f'ckpt-{step}'))


def _steps(folder):
  return sorted(p.stem for p in (folder / 'best_checkpoint').glob('ckpt-*.index'))


def test_a_better_score_replaces_the_copy_and_a_worse_one_does_not(tmp_path):
  best = BestCheckpoint(str(tmp_path), 'All/pq', SCORES)
  assert best.update({'All/pq': 0.3}, _save(tmp_path, 1)) is not None
  assert best.update({'All/pq': 0.5}, _save(tmp_path, 2)) is not None
  assert best.update({'All/pq': 0.4}, _save(tmp_path, 3)) is None
  assert _steps(tmp_path) == ['ckpt-2']
  # Another run in the same folder knows the score.
  again = BestCheckpoint(str(tmp_path), 'All/pq', SCORES)
  assert again.score == 0.5
  assert again.update({'All/pq': 0.45}, _save(tmp_path, 4)) is None
  # The copy does not depend on the original.
  for path in tmp_path.glob('ckpt-2*'):
    path.unlink()
  copy = tf.train.latest_checkpoint(str(tmp_path / 'best_checkpoint'))
  assert files.corruption(copy) is None
  assert tf.train.load_variable(copy, 'value/.ATTRIBUTES/VARIABLE_VALUE') == 2.0


def test_lower_is_better_where_asked_for(tmp_path):
  best = BestCheckpoint(str(tmp_path), 'All/n', SCORES, higher_is_better=False)
  for step, loss in enumerate([3.0, 1.0, 2.0]):
    best.update({'All/n': loss}, _save(tmp_path, step))
  assert _steps(tmp_path) == ['ckpt-1']


def test_an_unknown_metric_is_named_with_those_that_there_are(tmp_path):
  with pytest.raises(ValueError, match='best_checkpoint_metric is "Al/pq": an evaluation has '
                     'All/pq, .*Did you mean "All/pq"'):
    BestCheckpoint(str(tmp_path), 'Al/pq', SCORES)


def test_a_score_that_is_not_available_is_not_the_best(tmp_path):
  best = BestCheckpoint(str(tmp_path), 'Things/pq', SCORES)
  assert best.update({'All/pq': 0.3}, _save(tmp_path, 1)) is None


def test_without_a_score_there_is_no_best_and_no_folder(tmp_path):
  _save(tmp_path, 2)
  best = BestCheckpoint(str(tmp_path), 'Things/pq', SCORES)
  assert best.score is None and not (tmp_path / 'best_checkpoint').exists()
  for scalars in ({'All/pq': 0.5}, {'Things/pq': float('nan')}, {'Things/pq': float('inf')}):
    assert best.update(scalars, f'{tmp_path}/ckpt-2') is None
  assert best.score is None and not (tmp_path / 'best_checkpoint').exists()
  assert best.update({'Things/pq': 0.0}, f'{tmp_path}/ckpt-2') is not None
  assert best.score == 0


def test_what_earlier_versions_wrote_for_no_score_is_none(tmp_path):
  (tmp_path / 'best_checkpoint').mkdir()
  path = tmp_path / 'best_checkpoint' / 'best_score.json'
  path.write_text('-1.7976931348623157e+308')
  assert BestCheckpoint(str(tmp_path), 'All/pq', SCORES).score is None
  path.write_text('{')
  with pytest.raises(ValueError, match='best_score.json: holds no number'):
    BestCheckpoint(str(tmp_path), 'All/pq', SCORES)
