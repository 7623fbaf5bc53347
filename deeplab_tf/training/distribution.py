"""The devices of a run, by flags."""

from typing import Optional

import tensorflow as tf

CPU_WARNING = (
    'WARNING: TensorFlow sees no GPU and runs on the CPU, which is far slower. If this machine '
    'has one, install the CUDA packages with: pip install ".[gpu]" in the checkout')


def build(num_gpus: Optional[int] = None, tpu: Optional[str] = None) -> tf.distribute.Strategy:
  """Builds the strategy that a run uses; call before anything else touches TensorFlow.

  Args:
    num_gpus: GPUs to use: 0 is the CPU, several are mirrored; None: all that are visible.
    tpu: Name or address of a TPU ('local' on a TPU VM); None: none.

  Raises:
    ValueError: There are fewer GPUs than asked for, or both kinds are asked for.
  """
  if tpu is not None:
    if num_gpus:
      raise ValueError('--tpu and --num_gpus exclude each other; give one of them')
    return _tpu_strategy(tpu)
  gpus = tf.config.list_logical_devices('GPU')
  wanted = len(gpus) if num_gpus is None else num_gpus
  if wanted < 0 or wanted > len(gpus):
    raise ValueError(f'--num_gpus={wanted}, and TensorFlow sees {len(gpus)}; it can be 0 (the '
                     f'CPU) to {len(gpus)}')
  if wanted == 0:
    return tf.distribute.OneDeviceStrategy('/cpu:0')
  if wanted == 1:
    return tf.distribute.OneDeviceStrategy(gpus[0].name)
  return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus[:wanted]])


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
  resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
  if name not in ('', 'local'):
    tf.config.experimental_connect_to_cluster(resolver)
  tf.tpu.experimental.initialize_tpu_system(resolver)
  return tf.distribute.TPUStrategy(resolver)


def describe(strategy: tf.distribute.Strategy) -> list[str]:
  """Returns the lines that tell which devices a run uses, with a warning on a CPU alone."""
  devices = strategy.extended.worker_devices
  kinds = [tf.DeviceSpec.from_string(device).device_type for device in devices]
  counts = ', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))
  lines = [f'devices: {counts} ({type(strategy).__name__})']
  if set(kinds) == {'CPU'}:
    lines.append(CPU_WARNING)
  return lines


def per_replica_batch(strategy: tf.distribute.Strategy, batch_size: int) -> int:
  """Returns the images per replica and step.

  Raises:
    ValueError: The replicas cannot share the batch evenly.
  """
  replicas = strategy.num_replicas_in_sync
  if batch_size % replicas:
    raise ValueError(f'train_dataset_options.batch_size is {batch_size} and {replicas} devices '
                     f'share it; make it a multiple of {replicas}')
  return batch_size // replicas
