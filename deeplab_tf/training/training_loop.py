"""The training of a run, from the latest checkpoint to a given step with regular saving."""

import tempfile
from typing import Optional

import orbit
import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf.architecture import TargetForm
from deeplab_tf.checkpoints import restore
from deeplab_tf.data import image_normalization
from deeplab_tf.training import batches, checkpointing, distribution, optimizers, state, trainer
from deeplab_tf.training.replicated_prediction import sum_over_workers
from deeplab_tf.training.reporting import first_lines, monitor, summaries
from deeplab_tf.training.reporting.batch_pictures import BatchPictures
from deeplab_tf.training.setup import Setup
from deeplab_tf.user_errors import UsageError


class TrainingLoop:
  """Trains the network of a Setup.

  Attributes:
    average: The averaged weights, a WeightAverage; None without averaging.
  """

  def __init__(self, setup: Setup):
    """Builds the trainer with the state of the latest or the initial checkpoint.

    Nothing is written before `until` or `begin`.

    Raises:
      UserError: A checkpoint belongs to another model, or cannot be read.
    """
    self._setup = setup
    config = setup.config
    self._restored = checkpointing.latest(setup.model_dir)
    if self._restored is not None:
      restore.check_same_model(setup.model, self._restored, setup.folder.same_model_advice())
    setup.print(f'{distribution.describe_batch(config, setup.strategy)}; '
                f'{setup.total_steps} steps; learning rate '
                f'{optimizers.peak_learning_rate(config):g} at its peak')
    training_state, lines = self._restore()
    self.average = training_state.average
    _check_same_start(setup)
    setup.print(*lines)

    writer = summaries.Writer(setup.written(setup.model_dir), summaries.TRAIN)
    self._monitor = monitor.TrainingMonitor(
        writer, setup.log, total_steps=setup.total_steps,
        batch_size=config.train_dataset_options.batch_size,
        summary_steps=config.trainer_options.save_summaries_steps,
        quiet=not setup.cluster.is_chief)
    self._pictures = _batch_pictures(setup, writer)
    self._trainer = trainer.build(
        config, setup.architecture, setup.dataset_info, strategy=setup.strategy,
        state=training_state,
        batches=lambda step: batches.training(config, setup.dataset_info,
                                              setup.architecture.target_form, setup.strategy, step),
        on_step=self._on_step, stop_requested=setup.stop_request)
    self._controller = orbit.Controller(
        global_step=setup.global_step, trainer=self._trainer, strategy=setup.strategy,
        steps_per_loop=self._steps_to_checkpoint)
    self._thrown_away = None

  def _restore(self) -> tuple[state.TrainingState, list[str]]:
    setup, latest = self._setup, self._restored
    config = setup.config
    lines = first_lines.describe_random_start(config)
    if latest is None and config.model_options.initial_checkpoint:
      lines = checkpointing.restore_initial(
          setup.model, config.model_options.initial_checkpoint,
          checkpointing.left_out(config, setup.model,
                                 setup.architecture.last_layers(setup.model)))
    training_state = state.build(config, setup.architecture, setup.model, setup.global_step,
                                 setup.strategy)
    self._checkpoint = checkpointing.make_checkpoint(training_state.checkpoint_items)
    if latest is not None:
      checkpointing.restore_training(self._checkpoint, latest, setup.strategy,
                                     setup.folder.same_model_advice())
      lines = [f'checkpoint: resuming from {latest}, step {setup.step}']
    return training_state, lines

  @property
  def has_begun(self) -> bool:
    """Whether anything has been written."""
    return self._controller.checkpoint_manager is not None

  @property
  def newest(self) -> Optional[str]:
    """The prefix of the newest checkpoint, or None before the first."""
    return self._controller.checkpoint_manager.newest if self.has_begun else self._restored

  def begin(self) -> None:
    """Writes the first files of a training, after all checks have passed."""
    if self.has_begun:
      return
    setup = self._setup
    self._trainer.prepare()
    if setup.cluster.is_chief:
      setup.folder.begin(text_format.MessageToString(setup.config))
      summaries.write_experiment(setup.model_dir, setup.config, setup.step)
    setup.log.write('start', setup.step)
    # The controller's constructor would restore the checkpoint again, without checks.
    self._controller.checkpoint_manager = self._build_manager()

  def until(self, step: int) -> None:
    """Trains until the given number of steps is completed.

    Raises:
      Stopped: A stop was requested.
    """
    start = self._setup.step
    if start >= step:
      self._setup.print(f'nothing to train: the checkpoint is at step {start} of '
                        f'{self._setup.total_steps}')
      return
    self.begin()
    with self._monitor.progress(start):
      self._controller.train(step)

  def save(self) -> None:
    """Saves a checkpoint of the current step."""
    self._controller.save_checkpoint()

  def clean_up(self) -> None:
    """Removes the checkpoints that a worker other than the chief had to save.

    This is explicit because such a process exits without Python's cleanup.
    """
    if self._thrown_away is not None:
      self._thrown_away.cleanup()

  def _build_manager(self) -> checkpointing.Manager:
    setup = self._setup
    if setup.cluster.is_chief:
      return checkpointing.make_manager(
          self._checkpoint, setup.model_dir,
          setup.config.trainer_options.num_checkpoints_to_keep, self._restored,
          on_saved=lambda prefix: setup.log.write('checkpoint', setup.step, path=prefix))
    # All workers have to take part in saving; the files of all but the chief are discarded.
    self._thrown_away = tempfile.TemporaryDirectory(prefix='deeplab_tf_worker_')
    return checkpointing.make_manager(self._checkpoint, self._thrown_away.name, 1)

  def _on_step(self, step: int, output, seconds: float):
    setup = self._setup
    self._monitor.on_step(step, output, seconds)
    if self._pictures is not None and (
        step % setup.config.trainer_options.save_checkpoints_steps == 0
        or step == setup.total_steps):
      images, targets = tf.nest.map_structure(
          lambda x: setup.strategy.experimental_local_results(x)[0], self._trainer.last_batch)
      self._pictures.draw(images, targets, step)

  def _steps_to_checkpoint(self, step: int) -> int:
    """Returns the length of Orbit's inner loop, which ends at the next step to save at."""
    interval = self._setup.config.trainer_options.save_checkpoints_steps
    return int(interval - step % interval)


def _batch_pictures(setup: Setup, writer: summaries.Writer) -> Optional[BatchPictures]:
  """Returns the pictures of training batches; None if the evaluation makes pictures instead."""
  has_maps = setup.architecture.target_form is not TargetForm.CLASS
  if setup.mode != 'train' or not has_maps or not setup.cluster.is_chief:
    return None
  count = min(setup.config.evaluator_options.num_vis_samples,
              setup.config.train_dataset_options.batch_size)
  prediction = setup.build_prediction(count, setup.architecture.build_postprocessor)
  return BatchPictures(prediction, setup.dataset_info, writer, count,
                       image_normalization.build(setup.config.model_options))


def _check_same_start(setup: Setup) -> None:
  """Checks that all workers have restored the same checkpoint."""
  workers = len(setup.cluster.workers)
  steps = sum_over_workers(setup.strategy, tf.cast(setup.global_step.read_value(), tf.float64))
  if int(steps) != workers * setup.step:
    raise UsageError(f'--model_dir={setup.model_dir} has its last checkpoint at step '
                     f'{setup.step} on this worker, and at another on others: all workers must '
                     'see the same folder')
