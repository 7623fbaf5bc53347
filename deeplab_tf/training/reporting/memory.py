"""How much memory the process takes, on the host and on its GPUs."""

import tensorflow as tf

_GB = 2.0**30
# Of Linux: the resident memory now and at its peak, in KiB.
_STATUS_FILE = '/proc/self/status'
_STATUS_FIELDS = {'VmRSS': 'host_gb', 'VmHWM': 'host_peak_gb'}


def in_use() -> dict:
  """Returns 'host_gb', 'host_peak_gb' and 'gpu0_peak_gb', ..., of those that can be known.

  A GB is 2**30 bytes, as on the labels of memory.
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
  # Those of this process; the logical devices include other workers'.
  for index in range(len(tf.config.get_visible_devices('GPU'))):
    try:
      peak = tf.config.experimental.get_memory_info(f'GPU:{index}')['peak']
    except (ValueError, RuntimeError, tf.errors.OpError):  # Some allocators do not count.
      continue
    found[f'gpu{index}_peak_gb'] = peak / _GB
  return found
