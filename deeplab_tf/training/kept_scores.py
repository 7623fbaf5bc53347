"""Writes the scores of a run to TensorBoard, log.jsonl and metrics.json, and keeps the best."""

import pathlib
import sys
from typing import Callable, Mapping, Optional

import tensorflow as tf

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.evaluator import BatchEvaluator
from deeplab_tf.training.reporting import run_log, summaries
from deeplab_tf.user_errors import HostError

METRICS_FILE = 'metrics.json'


class KeptScores:
  """Writes the scores of evaluations into a model directory.

  Attributes:
    path: Path of the file with the last result.
    best: Keeper of the best checkpoint; None if none is kept.
  """

  def __init__(self, model_dir: str, writer: summaries.Writer, log: run_log.RunLog, *,
               show: Callable[..., None], is_writable: bool, must_write: bool,
               best: Optional[BestCheckpoint] = None):
    """Initializes the scores without writing anything.

    Args:
      model_dir: Model directory.
      writer: Writer of the evaluation curves.
      log: Log of the run.
      show: Prints lines.
      is_writable: Whether files are written at all.
      must_write: Whether a file that cannot be written is an error and not a warning.
      best: Keeper of the best checkpoint.
    """
    self.path = pathlib.Path(model_dir) / METRICS_FILE
    self.best = best
    self._writer = writer
    self._log = log
    self._show = show
    self._is_writable = is_writable
    self._must_write = must_write

  def record(self, step: int, scalars: Mapping[str, float], evaluator: BatchEvaluator,
             prefix: str) -> None:
    """Writes and prints the scores of an evaluation; prints them even if writing fails.

    Args:
      step: Number of completed steps.
      scalars: The scores by name.
      evaluator: The evaluator with its result.
      prefix: Prefix of the evaluated checkpoint.
    """
    problem = self._write(step, scalars, evaluator.result) if self._is_writable else None
    is_kept = self._is_writable and problem is None
    where = f', also in {self.path}:' if is_kept else ':'
    self._show(f'{evaluator.title} at step {step}{where}', evaluator.format_result())
    if problem is not None:
      if self._must_write:
        raise problem
      warn(f'{self.path.parent}: not all of the scores could be written there '
           f'({str(problem).splitlines()[0]})')
    if self._is_writable and self.best is not None:
      kept = self.best.update(scalars, prefix)
      self._show(self._describe_best() + (f', kept as {kept}' if kept else ''))

  def _write(self, step: int, scalars: Mapping[str, float], result: dict) -> Optional[Exception]:
    """Writes the scores; returns the error if not all of them could be written, or None."""
    try:
      self._writer.scalars(scalars, step)
      self._log.write('eval', step, **scalars)
      coco_panoptic.write_json(self.path, {'step': step, **result})
    except (OSError, tf.errors.OpError, HostError) as error:
      return error
    return None

  def _describe_best(self) -> str:
    if self.best.score is None:
      return (f'best so far: none, since {self.best.metric} has no value here: there was nothing '
              'of its kind to score')
    return f'best so far: {self.best.score:.4g}'

  def last_step(self) -> Optional[int]:
    """Returns the step of the last scores that were written, or None."""
    if not self.path.exists():
      return None
    return coco_panoptic.read_json(self.path, 'the scores of a training').get('step')


def warn(line: str) -> None:
  """Prints a warning to standard error, separate from the scores."""
  print(f'WARNING: {line}', file=sys.stderr, flush=True)
