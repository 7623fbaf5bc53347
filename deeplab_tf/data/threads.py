"""Work on many images in threads, with few results waiting."""

import concurrent.futures
from typing import Any, Callable, Iterator, Sequence

_AHEAD = 16


def in_order(pool: concurrent.futures.Executor, function: Callable,
             items: Sequence) -> Iterator[Any]:
  """As pool.map, but with few results waiting, and without the rest once one has failed.

  Args:
    pool: Runs the function.
    function: Of one item.
    items: What it is called with.

  Yields:
    Its results, in the order of the items.
  """
  futures = [pool.submit(function, item) for item in items[:_AHEAD]]
  try:
    for position in range(len(items)):
      if position + _AHEAD < len(items):
        futures.append(pool.submit(function, items[position + _AHEAD]))
      future, futures[position] = futures[position], None
      yield future.result()
  finally:
    for future in futures:
      if future is not None:
        future.cancel()
