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

from deeplab_tf import models, whole_file
from deeplab_tf.checkpoints import restore
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.metrics import coco_panoptic_io
from deeplab_tf.training import (
    batches,
    checkpointing,
    distribution,
    evaluators,
    first_lines,
    monitor,
    optimizers,
    progress,
    run_log,
    state,
    summaries,
    trainer,
)
from deeplab_tf.training.batch_pictures import BatchPictures
from deeplab_tf.training.best_checkpoint import BestCheckpoint
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction, sum_over_workers
from deeplab_tf.training.signals import Stopped, StopRequest
from deeplab_tf.training.waiting import new_checkpoints
from deeplab_tf.user_errors import UsageError, UserError

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')
CONFIG_FILE = 'config.textproto'
METRICS_FILE = 'metrics.json'
LOG_FILE = 'log.jsonl'
_OTHER_MODEL = 'use the config that made it, or another --model_dir'

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
    self._best = None
    self._restored = None
    self._thrown_away = None
    self._print(*distribution.describe(strategy))
    self._dataset_info = catalog.from_config(config)
    self._architecture = models.architecture(config)
    distribution.check(config, strategy, mode)
    distribution.adapt(self._config, strategy)
    self._num_eval_images = None
    self._describe_data()
    self._open_model_dir()
    self.model, self.global_step = state.build_model(self._config, self._dataset_info,
                                                     self._architecture, strategy)
    self._print(first_lines.describe_model(self._config, self.model))
    self._controller = self._build_controller()
    self._print(f'TensorBoard: tensorboard --logdir={model_dir}')

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
      if self._trains:
        self._controller.save_checkpoint()
      self._log.write('stop', self._step)
      self._print(f'stopped at step {self._step}'
                  + (f' and saved {self._saved()}; start again with the same command to go on'
                     if self._trains else ''))
      raise
    except Exception as error:
      with contextlib.suppress(OSError):  # The disk may be full.
        self._log.write('error', self._step, message=str(error).split('\n')[0])
      if self._trains and self._cluster.is_chief:
        checkpointing.explain_full_disk(error, self._model_dir)
      raise
    finally:
      # By hand: a worker's process ends without Python's own tidying up.
      if self._thrown_away is not None:
        self._thrown_away.cleanup()
    return self.evaluator.result if self.evaluator else None

  def _train_and_evaluate(self):
    interval = max(1, self._config.evaluator_options.eval_interval)
    step = self._step
    # Stopped in the middle of an evaluation, or started again after the last step.
    if step and (step % interval == 0 and step != self._scored_step()
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
    with self._training_monitor.progress(start):
      self._controller.train(step)

  def _evaluate(self, prefix: str):
    """Scores the model as it is, which is that of a checkpoint."""
    with self._average.applied() if self._average is not None else contextlib.nullcontext():
      scalars = self._controller.evaluate(self._config.evaluator_options.eval_steps)
    scalars.pop('steps_per_second', None)  # Orbit's, of batches of different sizes.
    step, result = self._step, self.evaluator.result
    if not self._cluster.is_chief:
      return
    self._eval_writer.scalars(scalars, step)
    self._log.write('eval', step, **scalars)
    path = pathlib.Path(self._model_dir) / METRICS_FILE
    coco_panoptic_io.write_json(path, {'step': step, **result})
    self._print(f'{self.evaluator.title} at step {step}, also in {path}:',
                self.evaluator.format_result())
    if self._best is not None:
      kept = self._best.update(scalars, prefix)
      self._print(f'best so far: {self._best.score:.4g}' + (f', kept as {kept}' if kept else ''))

  def _evaluate_continuously(self):
    options = self._config.evaluator_options
    for prefix in new_checkpoints(self._model_dir, options.continuous_eval_timeout,
                                  self._stop_request):
      try:
        # Training may remove it while it is evaluated.
        held = self._best.hold(prefix) if self._best is not None else prefix
        self._restore_for_evaluation(held)
      except (tf.errors.OpError, UserError, FileNotFoundError):
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
      restore.check_same_model(self.model, latest, _OTHER_MODEL)
    self._log = run_log.RunLog(self._chiefs(pathlib.Path(self._model_dir) / LOG_FILE))
    manager = None
    if self._trains:
      manager = self._build_trainer(latest)
    elif self._mode == 'eval':
      self._restore_for_evaluation(restore.find_checkpoint(self._model_dir))
    if self._mode != 'train':
      self._build_evaluator()
    controller = orbit.Controller(
        global_step=self.global_step, trainer=self.trainer, evaluator=self.evaluator,
        strategy=self._strategy, steps_per_loop=self._steps_to_checkpoint)
    # Given to the constructor, it would be restored a second time, and unchecked.
    controller.checkpoint_manager = manager
    return controller

  def _build_trainer(self, latest: Optional[str]) -> tf.train.CheckpointManager:
    """Makes the trainer, with the state of the latest or the initial checkpoint."""
    config = self._config
    self._print(f'{distribution.describe_batch(config, self._strategy)}; '
                f'{self._total_steps} steps; learning rate '
                f'{optimizers.peak_learning_rate(config):g} at its peak')
    lines = ['checkpoint: none yet, training starts from random weights']
    if latest is None and config.model_options.initial_checkpoint:
      lines = checkpointing.restore_initial(
          self.model, config.model_options.initial_checkpoint,
          checkpointing.left_out(config, self.model, self._architecture.last_layers(self.model)))
    learnt = state.build(config, self._architecture, self.model, self.global_step, self._strategy)
    self._average = learnt.average
    checkpoint = checkpointing.make_checkpoint(learnt.checkpoint_items)
    if latest is not None:
      checkpointing.restore_training(checkpoint, latest, self._strategy)
      lines = [f'checkpoint: going on from {latest}, step {self._step}']
    self._check_same_start()
    self._print(*lines)
    writer = summaries.Writer(self._chiefs(self._model_dir), summaries.TRAIN)
    if self._cluster.is_chief:
      summaries.write_experiment(self._model_dir, config, self._step)
    self._log.write('start', self._step)
    self._training_monitor = monitor.TrainingMonitor(
        writer, self._log, total_steps=self._total_steps,
        batch_size=config.train_dataset_options.batch_size,
        summary_steps=self._options.save_summaries_steps, quiet=not self._cluster.is_chief)
    self._pictures = None
    if self._mode == 'train' and self._architecture.TARGETS != 'class' and self._cluster.is_chief:
      count = min(config.evaluator_options.num_vis_samples, config.train_dataset_options.batch_size)
      prediction = self._build_prediction(count, self._architecture.build_postprocessor)
      self._pictures = BatchPictures(prediction, self._dataset_info, writer, count)
    self.trainer = trainer.build(
        config, self._architecture, self._dataset_info, self._strategy, learnt,
        lambda step: batches.training(config, self._dataset_info, self._architecture.TARGETS,
                                      self._strategy, step),
        on_step=self._on_step, stop_requested=self._stop_request)
    return self._build_manager(checkpoint, latest)

  def _check_same_start(self):
    """Checks that all workers have read the same checkpoint."""
    workers = len(self._cluster.workers)
    steps = sum_over_workers(self._strategy, tf.cast(self.global_step.read_value(), tf.float64))
    if int(steps) != workers * self._step:
      raise UsageError(f'--model_dir={self._model_dir} has its last checkpoint at step '
                       f'{self._step} on this worker, and at another on others: all workers must '
                       'see the same folder')

  def _build_manager(self, checkpoint, latest: Optional[str]) -> checkpointing.Manager:
    if self._cluster.is_chief:
      return checkpointing.make_manager(
          checkpoint, self._model_dir, self._options.num_checkpoints_to_keep, latest,
          on_saved=lambda prefix: self._log.write('checkpoint', self._step, path=prefix))
    # All workers take part in saving, and what the others write is thrown away.
    self._thrown_away = tempfile.TemporaryDirectory(prefix='deeplab_tf_worker_')
    return checkpointing.make_manager(checkpoint, self._thrown_away.name, 1)

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
    self._eval_writer = summaries.Writer(self._chiefs(self._model_dir), summaries.EVAL)
    batch_size = config.eval_dataset_options.batch_size
    self.evaluator = evaluators.build(
        config, self._architecture, self._dataset_info, writer=self._eval_writer,
        model_dir=self._model_dir, global_step=self.global_step,
        shows_images=self._cluster.is_chief, strategy=self._strategy,
        predict=self._build_prediction(batch_size // len(self._cluster.workers),
                                       evaluators.build_read_out),
        batches=lambda: batches.evaluation(config, self._dataset_info, self._cluster),
        progress=self._evaluation_progress, stop_requested=self._stop_request)
    if options.best_checkpoint_metric and self._mode != 'eval' and self._cluster.is_chief:
      self._best = BestCheckpoint(self._model_dir, options.best_checkpoint_metric,
                                  self.evaluator.scores,
                                  options.best_checkpoint_order == options.HIGHER)

  def _build_prediction(self, batch_size: int, build_read_out: Callable) -> ReplicatedPrediction:
    compiled = self._options.jit_compile or distribution.is_tpu(self._strategy)
    return ReplicatedPrediction(
        self._strategy, models.inference_network(self._config, self.model),
        build_read_out(self._config, self._dataset_info, compiled),
        batch_size, static=compiled, jit_compile=compiled,
        use_tf_function=self._config.evaluator_options.use_tf_function)

  def _evaluation_progress(self, num_steps: Optional[int]) -> progress.Progress:
    batch_size = self._config.eval_dataset_options.batch_size
    total = num_steps
    if self._num_eval_images is not None:
      batches_of_all = math.ceil(self._num_eval_images / batch_size)
      total = batches_of_all if total is None else min(total, batches_of_all)
    return progress.Progress('eval', total, batch_size, quiet=not self._cluster.is_chief)

  def _restore_for_evaluation(self, prefix: str):
    restore.check_same_model(self.model, prefix, _OTHER_MODEL)
    with self._strategy.scope():
      restore.load_checkpoint(self.model, prefix)
      self.global_step.assign(restore.read_step(prefix))
    self._restored = prefix
    self._print(f'checkpoint: {prefix}, step {self._step}')

  def _steps_to_checkpoint(self, step: int) -> int:
    """Orbit's inner loop ends at each multiple of save_checkpoints_steps and saves there."""
    interval = self._options.save_checkpoints_steps
    return int(interval - step % interval)

  def _scored_step(self) -> Optional[int]:
    """The step of the last scores; None without any."""
    path = pathlib.Path(self._model_dir) / METRICS_FILE
    if not path.exists():
      return None
    return coco_panoptic_io.read_json(path, 'the scores of a training').get('step')

  def _saved(self) -> Optional[str]:
    return self._controller.checkpoint_manager.newest

  def _chiefs(self, path) -> Optional[str]:
    """A path for the chief, and None for other workers."""
    return str(path) if self._cluster.is_chief else None

  def _open_model_dir(self):
    if '://' in self._model_dir:
      raise UsageError(f'--model_dir={self._model_dir} is no folder: mount the bucket (e.g. with '
                       'gcsfuse) and give the folder that it is mounted at')
    if os.path.exists(self._model_dir) and not os.path.isdir(self._model_dir):
      raise UsageError(f'--model_dir={self._model_dir} is a file; give a folder')
    if self._mode == 'eval' and not os.path.isdir(self._model_dir):
      raise UsageError(f'--model_dir={self._model_dir} does not exist; give the folder of a '
                       'training')
    os.makedirs(self._model_dir, exist_ok=True)
    if self._trains and self._cluster.is_chief:
      path = pathlib.Path(self._model_dir) / CONFIG_FILE
      with whole_file.writing(path) as file:
        file.write(text_format.MessageToString(self._config))

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
    if self._cluster.is_chief:
      print(*lines, sep='\n', flush=True)
