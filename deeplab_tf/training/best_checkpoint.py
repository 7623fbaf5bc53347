"""Keeps a copy of the checkpoint with the best score."""

import json
import math
import pathlib
import sys
from typing import Mapping, Optional, Sequence

from deeplab_tf import modules
from deeplab_tf.checkpoints import files
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import CheckpointError, ConfigError

FOLDER = 'best_checkpoint'
_SCORE_FILE = 'best_score.json'
_HELD = 'being_evaluated'


class BestCheckpoint:
  """Compares each evaluation with the best one so far, including earlier runs in the folder.

  Attributes:
    metric: Name of the score.
    score: The best score so far; None before the first evaluation that has one.
  """

  def __init__(self, model_dir: str, metric: str, scores: Sequence[str],
               higher_is_better: bool = True):
    """Reads the best score so far, if there is one.

    Args:
      model_dir: Model directory; the copy is written to best_checkpoint/ below it.
      metric: Name of the score to compare, e.g. 'All/pq'.
      scores: Names of all scores of an evaluation.
      higher_is_better: Whether higher scores are better.

    Raises:
      ConfigError: There is no such metric.
      CheckpointError: The file of the best score is invalid.
    """
    if metric not in scores:
      raise ConfigError(f'evaluator_options.best_checkpoint_metric is "{metric}": an evaluation '
                        f'has {", ".join(scores)}.{modules.nearest(metric, scores)}')
    self._folder = pathlib.Path(model_dir) / FOLDER
    self.metric = metric
    self._higher_is_better = higher_is_better
    self.score = _read_score(self._folder / _SCORE_FILE)

  def hold(self, prefix: str) -> str:
    """Returns the prefix of a copy of a checkpoint, which is kept until the next call.

    Raises:
      FileNotFoundError: The checkpoint does not exist any more.
    """
    return files.copy_checkpoint(prefix, str(self._folder / _HELD))

  def update(self, scalars: Mapping[str, float], prefix: str) -> Optional[str]:
    """Compares an evaluation with the best one, and copies its checkpoint if it is better.

    Args:
      scalars: The scores of the evaluation.
      prefix: Prefix of the evaluated checkpoint.

    Returns:
      The prefix of the copy if this is the best evaluation so far, else None. It is also None if
      the score is not finite or missing because there are no classes to average over.

    Raises:
      FileNotFoundError: The checkpoint does not exist any more.
    """
    score = scalars.get(self.metric)
    if score is None or not self._is_better(float(score)):
      return None
    copy = files.copy_checkpoint(prefix, str(self._folder))
    # Written after the copy, so that a run that is killed in between compares again.
    with atomic_file.writing(self._folder / _SCORE_FILE) as file:
      json.dump(float(score), file)
    self.score = float(score)
    return copy

  def _is_better(self, score: float) -> bool:
    if not math.isfinite(score):
      return False
    if self.score is None:
      return True
    return score > self.score if self._higher_is_better else score < self.score


def _read_score(path: pathlib.Path) -> Optional[float]:
  if not path.exists():
    return None
  try:
    score = float(json.loads(path.read_text(encoding='utf-8')))
  except (ValueError, TypeError):
    raise CheckpointError(f'{path}: holds no number, so that no score can be compared with the '
                          'best one; write the score of the checkpoint beside it into it, or move '
                          'the folder away') from None
  # Earlier versions wrote the largest number if there was no score.
  return score if abs(score) < sys.float_info.max else None
