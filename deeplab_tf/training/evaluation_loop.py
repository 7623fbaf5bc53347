"""The evaluation of a run, either of the current weights or of each new checkpoint."""

import contextlib
import math
import os
from typing import Optional

import orbit
import tensorflow as tf

from deeplab_tf.training import batches, evaluators
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.kept_scores import KeptScores
from deeplab_tf.training.reporting import progress, summaries
from deeplab_tf.training.setup import Setup
from deeplab_tf.training.waiting import new_checkpoints
from deeplab_tf.training.weight_average import WeightAverage
from deeplab_tf.user_errors import CheckpointError


class EvaluationLoop:
  """Evaluates the network of a Setup.

  Attributes:
    has_written: Whether scores have been written.
  """

  def __init__(self, setup: Setup, average: Optional[WeightAverage] = None):
    """Builds the evaluator.

    Args:
      setup: Setup of the run.
      average: Averaged weights, which are evaluated instead of the trained ones; None for no
        averaging.

    Raises:
      UserError: A requested score is not available.
    """
    self._setup = setup
    self._average = average
    self.has_written = False
    config, options = setup.config, setup.config.evaluator_options
    writer = summaries.Writer(setup.written(setup.model_dir), summaries.EVAL)
    batch_size = config.eval_dataset_options.batch_size
    self._evaluator = evaluators.build(
        config, setup.architecture, setup.dataset_info,
        evaluators.Surroundings(writer, setup.model_dir, setup.global_step,
                                shows_images=setup.cluster.is_chief),
        strategy=setup.strategy,
        predict=setup.build_prediction(batch_size // len(setup.cluster.workers),
                                       evaluators.build_postprocessor),
        batches=lambda: batches.evaluation(config, setup.dataset_info, setup.cluster),
        progress=self._progress, stop_requested=setup.stop_request)
    best = None
    if options.best_checkpoint_metric and setup.mode != 'eval' and setup.writes:
      best = BestCheckpoint(setup.model_dir, options.best_checkpoint_metric,
                            self._evaluator.scores,
                            options.best_checkpoint_order == options.HIGHER)
    self._scores = KeptScores(setup.model_dir, writer, setup.log, best=best, show=setup.print,
                              is_writable=setup.writes, must_write=setup.trains)
    self._controller = orbit.Controller(
        global_step=setup.global_step, evaluator=self._evaluator, strategy=setup.strategy)

  @property
  def result(self) -> Optional[dict]:
    """The last result (see PanopticQuality.result and TopKAccuracy.result), or None."""
    return self._evaluator.result

  def last_step(self) -> Optional[int]:
    """Returns the step of the last scores in the model directory, or None."""
    return self._scores.last_step()

  def evaluate(self, prefix: Optional[str]) -> None:
    """Evaluates the network with its current weights.

    Args:
      prefix: Prefix of the checkpoint that has the same weights.

    Raises:
      Stopped: A stop was requested.
    """
    with self._average.applied() if self._average is not None else contextlib.nullcontext():
      scalars = self._controller.evaluate(self._setup.config.evaluator_options.eval_steps)
    scalars.pop('steps_per_second', None)  # From Orbit; batches have different sizes.
    if self._setup.cluster.is_chief:
      self.has_written |= self._setup.writes
      self._scores.record(self._setup.step, scalars, self._evaluator, prefix)

  def continuously(self) -> None:
    """Evaluates each new checkpoint until the last step, or until a time without a new one.

    Raises:
      Stopped: A stop was requested.
    """
    setup = self._setup
    timeout = setup.config.evaluator_options.continuous_eval_timeout
    for prefix in new_checkpoints(setup.model_dir, timeout, setup.stop_request):
      try:
        # Training may remove the checkpoint while it is evaluated.
        held = self._scores.best.hold(prefix) if self._scores.best else prefix
        setup.restore_for_evaluation(held)
      except (tf.errors.OpError, CheckpointError, FileNotFoundError):
        if os.path.exists(f'{prefix}.index'):
          raise
        setup.print(f'{prefix} is gone; waiting for the next')
        continue
      self.evaluate(held)
      if setup.step >= setup.total_steps:
        return
    setup.print(f'no new checkpoint in {setup.model_dir} for {timeout} s: evaluation ends')

  def _progress(self, num_steps: Optional[int]) -> progress.Progress:
    setup = self._setup
    batch_size = setup.config.eval_dataset_options.batch_size
    total = num_steps
    if setup.num_eval_images is not None:
      batches_of_all = math.ceil(setup.num_eval_images / batch_size)
      total = batches_of_all if total is None else min(total, batches_of_all)
    return progress.Progress('eval', total, batch_size, quiet=not setup.cluster.is_chief)
