"""The devices of a run, from flags and the environment variable TF_CONFIG."""

import contextlib
import json
import os
import re
from typing import Iterator, NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.user_errors import ConfigError, HostError

CPU_WARNING = (
    'WARNING: TensorFlow sees no GPU and runs on the CPU, which is far slower. If this machine '
    'has one, install the CUDA packages with: pip install ".[gpu]" in the checkout')
_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
                tf.errors.DeadlineExceededError, tf.errors.InternalError,
                tf.errors.FailedPreconditionError)
# Prefix of TensorFlow's messages.
_NODE = re.compile(r'\{\{.*?\}\}')
_EXAMPLE = ('{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", '
            '"index": 0}}')


class LostWorkerError(HostError):
  """Another worker of the cluster has stopped."""
  exit_code = 1


class Cluster(NamedTuple):
  """The workers of a run, and the index of this process.

  Attributes:
    workers: Addresses of the workers, the chief first.
    index: Index of this process among the workers.
  """
  workers: tuple[str, ...] = ('localhost',)
  index: int = 0

  @property
  def is_chief(self) -> bool:
    """Whether this worker writes checkpoints, logs and scores."""
    return self.index == 0


def build(num_gpus: Optional[int] = None, tpu: Optional[str] = None) -> tf.distribute.Strategy:
  """Builds the distribution strategy of a run; call this before any other use of TensorFlow.

  Args:
    num_gpus: Number of GPUs of this machine to use; 0 for the CPU, None for all GPUs.
    tpu: Name or address of a TPU ('local' on a TPU VM); None for no TPU.

  Returns:
    OneDeviceStrategy, MirroredStrategy, TPUStrategy, or MultiWorkerMirroredStrategy if TF_CONFIG
    names several workers; it waits until all workers have started.

  Raises:
    ValueError: There are fewer GPUs than requested, GPUs and a TPU are requested, or TF_CONFIG is
      invalid.
  """
  if tpu is not None:
    if num_gpus:
      raise HostError('--tpu and --num_gpus exclude each other; give one of them')
    return _tpu_strategy(tpu)
  physical = tf.config.list_physical_devices('GPU')
  if num_gpus is not None and not 0 <= num_gpus <= len(physical):
    raise HostError(f'--num_gpus={num_gpus}, and TensorFlow sees {len(physical)}; it can be 0 '
                    f'(the CPU) to {len(physical)}')
  cluster = read_cluster(os.environ.get('TF_CONFIG', ''))
  if num_gpus is not None:
    tf.config.set_visible_devices(physical[:num_gpus], 'GPU')
  if len(cluster.workers) > 1:
    print(f'worker {cluster.index + 1} of {len(cluster.workers)}: waiting for '
          f'{", ".join(cluster.workers)}', flush=True)
    return tf.distribute.MultiWorkerMirroredStrategy()
  gpus = tf.config.list_logical_devices('GPU')
  if len(gpus) > 1:
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
  return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else '/cpu:0')


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    if name not in ('', 'local'):
      tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)
  except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
    reason = str(error).strip().split('\n')[0][:160]
    raise HostError(f"--tpu={name} cannot be used ({reason}); give the name or the address of a "
                    "running TPU, or 'local' on a TPU VM") from None


def read_cluster(text: str) -> Cluster:
  """Reads TF_CONFIG.

  Args:
    text: Value of TF_CONFIG; empty for a single process.

  Raises:
    ValueError: The value is not JSON or does not describe workers; the message has an example.
  """
  if not text:
    return Cluster()
  try:
    fields = json.loads(text)
    hosts, task = fields['cluster'], fields['task']
    if set(hosts) - {'chief', 'worker'}:
      raise HostError(f'it names {", ".join(sorted(hosts))}; only chief and worker are used')
    workers = [*hosts.get('chief', ()), *hosts.get('worker', ())]
    index = int(task['index'])
    if task['type'] not in hosts or not 0 <= index < len(hosts[task['type']]):
      raise HostError(f'its task is {task["type"]} {index}, which is not in its cluster')
    if task['type'] == 'worker':
      index += len(hosts.get('chief', ()))
    return Cluster(tuple(workers), index)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    reason = f'{error} is missing' if isinstance(error, KeyError) else error
    raise HostError(f'TF_CONFIG cannot be used ({reason}); for two workers it is, on the first, '
                    f'{_EXAMPLE}') from None


def cluster_of(strategy: tf.distribute.Strategy) -> Cluster:
  """Returns the workers of a strategy from `build`."""
  if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return read_cluster(os.environ['TF_CONFIG'])
  return Cluster()


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether a strategy runs on TPU, where everything is compiled."""
  return isinstance(strategy, tf.distribute.TPUStrategy)


def local_replicas(strategy: tf.distribute.Strategy) -> int:
  """Returns the number of replicas in this process."""
  return strategy.num_replicas_in_sync // len(cluster_of(strategy).workers)


def tells_lost_worker(error: tf.errors.OpError, strategy: tf.distribute.Strategy) -> bool:
  """Returns whether an error is one that TensorFlow raises when another worker has stopped."""
  return len(cluster_of(strategy).workers) > 1 and (
      isinstance(error, _LOST_WORKER) or 'Collective ops is aborted' in str(error))


@contextlib.contextmanager
def watching_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Turns TensorFlow's errors about a stopped worker into a LostWorkerError."""
  try:
    yield
  except tf.errors.OpError as error:
    if not tells_lost_worker(error, strategy):
      raise
    reason = _NODE.sub('', str(error)).strip().split('\n')[0][:160]
    raise LostWorkerError(
        f'another worker has stopped or lost its connection ({reason}); start all workers again '
        'with the same command, and they resume from the last checkpoint') from error


