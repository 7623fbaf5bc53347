"""Writes scalars, pictures and the description of an experiment for TensorBoard."""

import contextlib
import pathlib
from typing import Mapping, NamedTuple, Optional, Union

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf import models, tasks
from deeplab_tf.architecture import TargetForm
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import HostError

# Folders below the model directory; each is a run with its own curves in TensorBoard.
TRAIN = 'train'
EVAL = 'eval'

# Layout of the page Custom Scalars: title of a section -> title of a chart -> tags, as regular
# expressions that match from the start of a tag. A section shows at most 12 charts, in rows of
# three or four. Figure numbers are those of the MaX-DeepLab paper.
_HARDWARE = {
    'Optimization and hardware': {
        'Learning rates': ['learning_rate/'],
        'Gradient norm before clipping': ['gradient_norm$'],
        'Weight norm': ['weight_norm$'],
        'Images per second': ['images_per_second$'],
        'Memory in GB': ['memory/'],
    },
}
_LOSSES_AND_QUALITY = {
    'Total loss': ['losses/total$'],
    'Weighted loss terms': ['losses/(?!total$)'],
    'PQ: all, things, stuff': ['(All|Things|Stuff)/pq$'],
    'SQ and RQ of all classes': ['All/(sq|rq)$'],
}
LAYOUT = {
    'Overview': {
        **_LOSSES_AND_QUALITY,
        'Matched class confidence (fig. 4b)': ['statistics/matched_class_confidence$'],
        'Matched mask dice (fig. 4c)': ['statistics/matched_mask_dice$'],
        'Instance discrimination accuracy (fig. 4d)':
            ['statistics/instance_discrimination_accuracy$'],
        'Mask-ID accuracy (fig. 4e)': ['statistics/mask_id_accuracy$'],
    },
    **_HARDWARE,
}
# Layout of center models.
CENTER_LAYOUT = {
    'Overview': {
        **_LOSSES_AND_QUALITY,
        'Semantic accuracy of training batches': ['statistics/semantic_accuracy$'],
        'Error of the offsets in pixels': ['statistics/offset_error$'],
    },
    **_HARDWARE,
}
CLASSIFICATION_LAYOUT = {
    'Overview': {
        'Total loss': ['losses/total$'],
        'Top-1 and top-5 accuracy': ['top(1|5)$'],
        'Top-1 accuracy of training batches': ['statistics/top1$'],
    },
    **_HARDWARE,
}
# Scores on the page HParams: name of a column -> (folder below the model directory, tag).
SCORES = {'PQ': (EVAL, 'All/pq'), 'PQ of things': (EVAL, 'Things/pq'),
          'PQ of stuff': (EVAL, 'Stuff/pq'), 'total loss': (TRAIN, 'losses/total')}
CLASSIFICATION_SCORES = {'top-1': (EVAL, 'top1'), 'top-5': (EVAL, 'top5'),
                         'total loss': (TRAIN, 'losses/total')}
LAYOUTS = {TargetForm.MASK: LAYOUT, TargetForm.CENTER: CENTER_LAYOUT,
           TargetForm.CLASS: CLASSIFICATION_LAYOUT}
SEMANTIC_SCORES = {'mIoU': (EVAL, 'miou'), 'pixel accuracy': (EVAL, 'pixel_accuracy'),
                   'total loss': (TRAIN, 'losses/total')}
INSTANCE_SCORES = {'AP': (EVAL, 'AP'), 'AP50': (EVAL, 'AP50'),
                   'boundary AP': (EVAL, 'boundary/AP'), 'total loss': (TRAIN, 'losses/total')}
SCORES_OF_TASKS = {Task.PANOPTIC: SCORES, Task.INSTANCE: INSTANCE_SCORES,
                   Task.SEMANTIC: SEMANTIC_SCORES,
                   Task.CLASSIFICATION: CLASSIFICATION_SCORES}
_DECOUPLED_DECAY = ('adamw', 'radam_lookahead')


def scalars_of(output: NamedTuple) -> dict:
  """Returns TensorBoard tag -> scalar of a trainer.StepOutput."""
  groups = {'losses': output.losses, 'losses_unweighted': output.unweighted_losses,
            'statistics': output.statistics, 'learning_rate': output.learning_rates}
  scalars = {f'{group}/{name}': value for group, values in groups.items()
             for name, value in values.items()}
  scalars['gradient_norm'] = output.gradient_norm
  scalars['weight_norm'] = output.weight_norm
  if output.loss_scale != 1.0:
    scalars['loss_scale'] = output.loss_scale
  return scalars


class Averages:
  """Means of scalars since the last `take`, ignoring values that are not finite."""

  def __init__(self):
    self._sums = {}
    self._counts = {}

  def add(self, scalars: Mapping[str, float]) -> None:
    """Adds the scalars of one step."""
    for name, value in scalars.items():
      if np.isfinite(value):
        self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._counts[name] = self._counts.get(name, 0) + 1

  def take(self) -> dict:
    """Returns name -> mean, and resets all means."""
    means = {name: total / self._counts[name] for name, total in self._sums.items()}
    self._sums, self._counts = {}, {}
    return means


