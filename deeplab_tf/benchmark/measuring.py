"""Measures and reports time and memory; shared by all benchmarks."""

import os
import platform
import resource
import statistics
import sys
import time
from typing import Any, Callable, Mapping, NamedTuple

# Side of the square matrices whose product measures the speed of the machine.
_SIDE = 1536

Results = dict[str, dict[str, float]]


class MeasureOptions(NamedTuple):
  """Options of a measurement.

  Attributes:
    input_size: Height and width of the images.
    batch_size: Number of images of a batch.
    repeats: Number of calls after the first.
    jit_compile: Whether the network, or the training step, is compiled with XLA.
  """
  input_size: tuple[int, int]
  batch_size: int = 1
  repeats: int = 5
  jit_compile: bool = False


def calls(start: float, step: Callable, repeats: int, images: int) -> dict[str, float]:
  """Measures a step, which is called once and then `repeats` times.

  Args:
    start: Start of the work for the first result, a value of time.perf_counter.
    step: Function that returns after its result is available.
    repeats: Number of calls after the first.
    images: Number of images per call.

  Returns:
    Seconds `first_s` from `start` to the first result and `first_call_s` of the first call;
    `median_s`, `fastest_s` and `processor_s` (median processor time) of the later calls; and
    `images_per_s`.
  """
  before = time.perf_counter()
  step()
  first = time.perf_counter()
  times, processor = [], []
  for _ in range(repeats):
    begin, processor_begin = time.perf_counter(), time.process_time()
    step()
    processor.append(time.process_time() - processor_begin)
    times.append(time.perf_counter() - begin)
  median = statistics.median(times)
  return {'first_s': first - start, 'first_call_s': first - before, 'median_s': median,
          'fastest_s': min(times), 'processor_s': statistics.median(processor),
          'images_per_s': images / median}


def machine(with_tensorflow: bool) -> dict[str, Any]:
  """Describes the machine: cores, load, and its speed, which makes times comparable."""
  found = {'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
           else os.cpu_count(), 'processor': platform.machine(),
           'load_average': os.getloadavg()[0], 'gmadds_per_s': matrix_product_rate()}
  if with_tensorflow:
    import tensorflow as tf
    found.update(gpus=len(tf.config.list_physical_devices('GPU')), tensorflow=tf.__version__)
  return found


def matrix_product_rate() -> float:
  """Returns the billions of multiply-adds per second of NumPy's float32 matrix product.

  This is the best of five products on all cores. Times multiplied by this rate can be compared
  between machines.
  """
  import numpy as np
  matrix = np.full((_SIDE, _SIDE), 0.5, np.float32)
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    matrix @ matrix
    seconds.append(time.perf_counter() - start)
  return _SIDE**3 / min(seconds) / 1e9


def peak_gb() -> float:
  """Returns the largest resident memory of this process so far, in gigabytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024) / 1e9


def table(report: Mapping[str, Any]) -> str:
  """Returns the lines of a report.

  Args:
    report: Dictionary with `what` (the name of the benchmark), `results` by name, `machine`,
      `peak_gb`, and `input_size` and `batch_size` if they apply.
  """
  lines = [report['what'] + (f' at {report["input_size"][0]}x{report["input_size"][1]}, batch '
                             f'{report["batch_size"]}' if 'input_size' in report else '')]
  for name, values in report['results'].items():
    lines.append(f'{name:<16} first {values["first_s"]:8.3f} s   median {values["median_s"]:8.4f} '
                 f's   {values["images_per_s"]:8.2f} images/s')
    if 'processor_s' in values:
      lines.append(f'  {"processor":<14} {values["processor_s"]:14.4f} s')
    if 'peak_gb' in values:
      lines.append(f'  {"peak":<14} {values["peak_gb"]:14.2f} GB')
    lines += [f'  {key:<14} {values[key]:14.3f} s' for key in ('build_s', 'trace_s', 'first_call_s')
              if key in values]
    lines += [f'  {name:<14} {1000 * seconds:14.2f} ms per image'
              for name, seconds in values.get('stages_s', {}).items()]
  found = report['machine']
  tensorflow = (f'{found["gpus"]} GPUs, TensorFlow {found["tensorflow"]}, '
                if 'tensorflow' in found else '')
  # Attention layers are measured in separate processes, so the peak of this one is meaningless.
  peak = '' if report['what'] == 'attention' else f'peak memory {report["peak_gb"]:.2f} GB; '
  lines.append(f'{peak}{found["cores"]} cores, {tensorflow}load average '
               f'{found["load_average"]:.1f}, matrix products '
               f'{found["gmadds_per_s"]:.0f} G multiply-adds/s')
  return '\n'.join(lines)
