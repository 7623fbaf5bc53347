"""Reads the curves of figure 4 of the MaX-DeepLab paper from TensorBoard event files."""

import pathlib
from typing import NamedTuple

from deeplab_tf.reports import event_files
from deeplab_tf.training.reporting import summaries


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


def has_events(model_dir: str) -> bool:
  """Returns whether a model directory has event files of training or evaluation."""
  return any(event_files.files_in(pathlib.Path(model_dir) / run)
             for run in (summaries.TRAIN, summaries.EVAL))


def read(model_dir: str) -> dict[str, dict[int, float]]:
  """Returns the available curves of PANELS: tag -> {step: value}, with ascending steps."""
  found = {}
  for run in (summaries.TRAIN, summaries.EVAL):
    tags = {tag for panel in PANELS if panel.run == run for tag in panel.tags.values()}
    for tag, points in event_files.read(pathlib.Path(model_dir) / run, tags).items():
      found[tag] = {step: point.value for step, point in points.items()}
  return found