def check(config, strategy: tf.distribute.Strategy, mode: str = 'train_and_eval') -> None:
  """Checks that a config can be trained and evaluated on the given devices.

  Args:
    config: ExperimentOptions.
    strategy: The devices.
    mode: Value of --mode.

  Raises:
    ValueError: The config does not fit the devices; the message says what to change.
  """
  options, losses = config.trainer_options, config.trainer_options.loss_options
  replicas = strategy.num_replicas_in_sync
  if is_tpu(strategy) and losses.matching_solver == losses.SCIPY:
    raise ConfigError('trainer_options.loss_options.matching_solver SCIPY runs on the host and '
                      'cannot be used on TPU: set it to NATIVE or AUTO')
  _check_sizes(config, strategy, mode)
  trains = mode in ('train', 'train_and_eval')
  if (trains and options.jit_compile and options.solver_options.use_sync_batchnorm and replicas > 1
      and not is_tpu(strategy)):
    raise ConfigError(
        f'trainer_options.jit_compile and solver_options.use_sync_batchnorm cannot be combined on '
        f'{replicas} devices in TensorFlow 2.15: set one of them to false')
  if trains:
    per_replica_batch(strategy, config)
  workers = len(cluster_of(strategy).workers)
  if workers > 1 and mode == 'continuous_eval':
    raise HostError(f'--mode=continuous_eval runs in one process and TF_CONFIG names {workers} '
                    'workers: start it on one machine without TF_CONFIG')
  if workers > 1 and (config.evaluator_options.save_predictions
                      or config.evaluator_options.save_raw_predictions):
    raise ConfigError(f'evaluator_options.save_predictions and save_raw_predictions would miss the '
                      f'images of all but the first of {workers} workers: set them to false, or '
                      'use --mode=eval on one machine without TF_CONFIG')
  batch_size = config.eval_dataset_options.batch_size
  if batch_size % workers:
    raise ConfigError(f'eval_dataset_options.batch_size is {batch_size} and {workers} workers '
                      f'share it; make it a multiple of {workers}')


def _check_sizes(config, strategy, mode):
  """XLA compiles a program for each size of its images."""
  compiler = 'trainer_options.jit_compile' if config.trainer_options.jit_compile else None
  compiler = 'TPU' if is_tpu(strategy) else compiler
  if compiler and mode != 'train' and config.eval_dataset_options.size_divisor:
    raise ConfigError(
        f'eval_dataset_options.size_divisor makes evaluation images of many sizes, and {compiler} '
        'compiles for one size: set eval_dataset_options.crop_size in its place')


def adapt(config, strategy: tf.distribute.Strategy) -> None:
  """Sets options that depend on the devices: on TPU the matching solver AUTO becomes NATIVE."""
  losses = config.trainer_options.loss_options
  if is_tpu(strategy) and losses.matching_solver == losses.AUTO:
    losses.matching_solver = losses.NATIVE


def describe(strategy: tf.distribute.Strategy) -> list[str]:
  """Returns lines that describe the devices of a run, with a warning if there is only a CPU."""
  devices = strategy.extended.worker_devices
  kinds = [tf.DeviceSpec.from_string(device).device_type for device in devices]
  counts = ', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))
  cluster = cluster_of(strategy)
  if len(cluster.workers) > 1:
    counts = (f'{counts} on this worker, {cluster.index + 1} of {len(cluster.workers)}; '
              f'{strategy.num_replicas_in_sync} in all')
  lines = [f'devices: {counts} ({type(strategy).__name__})']
  if set(kinds) == {'CPU'}:
    lines.append(CPU_WARNING)
  return lines


def per_replica_batch(strategy: tf.distribute.Strategy, config) -> int:
  """Returns the number of images that a replica processes at a time.

  Raises:
    ValueError: The batch size is not divisible by replicas times accumulation steps.
  """
  batch_size = config.train_dataset_options.batch_size
  replicas = strategy.num_replicas_in_sync
  parts = config.trainer_options.gradient_accumulation_steps
  if batch_size % (replicas * parts):
    shares = f'{replicas} device{"s" if replicas > 1 else ""}'
    if parts > 1:
      shares += f' with {parts} gradient_accumulation_steps'
    raise ConfigError(f'train_dataset_options.batch_size is {batch_size} and {shares} share it; '
                      f'make it a multiple of {replicas * parts}')
  return batch_size // (replicas * parts)


def describe_batch(config, strategy: tf.distribute.Strategy) -> str:
  """Returns e.g. 'batch: 16 images per step, 2 per device at a time, 4 times'."""
  parts = config.trainer_options.gradient_accumulation_steps
  return (f'batch: {config.train_dataset_options.batch_size} images per step, '
          f'{per_replica_batch(strategy, config)} per device'
          + (f' at a time, {parts} times' if parts > 1 else ''))
