"""Processes many images in threads, with a bounded number of pending results."""

import concurrent.futures
from typing import Any, Callable, Iterator, Sequence

# Number of items per thread that are in progress or wait to be consumed.
_AHEAD = 4


def in_order(num_threads: int, function: Callable, items: Sequence) -> Iterator[Any]:
  """Works like Executor.map, but limits the pending results and cancels the rest on failure.

  Args:
    num_threads: Number of threads.
    function: Function of one item.
    items: Arguments of the function.

  Yields:
    The results, in the order of the items.
  """
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    yield from _results(pool, function, items, _AHEAD * num_threads)


def _results(pool, function, items, ahead):
  futures = [pool.submit(function, item) for item in items[:ahead]]
  try:
    for position in range(len(items)):
      if position + ahead < len(items):
        futures.append(pool.submit(function, items[position + ahead]))
      future, futures[position] = futures[position], None
      yield future.result()
  finally:
    for future in futures:
      if future is not None:
        future.cancel()
