"""Memory use of the process, on the host and on its GPUs."""

import tensorflow as tf

_GB = 2.0**30
# On Linux, this file states the current and the peak resident memory in KiB.
_STATUS_FILE = '/proc/self/status'
_STATUS_FIELDS = {'VmRSS': 'host_gb', 'VmHWM': 'host_peak_gb'}


def in_use() -> dict:
  """Returns 'host_gb', 'host_peak_gb' and 'gpu0_peak_gb', ..., as far as they are available.

  A GB is 2**30 bytes, as is usual for memory.
  """
  return {**_host(), **_gpus()}


def _host() -> dict:
  try:
    with open(_STATUS_FILE, encoding='utf-8') as file:
      fields = dict(line.split(':', 1) for line in file if ':' in line)
    return {name: int(fields[field].split()[0]) * 1024 / _GB
            for field, name in _STATUS_FIELDS.items()}
  except (OSError, KeyError, ValueError):  # Other systems.
    return {}


def _gpus() -> dict:
  found = {}
  # Only the GPUs of this process; the logical devices include those of other workers.
  for index in range(len(tf.config.get_visible_devices('GPU'))):
    try:
      peak = tf.config.experimental.get_memory_info(f'GPU:{index}')['peak']
    except (ValueError, RuntimeError, tf.errors.OpError):  # Some allocators have no statistics.
      continue
    found[f'gpu{index}_peak_gb'] = peak / _GB
  return found
