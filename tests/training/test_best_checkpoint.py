"""The best checkpoint stays, whatever training removes."""

import pytest
import tensorflow as tf

from deeplab_tf.checkpoints import files
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.evaluator import Evaluator

SCORES = Evaluator.scores


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
  assert files.damage(copy) is None
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
