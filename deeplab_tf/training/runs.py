"""A complete run of the training program: setup, training and evaluation."""

import contextlib
from typing import Optional

import tensorflow as tf
from absl import logging
from orbit import controller as orbit_controller

from deeplab_tf.checkpoints import restore
from deeplab_tf.compat import keras
from deeplab_tf.training import checkpointing
from deeplab_tf.training import setup as setup_lib
from deeplab_tf.training.evaluation_loop import EvaluationLoop
from deeplab_tf.training.signals import Stopped, StopRequest
from deeplab_tf.training.training_loop import TrainingLoop

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')

# Orbit prints every output as a Python dictionary; the progress line shows the same in short.
orbit_controller._log = logging.debug


class Run:
  """One run of the training program."""

  def __init__(self, config, model_dir: str, mode: str, strategy: tf.distribute.Strategy,
               stop_request: Optional[StopRequest] = None):
    """Builds network and data, restores the latest checkpoint and prints the first lines.

    Args:
      config: ExperimentOptions; not changed.
      model_dir: Folder of checkpoints, logs and scores.
      mode: One of MODES.
      strategy: The devices.
      stop_request: Tells between steps whether to save and stop.

    Raises:
      UserError: The config, the data or the model directory is invalid; the message is one line.
    """
    self._setup = setup_lib.prepare(config, model_dir, mode, strategy, stop_request)
    self._training = self._evaluation = self._restored = None
    try:
      self._build_loops()
    except BaseException:
      self._setup.folder.release()
      raise
    self._setup.print(f'TensorBoard: tensorboard --logdir={self._setup.model_dir}')

  def _build_loops(self):
    setup = self._setup
    if setup.trains:
      self._training = TrainingLoop(setup)
    elif setup.mode == 'eval':
      latest = checkpointing.latest(setup.model_dir)
      if latest is not None:
        restore.check_same_model(setup.model, latest, setup.folder.same_model_advice())
      self._restored = restore.find_checkpoint(setup.model_dir)
      setup.restore_for_evaluation(self._restored)
    if setup.mode != 'train':
      self._evaluation = EvaluationLoop(setup, self._training and self._training.average)

  @property
  def model(self) -> keras.Model:
    """The network."""
    return self._setup.model

  def run(self) -> Optional[dict]:
    """Trains and evaluates according to the mode.

    Returns:
      The result of the last evaluation (see PanopticQuality.result and TopKAccuracy.result), or
      None.

    Raises:
      Stopped: A stop was requested, and the training is saved.
    """
    setup = self._setup
    run = {'train': lambda: self._training.until(setup.total_steps),
           'train_and_eval': self._train_and_evaluate,
           'eval': lambda: self._evaluation.evaluate(self._restored),
           'continuous_eval': lambda: self._evaluation.continuously()}[setup.mode]
    try:
      run()
    except Stopped:
      self._stop()
      raise
    except Exception as error:
      with contextlib.suppress(OSError):  # The disk may be full.
        self._note('error', message=str(error).split('\n')[0])
      if setup.trains and self._has_written and setup.cluster.is_chief:
        checkpointing.explain_full_disk(error, setup.model_dir)
      raise
    finally:
      setup.folder.release()
      if self._training is not None:
        self._training.clean_up()
    return self._evaluation.result if self._evaluation else None

  def _train_and_evaluate(self):
    setup, training, evaluation = self._setup, self._training, self._evaluation
    interval = max(1, setup.config.evaluator_options.eval_interval)
    step = setup.step
    if step < setup.total_steps:
      training.begin()
    # The last run was stopped during an evaluation, or all steps are completed.
    if step and (step % interval == 0 and step != evaluation.last_step()
                 or step >= setup.total_steps):
      evaluation.evaluate(training.newest)
    while step < setup.total_steps:
      step = min(setup.total_steps, (step // interval + 1) * interval)
      training.until(step)
      evaluation.evaluate(training.newest)

  def _stop(self):
    setup = self._setup
    saves = setup.trains and self._has_written
    if saves:
      self._training.save()
    self._note('stop')
    setup.print(f'stopped at step {setup.step}'
                + (f' and saved {self._training.newest}; start again with the same command to go '
                   'on' if saves else ''))

  @property
  def _has_written(self) -> bool:
    return bool(self._training and self._training.has_begun
                or self._evaluation and self._evaluation.has_written)

  def _note(self, event: str, **values):
    """Writes an event to the log if the run has written anything before."""
    if self._has_written:
      self._setup.log.write(event, self._setup.step, **values)
