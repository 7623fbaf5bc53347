"""Reports progress, scalars and pictures while a run trains and evaluates."""

import pathlib
from typing import Optional

import numpy as np
from PIL import Image

from deeplab_tf.training.reporting import memory, run_log, summaries
from deeplab_tf.training.reporting import progress as progress_lib
from deeplab_tf.training.reporting.pictures import side_by_side
from deeplab_tf.user_errors import ConfigError
from deeplab_tf.visualization import draw, instances


class TrainingMonitor:
  """Reports the steps of a Trainer: progress line, and interval means as curves and events."""

  def __init__(self, writer: summaries.Writer, log: run_log.RunLog, *, total_steps: int,
               batch_size: int, summary_steps: int, quiet: bool = False):
    """Initializes the monitor.

    Args:
      writer: Writer of the training curves.
      log: Log of the run.
      total_steps: Number of steps of the whole training.
      batch_size: Images per step over all replicas.
      summary_steps: Number of steps between summaries.
      quiet: Whether no progress is printed.
    """
    self._writer = writer
    self._log = log
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._summary_steps = summary_steps
    self._quiet = quiet
    self._averages = summaries.Averages()
    self._skipped_steps = 0
    self._loss = {}
    self._progress = self._new_progress(0)

  def progress(self, step: int) -> progress_lib.Progress:
    """Returns the progress display of the following steps, a context manager.

    Args:
      step: Number of completed steps.
    """
    self._progress = self._new_progress(step)
    return self._progress

  def on_step(self, step: int, output, seconds: float) -> None:
    """Handles a completed step; see Trainer."""
    del seconds  # Speed is measured between steps, so that waiting for data counts.
    broken = output.not_finite
    if not broken:
      self._averages.add(summaries.scalars_of(output))
      self._loss = {'loss': output.losses['total']}
    rate = output.learning_rates.get('main', next(iter(output.learning_rates.values())))
    self._progress.update(step, **self._loss, lr=rate)
    if broken:
      self._skipped_steps += 1
      self._progress.note(f'step {step}: skipped, not finite: {", ".join(broken)}')
      self._log.write('skip', step, not_finite=broken)
    elif not output.applied:  # With float16 the loss scale was too large, and is halved.
      self._log.write('skip', step, not_finite=['scaled gradients'],
                      loss_scale=output.loss_scale)
    if step % self._summary_steps == 0 or step == self._total_steps:
      self._summarize(step)

  def _summarize(self, step: int) -> None:
    scalars = self._averages.take()
    scalars['images_per_second'] = self._progress.images_per_second
    scalars.update({f'memory/{name}': value for name, value in memory.in_use().items()})
    if self._skipped_steps:
      scalars['skipped_steps'] = self._skipped_steps
    self._writer.scalars(scalars, step)
    self._log.write('train', step, **scalars, seconds_left=self._progress.seconds_left)

  def _new_progress(self, step: int) -> progress_lib.Progress:
    return progress_lib.Progress('train', self._total_steps, self._batch_size, first_step=step,
                                 quiet=self._quiet)


class SampleMonitor:
  """Writes pictures of the first images of an Evaluator, and prediction files on request."""

  def __init__(self, writer: summaries.Writer, dataset_info, options, model_dir: str,
               global_step):
    """Initializes the monitor.

    Args:
      writer: Writer of the evaluation curves.
      dataset_info: The classes.
      options: EvaluatorOptions.
      model_dir: The model directory; files are written to `vis` below it.
      global_step: Variable with the number of completed steps.
    """
    self._writer = writer
    self._dataset_info = dataset_info
    self._options = options
    self._global_step = global_step
    self._folder = pathlib.Path(options.override_save_dir or pathlib.Path(model_dir) / 'vis')

  @property
  def num_images(self) -> Optional[int]:
    """The number of first samples whose image is needed; None for all."""
    return None if self._options.save_predictions else self._options.num_vis_samples

  def on_sample(self, position: int, sample) -> None:
    """Handles an evaluated image; see Evaluator."""
    if position < self._options.num_vis_samples:
      self._writer.image(f'pictures/{position:02d}', side_by_side(sample, self._dataset_info),
                         int(self._global_step.numpy()))
    if self._options.save_predictions:
      draw_over = (instances.overlay if isinstance(sample.prediction, instances.Instances)
                   else draw.overlay)
      picture = draw_over(sample.image, sample.prediction, self._dataset_info)
      path = self._path('', sample.name)
      Image.fromarray(picture).save(path.with_name(f'{path.name}_overlay.png'))
    if self._options.save_raw_predictions:
      self._save_raw(sample)

  def _path(self, kind: str, name: str) -> pathlib.Path:
    # The name comes from a record, and the path must stay inside the folder.
    parts = [part for part in pathlib.PurePosixPath(name).parts if part not in ('/', '..')]
    path = self._folder.joinpath(kind, *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def _save_raw(self, sample) -> None:
    """Writes the panoptic map to a file with DeepLab2's channels: class, then instance."""
    info, options = self._dataset_info, self._options
    classes = sample.prediction // info.label_divisor
    instances = sample.prediction % info.label_divisor
    if options.convert_raw_to_eval_ids:
      categories = {c.class_id: c.category_id for c in info.categories}
      table = np.zeros(max(classes.max(), max(categories)) + 1, np.int32)
      table[list(categories)] = list(categories.values())
      classes = table[classes]
    path = self._path('raw_panoptic', sample.name)
    if options.raw_panoptic_format == 'two_channel_numpy_array':
      np.save(path.with_name(path.name + '.npy'), np.stack([classes, instances], -1))
      return
    if options.raw_panoptic_format == 'three_channel_png':
      channels = [classes, instances // 256, instances % 256]
    else:
      channels = [classes, instances, np.zeros_like(classes)]
    picture = np.stack(channels, -1)
    if picture.max() > 255:
      raise ConfigError(f'evaluator_options.raw_panoptic_format {options.raw_panoptic_format} has '
                        f'8 bits and a value is {picture.max()}; use two_channel_numpy_array')
    Image.fromarray(picture.astype(np.uint8)).save(path.with_name(path.name + '.png'))
