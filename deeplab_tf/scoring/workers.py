"""Accumulates a metric over many images in several processes.

Images are split into chunks of a fixed size, and the counts of the chunks are merged in the order
of the images, so floating-point sums do not depend on the number of processes.
"""

import concurrent.futures
import copy
import functools
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

from deeplab_tf.metrics import accumulator
from deeplab_tf.user_errors import UsageError, UserError

Progress = Callable[[int], None]
Metric = TypeVar('Metric', bound=accumulator.Accumulator)
Item = TypeVar('Item')
_CHUNK = 4
_MAX_DEFAULT = 8


def default() -> int:
  """Returns the default number of processes: one per available core, at most 8."""
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())
  return max(1, min(_MAX_DEFAULT, cores or 1))


def count(metric: Metric, update: Callable[[Metric, Item], Any], items: Sequence[Item],
          workers: int = 1, progress: Optional[Progress] = None) -> List[Any]:
  """Adds items to a metric.

  Args:
    metric: Empty metric, which holds the counts of all items afterwards. The metric, `update` and
      the items are pickled for other processes.
    update: Function that adds one item to a metric.
    items: Items, for example images.
    workers: Number of processes; 1 uses the current process. On systems that spawn processes
      (macOS, Windows), programs must guard their main module, see the documentation of
      multiprocessing.
    progress: Function that is called with the number of items of each chunk once it is counted.

  Returns:
    Return values of `update`, in the order of the items.

  Raises:
    ValueError: `update` raised it, or workers is below 1.
    RuntimeError: A process died.
  """
  if workers < 1:
    raise ValueError(f'workers is {workers}; it must be 1 or more')
  chunks = [items[start:start + _CHUNK] for start in range(0, len(items), _CHUNK)]
  run = functools.partial(_count_chunk, copy.deepcopy(metric), update)
  workers = min(workers, len(chunks))
  notes: List[Any] = []
  for part, chunk_notes in (map(run, chunks) if workers < 2 else _elsewhere(run, chunks, workers)):
    metric.merge(part)
    notes += chunk_notes
    if progress:
      progress(len(chunk_notes))
  return notes


class _Refused(NamedTuple):
  """An error about invalid input in another process."""
  error: BaseException


def _count_chunk(empty: Any, update: Callable, chunk: Sequence) -> Tuple[Any, List[Any]]:
  metric = copy.deepcopy(empty)
  return metric, [update(metric, item) for item in chunk]


def _elsewhere(run: Callable, chunks: Sequence, workers: int) -> Iterator[Any]:
  """Maps a function over chunks in other processes, in order."""
  # A fork of a process whose other threads hold locks may hang; TensorFlow has such threads.
  spawn = sys.platform != 'linux' or 'tensorflow' in sys.modules
  context = multiprocessing.get_context('spawn' if spawn else 'fork')
  pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin)
  try:
    for result in pool.map(functools.partial(_guarded, run), chunks):
      if isinstance(result, _Refused):
        raise result.error
      yield result
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UsageError('a process died while scoring images, possibly because memory is full; '
                     f'use fewer than {workers} workers') from error
  finally:
    pool.shutdown(cancel_futures=True)


def _guarded(run: Callable, chunk: Sequence) -> Any:
  """Returns errors about invalid input, so that they are raised in the main process."""
  try:
    return run(chunk)
  except (UserError, OSError) as error:
    return _Refused(error)


def _begin() -> None:
  """Makes a worker process ignore interrupts and exit with its parent."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
