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
  """Compares each evaluation with the best one so far, also of earlier runs in the folder.

  Attributes:
    metric: Name of the score.
    score: The best score so far; None before the first evaluation that has one.
  """

  def __init__(self, model_dir: str, metric: str, scores: Sequence[str],
               higher_is_better: bool = True):
    """Reads the best score so far, if there is one.

    Args:
      model_dir: The copy goes to best_checkpoint/ below it.
      metric: A key of the scalars of an evaluation, e.g. 'All/pq'.
      scores: What an evaluation has.
      higher_is_better: Else lower is.

    Raises:
      ConfigError: There is no such metric.
      CheckpointError: The file of the best score cannot be understood.
    """
    if metric not in scores:
      raise ConfigError(f'evaluator_options.best_checkpoint_metric is "{metric}": an evaluation '
                        f'has {", ".join(scores)}.{modules.nearest(metric, scores)}')
    self._folder = pathlib.Path(model_dir) / FOLDER
    self.metric = metric
    self._higher_is_better = higher_is_better
    self.score = _read_score(self._folder / _SCORE_FILE)

  def hold(self, prefix: str) -> str:
    """Returns a copy of a checkpoint that stays until the next one is held.

    Raises:
      FileNotFoundError: The checkpoint is gone.
    """
    return files.copy_checkpoint(prefix, str(self._folder / _HELD))

  def update(self, scalars: Mapping[str, float], prefix: str) -> Optional[str]:
    """Takes in an evaluation.

    Args:
      scalars: Its scores.
      prefix: The checkpoint that was evaluated.

    Returns:
      The copy, where this is the best so far, else None: also where there is no such score, for
      want of classes to average over, or it is not finite.

    Raises:
      FileNotFoundError: The checkpoint is gone.
    """
    score = scalars.get(self.metric)
    if score is None or not self._is_better(float(score)):
      return None
    copy = files.copy_checkpoint(prefix, str(self._folder))
    # After the copy: a run that is killed in between compares again.
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
  # Earlier versions wrote the largest number for none.
  return score if abs(score) < sys.float_info.max else None
