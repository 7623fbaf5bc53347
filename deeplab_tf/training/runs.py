"""A run from its first line to its last: build, restore, train, evaluate."""

import contextlib
import math
import os
import pathlib
import tempfile
from typing import Callable, Optional

import orbit
import tensorflow as tf
from absl import logging
from google.protobuf import text_format
from orbit import controller as orbit_controller

from deeplab_tf import models
from deeplab_tf.checkpoints import restore
from deeplab_tf.data import catalog, image_normalization, pipeline
from deeplab_tf.training import (
  batches,
  checkpointing,
  distribution,
  evaluators,
  optimizers,
  state,
  trainer,
)
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.kept_scores import KeptScores, warn
from deeplab_tf.training.model_folder import ModelFolder
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction, sum_over_workers
from deeplab_tf.training.reporting import first_lines, monitor, progress, run_log, summaries
from deeplab_tf.training.reporting.batch_pictures import BatchPictures
from deeplab_tf.training.signals import Stopped, StopRequest
from deeplab_tf.training.waiting import new_checkpoints
from deeplab_tf.user_errors import CheckpointError, UsageError

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')
LOG_FILE = 'log.jsonl'

# Orbit prints every output as a Python dictionary; the progress line shows the same shorter.
orbit_controller._log = logging.debug


