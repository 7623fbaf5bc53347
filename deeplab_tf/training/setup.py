"""Setup of a run: devices, data, model directory and network, created once and then fixed."""

import dataclasses
import pathlib
from typing import Any, Optional

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.architecture import Architecture
from deeplab_tf.checkpoints import restore
from deeplab_tf.classes import AnyInfo
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.training import distribution, state
from deeplab_tf.training.kept_scores import warn
from deeplab_tf.training.model_folder import ModelFolder
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction
from deeplab_tf.training.reporting import first_lines, run_log
from deeplab_tf.training.signals import StopRequest

LOG_FILE = 'log.jsonl'


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything that is fixed during a run; the training and evaluation loops use it.

  Attributes:
    config: ExperimentOptions, adapted to the devices.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    model_dir: Folder of checkpoints, logs and scores.
    strategy: The devices.
    cluster: The workers, one of which is the chief.
    stop_request: Tells between steps whether to save and stop.
    folder: The model directory with its lock.
    writes: Whether this process writes to the model directory. Only the chief does, and in an
      evaluation only if the folder is writable.
    dataset_info: The classes.
    architecture: The architecture of the config.
    num_eval_images: Number of evaluation images; None if unknown or without evaluation.
    model: The network.
    global_step: int64 [], number of completed steps.
    log: Event log of the run.
  """
  config: Any
  mode: str
  model_dir: str
  strategy: tf.distribute.Strategy
  cluster: distribution.Cluster
  stop_request: StopRequest
  folder: ModelFolder
  writes: bool
  dataset_info: AnyInfo
  architecture: Architecture
  num_eval_images: Optional[int]
  model: keras.Model
  global_step: tf.Variable
  log: run_log.RunLog

  @property
  def trains(self) -> bool:
    """Whether the mode trains."""
    return _trains(self.mode)

  @property
  def step(self) -> int:
    """The number of completed steps."""
    return int(self.global_step.numpy())

  @property
  def total_steps(self) -> int:
    """The number of steps of the whole training."""
    return self.config.trainer_options.solver_options.training_number_of_steps

  def print(self, *lines: str) -> None:
    """Prints lines on the chief."""
    _print(self.cluster, *lines)

  def written(self, path) -> Optional[str]:
    """Returns a path if this process writes to the model directory, else None."""
    return str(path) if self.writes else None

  def build_prediction(self, batch_size: int, build_postprocessor) -> ReplicatedPrediction:
    """Returns a function that predicts batches on all devices.

    Args:
      batch_size: Number of images of a batch on this worker.
      build_postprocessor: Function of (config, dataset_info, static_shapes) that returns the
        post-processing.
    """
    options = self.config.trainer_options
    compiled = options.jit_compile or distribution.is_tpu(self.strategy)
    return ReplicatedPrediction(
        self.strategy, models.inference_network(self.config, self.model),
        build_postprocessor(self.config, self.dataset_info, compiled), batch_size,
        static=compiled, jit_compile=compiled,
        use_tf_function=self.config.evaluator_options.use_tf_function,
        any_size=not self.config.eval_dataset_options.crop_size)

  def restore_for_evaluation(self, prefix: str) -> None:
    """Restores the weights and the step of a checkpoint.

    Raises:
      CheckpointError: The checkpoint belongs to another model, or cannot be read.
    """
    restore.check_same_model(self.model, prefix, self.folder.same_model_advice())
    with self.strategy.scope():
      restore.load_checkpoint(self.model, prefix)
      self.global_step.assign(restore.read_step(prefix))
    self.print(f'checkpoint: {prefix}, step {self.step}')


def prepare(config, model_dir: str, mode: str, strategy: tf.distribute.Strategy,
            stop_request: Optional[StopRequest] = None) -> Setup:
  """Builds the network and prints the first lines, without writing files.

  Args:
    config: ExperimentOptions; not changed.
    model_dir: Folder of checkpoints, logs and scores.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    strategy: The devices.
    stop_request: Tells between steps whether to save and stop; None to never stop.

  Raises:
    UserError: The config, the data or the model directory is invalid.
  """
  tf.get_logger().setLevel('ERROR')  # Hides AutoGraph's warnings from the user.
  config = type(config).FromString(config.SerializeToString())
  folder = ModelFolder(model_dir, must_exist=mode == 'eval')
  try:
    return _prepare(config, folder, mode, strategy, stop_request or StopRequest())
  except BaseException:
    folder.release()
    raise


def _prepare(config, folder, mode, strategy, stop_request):
  cluster = distribution.cluster_of(strategy)
  _print(cluster, *distribution.describe(strategy))
  dataset_info, architecture = catalog.from_config(config), models.architecture(config)
  distribution.check(config, strategy, mode)
  distribution.adapt(config, strategy)
  counts = _count_images(config, mode)
  _print(cluster, first_lines.describe_data(dataset_info, counts))
  writes = _reserve(folder, config, mode, cluster)
  model, global_step = state.build_model(config, dataset_info, architecture, strategy)
  _print(cluster, first_lines.describe_model(config, model))
  log = run_log.RunLog(pathlib.Path(folder.path) / LOG_FILE if writes else None)
  return Setup(config=config, mode=mode, model_dir=folder.path, strategy=strategy, cluster=cluster,
               stop_request=stop_request, folder=folder, writes=writes, dataset_info=dataset_info,
               architecture=architecture, num_eval_images=counts.get('evaluation'), model=model,
               global_step=global_step, log=log)


def _trains(mode):
  return mode in ('train', 'train_and_eval')


def _print(cluster, *lines):
  if lines and cluster.is_chief:
    print(*lines, sep='\n', flush=True)


def _count_images(config, mode):
  counts = {}
  if _trains(mode):
    counts['train'] = pipeline.count_examples(config.train_dataset_options)
  if mode != 'train':
    counts['evaluation'] = pipeline.count_examples(config.eval_dataset_options)
  return counts


def _reserve(folder, config, mode, cluster):
  """Returns whether this process writes to the model directory; a training has to."""
  if not cluster.is_chief:
    return False
  if _trains(mode):
    _print(cluster, *folder.reserve())
    return True
  reason = folder.check_for_evaluation(config.evaluator_options)
  if reason:
    warn(f'--model_dir={folder.path} cannot be written to ({reason}): scores are printed '
         'and not kept')
  return reason is None
