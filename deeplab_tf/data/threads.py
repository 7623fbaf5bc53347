"""Work on many images in threads, with few results waiting."""

import concurrent.futures
from typing import Any, Callable, Iterator, Sequence

# Items of each thread that are under way or wait to be taken.
_AHEAD = 4


def in_order(num_threads: int, function: Callable, items: Sequence) -> Iterator[Any]:
  """As Executor.map, but with few results waiting, and without the rest once one has failed.

  Args:
    num_threads: That call the function.
    function: Of one item.
    items: What it is called with.

  Yields:
    Its results, in the order of the items.
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