class Run:
  """One call of the training program.

  Of several workers one is the chief: it alone writes to the model directory.

  Attributes:
    model: The network.
    global_step: int64 [], the steps that are done.
    trainer: Its Trainer; None before `train` or in a mode without.
    evaluator: Its Evaluator; None in mode 'train'.
  """

  def __init__(self, config, model_dir: str, mode: str, strategy: tf.distribute.Strategy,
               stop_request: Optional[StopRequest] = None):
    """Builds model and data, restores the latest checkpoint and prints the first lines.

    Args:
      config: ExperimentOptions; not changed.
      model_dir: Where checkpoints, logs and scores go.
      mode: One of MODES.
      strategy: The devices.
      stop_request: Asked between steps whether to save and stop.

    Raises:
      ValueError, FileNotFoundError: Something is wrong with the config, the data or the model
        directory; the message is one line for the user.
    """
    tf.get_logger().setLevel('ERROR')  # AutoGraph's advice is not for the user.
    self._config = type(config).FromString(config.SerializeToString())
    self._model_dir = model_dir
    self._mode = mode
    self._strategy = strategy
    self._stop_request = stop_request or StopRequest()
    self._options = self._config.trainer_options
    self._total_steps = self._options.solver_options.training_number_of_steps
    self._cluster = distribution.cluster_of(strategy)
    self.trainer = None
    self.evaluator = None
    self._average = None
    self._restored = None
    self._thrown_away = None
    self._has_written = False
    self._folder = ModelFolder(model_dir, must_exist=mode == 'eval')
    try:
      self._set_up()
    except BaseException:
      self._folder.release()
      raise

  def _set_up(self):
    self._print(*distribution.describe(self._strategy))
    self._dataset_info = catalog.from_config(self._config)
    self._architecture = models.architecture(self._config)
    distribution.check(self._config, self._strategy, self._mode)
    distribution.adapt(self._config, self._strategy)
    self._num_eval_images = None
    self._describe_data()
    self._writes = self._reserve_folder()
    self.model, self.global_step = state.build_model(self._config, self._dataset_info,
                                                     self._architecture, self._strategy)
    self._print(first_lines.describe_model(self._config, self.model))
    self._controller = self._build_controller()
    self._print(f'TensorBoard: tensorboard --logdir={self._model_dir}')

  @property
  def _trains(self) -> bool:
    return self._mode in ('train', 'train_and_eval')

  @property
  def _step(self) -> int:
    return int(self.global_step.numpy())

  # === What the modes do ===

  def run(self) -> Optional[dict]:
    """Does what the mode says.

    Returns:
      The last evaluation's result (see PanopticQuality.result and TopKAccuracy.result), or None
      without one.

    Raises:
      Stopped: A stop was requested, and what was learnt is saved.
    """
    run = {'train': lambda: self._train_until(self._total_steps),
           'train_and_eval': self._train_and_evaluate,
           'eval': lambda: self._evaluate(self._restored),
           'continuous_eval': self._evaluate_continuously}[self._mode]
    try:
      run()
    except Stopped:
      saves = self._trains and self._has_written
      if saves:
        self._controller.save_checkpoint()
      self._note('stop')
      self._print(f'stopped at step {self._step}'
                  + (f' and saved {self._saved()}; start again with the same command to go on'
                     if saves else ''))
      raise
    except Exception as error:
      with contextlib.suppress(OSError):  # The disk may be full.
        self._note('error', message=str(error).split('\n')[0])
      if self._trains and self._has_written and self._cluster.is_chief:
        checkpointing.explain_full_disk(error, self._model_dir)
      raise
    finally:
      self._folder.release()
      # By hand: a worker's process ends without Python's own tidying up.
      if self._thrown_away is not None:
        self._thrown_away.cleanup()
    return self.evaluator.result if self.evaluator else None

  def _train_and_evaluate(self):
    interval = max(1, self._config.evaluator_options.eval_interval)
    step = self._step
    if step < self._total_steps:
      self._begin_training()
    # Stopped in the middle of an evaluation, or started again after the last step.
    if step and (step % interval == 0 and step != self._scores.last_step()
                 or step >= self._total_steps):
      self._evaluate(self._saved())
    while step < self._total_steps:
      step = min(self._total_steps, (step // interval + 1) * interval)
      self._train_until(step)
      self._evaluate(self._saved())

  def _train_until(self, step: int):
    start = self._step
    if start >= step:
      self._print(f'nothing to train: the checkpoint is at step {start} of {self._total_steps}')
      return
    self._begin_training()
    with self._training_monitor.progress(start):
      self._controller.train(step)

  def _evaluate(self, prefix: str):
    """Scores the model as it is, which is that of a checkpoint."""
    with self._average.applied() if self._average is not None else contextlib.nullcontext():
      scalars = self._controller.evaluate(self._config.evaluator_options.eval_steps)
    scalars.pop('steps_per_second', None)  # Orbit's, of batches of different sizes.
    if self._cluster.is_chief:
      self._has_written |= self._writes
      self._scores.record(self._step, scalars, self.evaluator, prefix)

  def _evaluate_continuously(self):
    options = self._config.evaluator_options
    for prefix in new_checkpoints(self._model_dir, options.continuous_eval_timeout,
                                  self._stop_request):
      try:
        # Training may remove it while it is evaluated.
        held = self._scores.best.hold(prefix) if self._scores.best else prefix
        self._restore_for_evaluation(held)
      except (tf.errors.OpError, CheckpointError, FileNotFoundError):
        if os.path.exists(f'{prefix}.index'):
          raise
        self._print(f'{prefix} is gone; waiting for the next')
        continue
      self._evaluate(held)
      if self._step >= self._total_steps:
        return
    self._print(f'no new checkpoint in {self._model_dir} for {options.continuous_eval_timeout} s: '
                'evaluation ends')

  # === Set-up ===

  def _build_controller(self) -> orbit.Controller:
    latest = None
    # Continuous evaluation looks when it starts: what is half-written now may be whole then.
    if self._mode != 'continuous_eval':
      latest = checkpointing.latest(self._model_dir)
    if latest is not None:
      restore.check_same_model(self.model, latest, self._folder.same_model_advice())
    self._log = run_log.RunLog(self._chiefs(pathlib.Path(self._model_dir) / LOG_FILE))
    if self._trains:
      self._build_trainer(latest)
    elif self._mode == 'eval':
      self._restore_for_evaluation(restore.find_checkpoint(self._model_dir))
    if self._mode != 'train':
      self._build_evaluator()
    return orbit.Controller(
        global_step=self.global_step, trainer=self.trainer, evaluator=self.evaluator,
        strategy=self._strategy, steps_per_loop=self._steps_to_checkpoint)

  def _build_trainer(self, latest: Optional[str]):
    """Makes the trainer, with the state of the latest or the initial checkpoint."""
    config = self._config
    self._print(f'{distribution.describe_batch(config, self._strategy)}; '
                f'{self._total_steps} steps; learning rate '
                f'{optimizers.peak_learning_rate(config):g} at its peak')
    lines = first_lines.describe_random_start(config)
    if latest is None and config.model_options.initial_checkpoint:
      lines = checkpointing.restore_initial(
          self.model, config.model_options.initial_checkpoint,
          checkpointing.left_out(config, self.model, self._architecture.last_layers(self.model)))
    learnt = state.build(config, self._architecture, self.model, self.global_step, self._strategy)
    self._average = learnt.average
    self._checkpoint = checkpointing.make_checkpoint(learnt.checkpoint_items)
    self._restored = latest
    if latest is not None:
      checkpointing.restore_training(self._checkpoint, latest, self._strategy,
                                     self._folder.same_model_advice())
      lines = [f'checkpoint: going on from {latest}, step {self._step}']
    self._check_same_start()
    self._print(*lines)
    writer, batch_size = (summaries.Writer(self._chiefs(self._model_dir), summaries.TRAIN),
                          config.train_dataset_options.batch_size)
    self._training_monitor = monitor.TrainingMonitor(
        writer, self._log, total_steps=self._total_steps, batch_size=batch_size,
        summary_steps=self._options.save_summaries_steps, quiet=not self._cluster.is_chief)
    self._pictures = None
    if self._mode == 'train' and self._architecture.TARGETS != 'class' and self._cluster.is_chief:
      count = min(config.evaluator_options.num_vis_samples, batch_size)
      prediction = self._build_prediction(count, self._architecture.build_postprocessor)
      self._pictures = BatchPictures(prediction, self._dataset_info, writer, count,
                                     image_normalization.build(config.model_options))
    self.trainer = trainer.build(
        config, self._architecture, self._dataset_info, self._strategy, learnt,
        lambda step: batches.training(config, self._dataset_info, self._architecture.TARGETS,
                                      self._strategy, step),
        on_step=self._on_step, stop_requested=self._stop_request)

  def _begin_training(self):
    """Writes what a training begins with, once nothing can be refused any more."""
    if self._has_begun:
      return
    self.trainer.prepare()
    if self._cluster.is_chief:
      self._folder.begin(text_format.MessageToString(self._config))
      summaries.write_experiment(self._model_dir, self._config, self._step)
    self._has_written = True
    self._note('start')
    # Given to the controller's constructor, it would be restored a second time, and unchecked.
    self._controller.checkpoint_manager = self._build_manager()

  @property
  def _has_begun(self) -> bool:
    return self._controller.checkpoint_manager is not None

  def _check_same_start(self):
    """Checks that all workers have read the same checkpoint."""
    workers = len(self._cluster.workers)
    steps = sum_over_workers(self._strategy, tf.cast(self.global_step.read_value(), tf.float64))
    if int(steps) != workers * self._step:
      raise UsageError(f'--model_dir={self._model_dir} has its last checkpoint at step '
                       f'{self._step} on this worker, and at another on others: all workers must '
                       'see the same folder')

  def _build_manager(self) -> checkpointing.Manager:
    if self._cluster.is_chief:
      return checkpointing.make_manager(
          self._checkpoint, self._model_dir, self._options.num_checkpoints_to_keep,
          self._restored,
          on_saved=lambda prefix: self._log.write('checkpoint', self._step, path=prefix))
    # All workers take part in saving, and what the others write is thrown away.
    self._thrown_away = tempfile.TemporaryDirectory(prefix='deeplab_tf_worker_')
    return checkpointing.make_manager(self._checkpoint, self._thrown_away.name, 1)

  def _on_step(self, step: int, output, seconds: float):
    self._training_monitor.on_step(step, output, seconds)
    # With evaluation there are pictures of evaluated images instead.
    if self._pictures is not None and (step % self._options.save_checkpoints_steps == 0
                                       or step == self._total_steps):
      images, targets = tf.nest.map_structure(
          lambda x: self._strategy.experimental_local_results(x)[0], self.trainer.last_batch)
      self._pictures.draw(images, targets, step)

  def _build_evaluator(self):
    config, options = self._config, self._config.evaluator_options
    writer = summaries.Writer(self._chiefs(self._model_dir), summaries.EVAL)
    batch_size = config.eval_dataset_options.batch_size
    self.evaluator = evaluators.build(
        config, self._architecture, self._dataset_info, writer=writer,
        model_dir=self._model_dir, global_step=self.global_step,
        shows_images=self._cluster.is_chief, strategy=self._strategy,
        predict=self._build_prediction(batch_size // len(self._cluster.workers),
                                       evaluators.build_read_out),
        batches=lambda: batches.evaluation(config, self._dataset_info, self._cluster),
        progress=self._evaluation_progress, stop_requested=self._stop_request)
    best = None
    if options.best_checkpoint_metric and self._mode != 'eval' and self._writes:
      best = BestCheckpoint(self._model_dir, options.best_checkpoint_metric,
                            self.evaluator.scores, options.best_checkpoint_order == options.HIGHER)
    self._scores = KeptScores(self._model_dir, writer, self._log, best=best, show=self._print,
                              is_writable=self._writes, must_write=self._trains)

  def _build_prediction(self, batch_size: int, build_read_out: Callable) -> ReplicatedPrediction:
    compiled = self._options.jit_compile or distribution.is_tpu(self._strategy)
    return ReplicatedPrediction(
        self._strategy, models.inference_network(self._config, self.model),
        build_read_out(self._config, self._dataset_info, compiled),
        batch_size, static=compiled, jit_compile=compiled,
        use_tf_function=self._config.evaluator_options.use_tf_function,
        any_size=not self._config.eval_dataset_options.crop_size)

  def _evaluation_progress(self, num_steps: Optional[int]) -> progress.Progress:
    batch_size = self._config.eval_dataset_options.batch_size
    total = num_steps
    if self._num_eval_images is not None:
      batches_of_all = math.ceil(self._num_eval_images / batch_size)
      total = batches_of_all if total is None else min(total, batches_of_all)
    return progress.Progress('eval', total, batch_size, quiet=not self._cluster.is_chief)

  def _restore_for_evaluation(self, prefix: str):
    restore.check_same_model(self.model, prefix, self._folder.same_model_advice())
    with self._strategy.scope():
      restore.load_checkpoint(self.model, prefix)
      self.global_step.assign(restore.read_step(prefix))
    self._restored = prefix
    self._print(f'checkpoint: {prefix}, step {self._step}')

  def _steps_to_checkpoint(self, step: int) -> int:
    """Orbit's inner loop ends at each multiple of save_checkpoints_steps and saves there."""
    interval = self._options.save_checkpoints_steps
    return int(interval - step % interval)

  def _saved(self) -> Optional[str]:
    return self._controller.checkpoint_manager.newest if self._has_begun else self._restored

  def _note(self, event: str, **values):
    """Writes an event into the log of a run that has written something before."""
    if self._has_written:
      self._log.write(event, self._step, **values)

  def _chiefs(self, path) -> Optional[str]:
    """A path for the worker that writes, and None for others."""
    return str(path) if self._writes else None

  def _reserve_folder(self) -> bool:
    """Whether this process writes to the model directory; a training must be able to."""
    if not self._cluster.is_chief:
      return False
    if self._trains:
      self._print(*self._folder.reserve())
      return True
    reason = self._folder.check_for_evaluation(self._config.evaluator_options)
    if reason:
      warn(f'--model_dir={self._model_dir} cannot be written to ({reason}): scores are printed '
           'and not kept')
    return reason is None

  # === First lines ===

  def _describe_data(self):
    counts = {}
    if self._trains:
      counts['train'] = pipeline.count_examples(self._config.train_dataset_options)
    if self._mode != 'train':
      counts['evaluation'] = pipeline.count_examples(self._config.eval_dataset_options)
    self._num_eval_images = counts.get('evaluation')
    self._print(first_lines.describe_data(self._dataset_info, counts))

  def _print(self, *lines: str):
    if lines and self._cluster.is_chief:
      print(*lines, sep='\n', flush=True)
