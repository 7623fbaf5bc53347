"""A run from its first line to its last: build, restore, train, evaluate."""

import math
import os
import pathlib
from typing import Optional

import orbit
import tensorflow as tf
from absl import logging
from google.protobuf import text_format
from orbit import controller as orbit_controller

from deeplab_tf import models
from deeplab_tf.checkpoints import restore
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.metrics import coco_panoptic_io, panoptic_quality
from deeplab_tf.training import batches, checkpointing, distribution, monitor, optimizers, summaries
from deeplab_tf.training.batch_pictures import BatchPictures
from deeplab_tf.training.evaluator import Evaluator
from deeplab_tf.training.trainer import StepOptions, Trainer

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')
CONFIG_FILE = 'config.textproto'
METRICS_FILE = 'metrics.json'
_OTHER_MODEL = 'use the config that made it, or another --model_dir'

# Orbit prints every output as a Python dictionary; the progress line shows the same shorter.
orbit_controller._log = logging.debug


class Run:
  """One call of the training program.

  Attributes:
    model: The network.
    global_step: int64 [], the steps that are done.
    trainer: Its Trainer; None before `train` or in a mode without.
    evaluator: Its Evaluator; None in mode 'train'.
  """

  def __init__(self, config, model_dir: str, mode: str, strategy: tf.distribute.Strategy):
    """Builds model and data, restores the latest checkpoint and prints the first lines.

    Args:
      config: ExperimentOptions.
      model_dir: Where checkpoints, logs and scores go.
      mode: One of MODES.
      strategy: The devices.

    Raises:
      ValueError, FileNotFoundError: Something is wrong with the config, the data or the model
        directory; the message is one line for the user.
    """
    tf.get_logger().setLevel('ERROR')  # AutoGraph's advice is not for the user.
    self._config = config
    self._model_dir = model_dir
    self._mode = mode
    self._strategy = strategy
    self._options = config.trainer_options
    self._total_steps = self._options.solver_options.training_number_of_steps
    self.trainer = None
    self.evaluator = None
    self._print(*distribution.describe(strategy))
    self._dataset_info = catalog.from_config(config)
    self._architecture = models.architecture(config)
    self._num_eval_images = None
    self._describe_data()
    self._open_model_dir()
    tf.keras.utils.set_random_seed(self._options.seed)
    with strategy.scope():
      self.model = self._architecture.build(config, self._dataset_info)
      self.global_step = orbit.utils.create_global_step()
    self._describe_model()
    self._controller = self._build_controller()
    self._print(f'TensorBoard: tensorboard --logdir={model_dir}')

  @property
  def _trains(self) -> bool:
    return self._mode in ('train', 'train_and_eval')

  # === What the modes do ===

  def run(self) -> Optional[dict]:
    """Does what the mode says.

    Returns:
      The last evaluation's result (see PanopticQuality.result), or None without one.
    """
    if self._mode == 'train':
      self._train_until(self._total_steps)
    elif self._mode == 'train_and_eval':
      self._train_and_evaluate()
    elif self._mode == 'eval':
      self._evaluate()
    else:
      self._evaluate_continuously()
    return self.evaluator.result if self.evaluator else None

  def _train_and_evaluate(self):
    interval = max(1, self._config.evaluator_options.eval_interval)
    step = int(self.global_step.numpy())
    while step < self._total_steps:
      step = min(self._total_steps, (step // interval + 1) * interval)
      self._train_until(step)
      self._evaluate()
    if self.evaluator.result is None:  # Started again after the last step.
      self._evaluate()

  def _train_until(self, step: int):
    start = int(self.global_step.numpy())
    if start >= step:
      self._print(f'nothing to train: the checkpoint is at step {start} of {self._total_steps}')
      return
    with self._training_monitor.progress(start):
      self._controller.train(step)

  def _evaluate(self):
    scalars = self._controller.evaluate(self._config.evaluator_options.eval_steps)
    step = int(self.global_step.numpy())
    self._eval_writer.scalars(scalars, step)
    result = self.evaluator.result
    path = pathlib.Path(self._model_dir) / METRICS_FILE
    coco_panoptic_io.write_json(path, {'step': step, **result})
    self._print(f'panoptic quality at step {step}, also in {path}:',
                panoptic_quality.format_result(result))

  def _evaluate_continuously(self):
    timeout = self._config.evaluator_options.continuous_eval_timeout
    for prefix in tf.train.checkpoints_iterator(self._model_dir,
                                                timeout=timeout if timeout >= 0 else None):
      self._restore_for_evaluation(prefix)
      self._evaluate()
      if int(self.global_step.numpy()) >= self._total_steps:
        return
    self._print(f'no new checkpoint in {self._model_dir} for {timeout} s: evaluation ends')

  # === Set-up ===

  def _build_controller(self) -> orbit.Controller:
    latest = checkpointing.latest(self._model_dir)
    if latest is not None:
      restore.check_same_model(self.model, latest, _OTHER_MODEL)
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
    config, solver = self._config, self._options.solver_options
    batch_size = config.train_dataset_options.batch_size
    per_replica = distribution.per_replica_batch(self._strategy, batch_size)
    self._print(f'batch: {batch_size} images per step, {per_replica} per device; '
                f'{self._total_steps} steps')
    lines = ['checkpoint: none yet, training starts from random weights']
    if latest is None and config.model_options.initial_checkpoint:
      lines = checkpointing.restore_initial(self.model, config.model_options.initial_checkpoint)
    with self._strategy.scope():
      optimizer = optimizers.build(solver, self.model.trainable_variables,
                                   self._architecture.backbone_variables(self.model))
      optimizer.build()
    checkpoint = checkpointing.make_checkpoint(self.model, self.global_step,
                                               optimizer.checkpoint_items)
    manager = checkpointing.make_manager(checkpoint, self._model_dir,
                                         self._options.num_checkpoints_to_keep)
    if latest is not None:
      checkpointing.restore_training(checkpoint, latest, self._strategy)
      lines = [f'checkpoint: going on from {latest}, step {int(self.global_step.numpy())}']
    self._print(*lines)
    writer = summaries.Writer(self._model_dir, summaries.TRAIN)
    writer.config(config, int(self.global_step.numpy()))
    self._training_monitor = monitor.TrainingMonitor(
        writer, total_steps=self._total_steps, batch_size=batch_size,
        summary_steps=self._options.save_summaries_steps)
    self._pictures = None
    if self._mode == 'train' and self._architecture.TARGETS == 'mask':
      self._pictures = BatchPictures(
          self.model, self._architecture.build_postprocessor(config, self._dataset_info),
          self._dataset_info, writer, config.evaluator_options.num_vis_samples)
    self.trainer = Trainer(
        strategy=self._strategy, model=self.model,
        criterion=self._architecture.build_criterion(config, self._dataset_info),
        optimizer=optimizer, global_step=self.global_step,
        batches=lambda step: batches.training(config, self._dataset_info,
                                              self._architecture.TARGETS, self._strategy, step),
        options=StepOptions(
            batch_size, self._options.seed, self._options.jit_compile,
            solver.weight_decay if solver.apply_weight_decay else 0.0),
        on_step=self._on_step)
    return manager

  def _on_step(self, step: int, output, seconds: float):
    self._training_monitor.on_step(step, output, seconds)
    # With evaluation there are pictures of evaluated images instead.
    if self._pictures is not None and (step % self._options.save_checkpoints_steps == 0
                                       or step == self._total_steps):
      images, targets = tf.nest.map_structure(
          lambda x: self._strategy.experimental_local_results(x)[0], self.trainer.last_batch)
      self._pictures.draw(images, targets, step)

  def _build_evaluator(self):
    config = self._config
    self._eval_writer = summaries.Writer(self._model_dir, summaries.EVAL)
    samples = monitor.SampleMonitor(self._eval_writer, self._dataset_info,
                                    config.evaluator_options, self._model_dir, self.global_step)
    num_batches = None
    if self._num_eval_images is not None:
      num_batches = math.ceil(self._num_eval_images / config.eval_dataset_options.batch_size)
    self.evaluator = Evaluator(
        model=self.model,
        postprocess=self._architecture.build_postprocessor(config, self._dataset_info),
        dataset_info=self._dataset_info,
        batches=lambda: batches.evaluation(config, self._dataset_info),
        use_tf_function=config.evaluator_options.use_tf_function, num_batches=num_batches,
        batch_size=config.eval_dataset_options.batch_size, on_sample=samples.on_sample,
        num_images=samples.num_images)

  def _restore_for_evaluation(self, prefix: str):
    restore.check_same_model(self.model, prefix, _OTHER_MODEL)
    with self._strategy.scope():
      checkpointing.make_checkpoint(self.model, self.global_step).restore(prefix).expect_partial()
    self._print(f'checkpoint: {prefix}, step {int(self.global_step.numpy())}')

  def _steps_to_checkpoint(self, step: int) -> int:
    """Orbit's inner loop ends at each multiple of save_checkpoints_steps and saves there."""
    interval = self._options.save_checkpoints_steps
    return int(interval - step % interval)

  def _open_model_dir(self):
    if os.path.exists(self._model_dir) and not os.path.isdir(self._model_dir):
      raise ValueError(f'--model_dir={self._model_dir} is a file; give a folder')
    if self._mode == 'eval' and not os.path.isdir(self._model_dir):
      raise ValueError(f'--model_dir={self._model_dir} does not exist; give the folder of a '
                       'training')
    os.makedirs(self._model_dir, exist_ok=True)
    if self._trains:
      path = pathlib.Path(self._model_dir) / CONFIG_FILE
      path.write_text(text_format.MessageToString(self._config), encoding='utf-8')

  # === First lines ===

  def _describe_data(self):
    sizes = []
    if self._trains:
      sizes.append(f'train {_images(self._config.train_dataset_options)}')
    if self._mode != 'train':
      self._num_eval_images = pipeline.count_examples(self._config.eval_dataset_options)
      sizes.append(f'evaluation {_images(self._config.eval_dataset_options)}')
    info = self._dataset_info
    self._print(f'data: {info.name}, {len(info.thing_class_ids)} thing and '
                f'{len(info.stuff_class_ids)} stuff classes; {", ".join(sizes)}')

  def _describe_model(self):
    parameters = sum(math.prod(v.shape) for v in self.model.trainable_variables)
    name = self._config.model_options.WhichOneof('meta_architecture')
    self._print(f'model: {name} on {self._config.model_options.backbone.name}, '
                f'{parameters:,} trainable parameters')

  def _print(self, *lines: str):
    print(*lines, sep='\n', flush=True)


def _images(options) -> str:
  count = pipeline.count_examples(options)
  return 'images: number unknown' if count is None else f'{count} images'
