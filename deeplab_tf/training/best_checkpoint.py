"""Keeps a copy of the checkpoint with the best score."""

import pathlib
from typing import Mapping, Optional, Sequence

from orbit import actions

from deeplab_tf import modules
from deeplab_tf.checkpoints import files
from deeplab_tf.user_errors import ConfigError

FOLDER = 'best_checkpoint'
_SCORE_FILE = 'best_score.json'
_HELD = 'being_evaluated'


class BestCheckpoint:
  """Compares each evaluation with the best one so far, also of earlier runs in the folder."""

  def __init__(self, model_dir: str, metric: str, scores: Sequence[str],
               higher_is_better: bool = True):
    """Reads the best score so far, if there is one.

    Args:
      model_dir: The copy goes to best_checkpoint/ below it.
      metric: A key of the scalars of an evaluation, e.g. 'All/pq'.
      scores: What an evaluation has.
      higher_is_better: Else lower is.

    Raises:
      ValueError: There is no such metric.
    """
    if metric not in scores:
      raise ConfigError(f'evaluator_options.best_checkpoint_metric is "{metric}": an evaluation '
                        f'has {", ".join(scores)}.{modules.nearest(metric, scores)}')
    self._folder = pathlib.Path(model_dir) / FOLDER
    self._metric = metric
    self._best = actions.NewBestMetric(metric, higher_is_better,
                                       filename=str(self._folder / _SCORE_FILE))

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
      want of classes to average over.

    Raises:
      FileNotFoundError: The checkpoint is gone.
    """
    if self._metric not in scalars or not self._best.test(scalars):
      return None
    copy = files.copy_checkpoint(prefix, str(self._folder))
    # After the copy: a run that is killed in between compares again.
    self._best.commit(scalars)
    return copy

  @property
  def score(self) -> float:
    """The best score so far."""
    return self._best.best_value
