"""Writes all analyses of one model: figures, numbers and the page."""

import glob
import json
import os
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import atomic_file
from deeplab_tf.reports.queries import query_page, query_sections
from deeplab_tf.reports.queries.query_survey import Survey

# What an analysis may write; it does not write all of it.
_FILES = ('analysis.html', 'analysis.json', 'query_classes.png', 'average_masks.png',
          'average_masks.npz', 'attention.npz', 'attention_[0-9]*.png', 'memory_share.png',
          'features.png', 'features.npz', 'training_curves.png')


class Experiment(NamedTuple):
  """What was analysed.

  Attributes:
    name: Of the experiment; may be empty.
    config_file: Its textproto.
    checkpoint: Prefix of the weights.
    model_dir: Folder with TensorBoard's event files; None: there are none.
    queries: Queries whose attention is shown; None: those of the largest masks.
  """
  name: str
  config_file: str
  checkpoint: str
  model_dir: Optional[str] = None
  queries: Optional[Sequence[int]] = None


def write(folder: str, survey: Survey, info: DatasetInfo, experiment: Experiment) -> str:
  """Writes everything; what an earlier analysis left in the folder goes.

  Args:
    folder: Exists.
    survey: What was found.
    info: The classes.
    experiment: What was analysed.

  Returns:
    The path of the page.
  """
  for pattern in _FILES:
    for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
      os.remove(path)
  statistics, pictures = survey.statistics, survey.pictures
  facts = {
      'config': os.path.splitext(os.path.basename(experiment.config_file))[0],
      'checkpoint': os.path.basename(experiment.checkpoint),
      'data set': info.name,
      'images': statistics.images,
      'queries': len(statistics.firings),
      'queries that fire': int((statistics.firings > 0).sum()),
      'masks per image': f'{statistics.firings.sum() / statistics.images:.1f}',
  }
  numbers: dict[str, Any] = {'images': statistics.images, 'queries': len(statistics.firings)}
  sections = [
      query_sections.query_classes(folder, statistics, info, numbers),
      query_sections.average_masks(folder, statistics, info, numbers),
      query_sections.attention(folder, pictures, survey.memory_share, experiment.queries, info,
                               numbers),
      query_sections.feature_colors(folder, pictures, info, numbers),
      query_sections.training_curves(folder, experiment.model_dir, numbers),
  ]
  numbers['notices'] = {s.title: list(s.notices) for s in sections if s.notices}
  with atomic_file.writing(os.path.join(folder, 'analysis.json')) as file:
    json.dump(numbers, file, default=_plain)
  page = os.path.join(folder, 'analysis.html')
  name = experiment.name or facts['config']
  query_page.write(page, f'Analysis of {name}', facts, sections)
  return page


def _plain(value: Any) -> Any:
  if isinstance(value, np.generic):
    return value.item()
  raise TypeError(f'{type(value).__name__} in analysis.json')
