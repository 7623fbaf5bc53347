"""Writes all analyses of a model: figures, numbers and an HTML page."""

import glob
import json
import os
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import atomic_file
from deeplab_tf.reports.queries import (
  cluster_section,
  proposal_section,
  query_page,
  query_sections,
)
from deeplab_tf.reports.queries.query_survey import Survey

# Files that an analysis may write.
_FILES = ('analysis.html', 'analysis.json', 'query_classes.png', 'average_masks.png',
          'average_masks.npz', 'attention.npz', 'attention_[0-9]*.png', 'memory_share.png',
          'layer_masks_[0-9]*.png', 'clustering_[0-9]*.png', 'proposal_recall.png',
          'proposals.png', 'features.png', 'features.npz', 'training_curves.png')


class Experiment(NamedTuple):
  """The analyzed model.

  Attributes:
    name: Name of the experiment; may be empty.
    config_file: Path of the config.
    checkpoint: Prefix of the checkpoint.
    model_dir: Folder with TensorBoard event files, or None.
    queries: Queries whose attention is shown; None selects those with the largest masks.
  """
  name: str
  config_file: str
  checkpoint: str
  model_dir: Optional[str] = None
  queries: Optional[Sequence[int]] = None


def write(folder: str, survey: Survey, info: DatasetInfo, experiment: Experiment) -> str:
  """Writes all files and removes those of an earlier analysis.

  Args:
    folder: Output folder, which exists.
    survey: Statistics and example images.
    info: Description of the classes.
    experiment: The analyzed model.

  Returns:
    Path of the page.
  """
  for pattern in _FILES:
    for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
      os.remove(path)
  statistics, pictures = survey.statistics, survey.pictures
  facts = {
      'config': os.path.splitext(os.path.basename(experiment.config_file))[0],
      'checkpoint': os.path.basename(experiment.checkpoint),
      'dataset': info.name,
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
      query_sections.layer_masks(folder, pictures, experiment.queries, info, numbers),
      cluster_section.clustering(folder, pictures, experiment.queries, info, numbers),
      proposal_section.proposals(folder, survey.proposals, info, numbers),
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
