"""Counts a score over many images in several processes; the result is the same for any number.

Images go to the processes in chunks of a fixed size, and the chunks' counts are added up in the
order of the images. So sums of floating point numbers do not depend on the number of processes.
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
  """Returns a sensible number of processes: one per core that may be used, at most 8."""
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())
  return max(1, min(_MAX_DEFAULT, cores or 1))


def count(metric: Metric, update: Callable[[Metric, Item], Any], items: Sequence[Item],
          workers: int = 1, progress: Optional[Progress] = None) -> List[Any]:
  """Takes items into a metric.

  Args:
    metric: Has counted nothing yet; holds the counts of all items afterwards. It, `update`
      and the items are pickled for other processes.
    update: Takes one item into a metric.
    items: For instance images.
    workers: Processes; 1: this one. Programs that start others on a system that spawns them
      (macOS, Windows) must guard their main module as multiprocessing says.
    progress: Called with the number of items of each chunk once it is counted.

  Returns:
    What `update` returned, in the order of the items.

  Raises:
    ValueError: As `update`, or workers is below 1.
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
  """Bad input that a process has met."""
  error: BaseException


def _count_chunk(empty: Any, update: Callable, chunk: Sequence) -> Tuple[Any, List[Any]]:
  metric = copy.deepcopy(empty)
  return metric, [update(metric, item) for item in chunk]


def _elsewhere(run: Callable, chunks: Sequence, workers: int) -> Iterator[Any]:
  """Maps a function over chunks in other processes, in order."""
  # A copy of a process whose other threads hold locks may hang; TensorFlow has such threads.
  spawn = sys.platform != 'linux' or 'tensorflow' in sys.modules
  context = multiprocessing.get_context('spawn' if spawn else 'fork')
  pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin)
  try:
    for result in pool.map(functools.partial(_guarded, run), chunks):
      if isinstance(result, _Refused):
        raise result.error
      yield result
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UsageError('a process died while it scored images, perhaps for want of memory; '
                     f'use fewer than {workers} workers') from error
  finally:
    pool.shutdown(cancel_futures=True)


def _guarded(run: Callable, chunk: Sequence) -> Any:
  """Returns errors about bad input, so that they are raised where the program sees their origin."""
  try:
    return run(chunk)
  except (UserError, OSError) as error:
    return _Refused(error)


def _begin() -> None:
  """Makes a process leave interrupts to its parent and end with it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
