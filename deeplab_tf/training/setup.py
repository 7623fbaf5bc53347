"""What a run begins with: devices, data, model directory and network, made once and then fixed."""

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
  """One call of the training program; the loops take it. Of several workers one is the chief.

  Attributes:
    config: ExperimentOptions, adapted to the devices.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    model_dir: Where checkpoints, logs and scores go.
    strategy: The devices.
    cluster: The workers.
    stop_request: Asked between steps whether to save and stop.
    folder: The right to write to the model directory.
    writes: Whether this process writes to it: the chief alone, and in an evaluation only where it
      can be written to.
    dataset_info: The classes.
    architecture: The architecture of the config.
    num_eval_images: Images of the evaluation data; None: unknown, or there is no evaluation.
    model: The network.
    global_step: int64 [], the steps that are done.
    log: The run's log of events.
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
    """The steps that are done."""
    return int(self.global_step.numpy())

  @property
  def total_steps(self) -> int:
    """The steps of a whole training."""
    return self.config.trainer_options.solver_options.training_number_of_steps

  def print(self, *lines: str) -> None:
    """Prints lines; on the chief alone."""
    _print(self.cluster, *lines)

  def written(self, path) -> Optional[str]:
    """Returns a path for the process that writes, and None for others."""
    return str(path) if self.writes else None

  def build_prediction(self, batch_size: int, build_postprocessor) -> ReplicatedPrediction:
    """Returns what predicts batches on all devices.

    Args:
      batch_size: Images of a batch on this worker.
      build_postprocessor: (config, dataset_info, static_shapes) -> the post-processing.
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
    """Reads the weights of a checkpoint, and its step.

    Raises:
      CheckpointError: It is of another model, or cannot be read.
    """
    restore.check_same_model(self.model, prefix, self.folder.same_model_advice())
    with self.strategy.scope():
      restore.load_checkpoint(self.model, prefix)
      self.global_step.assign(restore.read_step(prefix))
    self.print(f'checkpoint: {prefix}, step {self.step}')


def prepare(config, model_dir: str, mode: str, strategy: tf.distribute.Strategy,
            stop_request: Optional[StopRequest] = None) -> Setup:
  """Builds the network and prints the first lines; nothing is written.

  Args:
    config: ExperimentOptions; not changed.
    model_dir: Where checkpoints, logs and scores go.
    mode: As Setup's.
    strategy: The devices.
    stop_request: As Setup's; None: nobody asks.

  Raises:
    UserError: Something is wrong with the config, the data or the model directory.
  """
  tf.get_logger().setLevel('ERROR')  # AutoGraph's advice is not for the user.
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
  return Setup(config, mode, folder.path, strategy, cluster, stop_request, folder, writes,
               dataset_info, architecture, counts.get('evaluation'), model, global_step, log)


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
  """Whether this process writes to the model directory; a training must be able to."""
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
