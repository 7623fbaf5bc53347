"""Reads scalars with their steps and times from TensorBoard's event files."""

import itertools
import pathlib
import re
from typing import Any, Collection, Iterator, NamedTuple

import numpy as np
import tensorflow as tf

_EVENTS = 'events.out.tfevents.*'


class Point(NamedTuple):
  """One value of a curve.

  Attributes:
    value: The value, finite.
    time: Seconds since 1970 at which it was written.
  """
  value: float
  time: float


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the event files of a folder, oldest first."""
  # Names contain the time in seconds, the process and a counter, which are sorted as numbers.
  return sorted(folder.glob(_EVENTS),
                key=lambda path: [int(n) for n in re.findall(r'\d+', path.name)])


def read(folder: pathlib.Path, tags: Collection[str]) -> dict[str, dict[int, Point]]:
  """Returns the curves of a folder: tag -> {step: point}, with ascending steps.

  Steps that were repeated after a restart have their last value; values that are not finite are
  left out, and so are tags without values.
  """
  found = {}
  for event in itertools.chain.from_iterable(map(events, files_in(folder))):
    for value in event.summary.value:
      point = float(tf.make_ndarray(value.tensor)) if value.tag in tags else np.nan
      if np.isfinite(point):
        found.setdefault(value.tag, {})[event.step] = Point(point, event.wall_time)
  return {tag: dict(sorted(points.items())) for tag, points in found.items()}


def events(path: pathlib.Path) -> Iterator[Any]:
  """Yields the events of a file, up to the first that is incomplete."""
  from tensorflow.core.util import event_pb2
  records = iter(tf.data.TFRecordDataset(str(path)))
  while True:
    try:
      record = next(records)
    except (StopIteration, tf.errors.DataLossError):  # The last record may be incomplete.
      return
    yield event_pb2.Event.FromString(record.numpy())
