"""Reads the curves of figure 4 of the MaX-DeepLab paper from TensorBoard event files."""

import pathlib
import re
from typing import Any, Iterator, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf.training.reporting import summaries

_EVENTS = 'events.out.tfevents.*'


class Panel(NamedTuple):
  """One panel of the figure.

  Attributes:
    title: Title of the panel.
    run: Subfolder of the model directory.
    tags: Legend -> tag.
  """
  title: str
  run: str
  tags: dict[str, str]


# Figure 4 (a) to (e).
PANELS = (
    Panel('validation PQ', summaries.EVAL,
          {'all': 'All/pq', 'things': 'Things/pq', 'stuff': 'Stuff/pq'}),
    Panel('matched class confidence', summaries.TRAIN,
          {'': 'statistics/matched_class_confidence'}),
    Panel('matched mask dice', summaries.TRAIN, {'': 'statistics/matched_mask_dice'}),
    Panel('instance discrimination accuracy', summaries.TRAIN,
          {'': 'statistics/instance_discrimination_accuracy'}),
    Panel('mask-ID accuracy', summaries.TRAIN, {'': 'statistics/mask_id_accuracy'}),
)


def event_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the event files of a folder, oldest first."""
  # Names contain the time in seconds, the process and a counter, which are sorted as numbers.
  return sorted(folder.glob(_EVENTS),
                key=lambda path: [int(n) for n in re.findall(r'\d+', path.name)])


def has_events(model_dir: str) -> bool:
  """Returns whether a model directory has event files of training or evaluation."""
  return any(event_files(pathlib.Path(model_dir) / run)
             for run in (summaries.TRAIN, summaries.EVAL))


def read(model_dir: str) -> dict[str, dict[int, float]]:
  """Returns the available curves of PANELS: tag -> {step: value}, with ascending steps."""
  found = {}
  for run in (summaries.TRAIN, summaries.EVAL):
    tags = {tag for panel in PANELS if panel.run == run for tag in panel.tags.values()}
    for path in event_files(pathlib.Path(model_dir) / run):
      _read_file(path, tags, found)
  return {tag: dict(sorted(points.items())) for tag, points in found.items()}


def _read_file(path: pathlib.Path, tags: set[str], found: dict[str, dict[int, float]]) -> None:
  """Adds the points of a file; steps that were repeated after a restart are overwritten."""
  for event in _events(path):
    for value in event.summary.value:
      point = float(tf.make_ndarray(value.tensor)) if value.tag in tags else np.nan
      if np.isfinite(point):
        found.setdefault(value.tag, {})[event.step] = point


def _events(path: pathlib.Path) -> Iterator[Any]:
  """Yields the events of a file."""
  from tensorflow.core.util import event_pb2
  records = iter(tf.data.TFRecordDataset(str(path)))
  while True:
    try:
      record = next(records)
    except (StopIteration, tf.errors.DataLossError):  # The last record may be incomplete.
      return
    yield event_pb2.Event.FromString(record.numpy())