class Writer:
  """Writes one TensorBoard run; the files are created at the first write."""

  def __init__(self, model_dir: Optional[str], run: str):
    """Initializes the writer.

    Args:
      model_dir: The model directory; None to write nothing.
      run: TRAIN or EVAL.
    """
    self._folder = None if model_dir is None else str(pathlib.Path(model_dir) / run)
    self._writer = None

  def scalars(self, scalars: Mapping[str, Optional[float]], step: int) -> None:
    """Writes scalars, except those that are None (not available)."""
    with self._recording(step):
      for name, value in scalars.items():
        if value is not None:
          tf.summary.scalar(name, value)
    self.flush()

  def image(self, tag: str, image: np.ndarray, step: int) -> None:
    """Writes a picture, uint8 [height, width, 3]."""
    with self._recording(step):
      tf.summary.image(tag, image[None])

  def flush(self) -> None:
    """Flushes the files, so that TensorBoard shows everything written so far."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  @contextlib.contextmanager
  def _recording(self, step: int):
    if self._writer is None:
      self._writer = (tf.summary.create_noop_writer() if self._folder is None
                      else _file_writer(self._folder))
    # Orbit switches summaries off around its inner loop.
    with self._writer.as_default(step), tf.summary.record_if(True):
      yield


def _file_writer(folder: str) -> tf.summary.SummaryWriter:
  try:
    return tf.summary.create_file_writer(folder)
  except tf.errors.OpError as error:
    reason = str(error).strip().split('\n')[0]
    raise HostError(f'{folder}: the file for TensorBoard cannot be written ({reason})') from error


def write_experiment(model_dir: str, config, step: int) -> None:
  """Writes the config, the hyperparameters and the layout of the page Custom Scalars.

  Args:
    model_dir: The model directory.
    config: ExperimentOptions.
    step: Number of completed steps.
  """
  # An indentation of four blanks makes a Markdown code block.
  layout = LAYOUTS[models.architecture(config).target_form]
  scores = SCORES_OF_TASKS[tasks.of(config)]
  text = '\n'.join('    ' + line for line in text_format.MessageToString(config).splitlines())
  writer = _file_writer(str(model_dir))
  with writer.as_default(step), tf.summary.record_if(True):
    tf.summary.text('config', text)
    for summary in (_layout(layout), *_row(model_dir, hyperparameters(config), scores)):
      tf.summary.experimental.write_raw_pb(summary.SerializeToString())
  writer.close()


def hyperparameters(config) -> Mapping[str, Union[float, int, str]]:
  """Returns the hyperparameters that experiments are compared by, name -> number or string."""
  model, options = config.model_options, config.trainer_options
  solver, data = options.solver_options, config.train_dataset_options
  decay = solver.weight_decay if solver.apply_weight_decay else 0.0
  if solver.optimizer in _DECOUPLED_DECAY:
    decay += solver.adamw_weight_decay
  values = {
      'model': model.WhichOneof('meta_architecture') or '',
      'backbone': model.backbone.name,
      'dataset': data.dataset,
      'crop_size': 'x'.join(str(side) for side in data.crop_size),
      'batch_size': data.batch_size,
      'steps': solver.training_number_of_steps,
      'optimizer': solver.optimizer,
      'base_learning_rate': solver.base_learning_rate,
      'warmup_steps': solver.warmup_steps,
      'weight_decay': decay,
      'ema_decay': options.ema_decay,
      'precision': options.Precision.Name(options.precision).lower(),
      'gradient_accumulation_steps': options.gradient_accumulation_steps,
      'seed': options.seed,
  }
  # Floats of the config have 32 bits; this shows 0.002 instead of 0.0020000000949949026.
  return {name: float(f'{value:.6g}') if isinstance(value, float) else value
          for name, value in values.items()}


def _row(model_dir: str, values: Mapping[str, Union[float, int, str]],
         metrics: Mapping[str, tuple]) -> tuple:
  """Returns summaries of the columns of the page HParams, and of this experiment's row."""
  # Imported here, since only training needs it.
  from tensorboard.plugins.hparams import api_pb2
  from tensorboard.plugins.hparams import summary as hparams
  columns = [api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_STRING if isinstance(value, str)
                                else api_pb2.DATA_TYPE_FLOAT64)
             for name, value in values.items()]
  scores = [api_pb2.MetricInfo(name=api_pb2.MetricName(group=run, tag=tag), display_name=name)
            for name, (run, tag) in metrics.items()]
  # Rows with equal names would be treated as repetitions of one experiment.
  name = '/'.join(pathlib.Path(model_dir).absolute().parts[-2:])
  return (hparams.experiment_pb(columns, scores),
          hparams.session_start_pb(dict(values), group_name=name))


def _layout(sections: Mapping[str, Mapping[str, list]]):
  """Returns a summary of one of the layouts above."""
  from tensorboard.plugins.custom_scalar import layout_pb2
  from tensorboard.plugins.custom_scalar import summary as custom_scalar
  layout = layout_pb2.Layout()
  for title, charts in sections.items():
    category = layout.category.add(title=title)
    for chart_title, tags in charts.items():
      category.chart.add(title=chart_title).multiline.tag.extend(tags)
  return custom_scalar.pb(layout)
