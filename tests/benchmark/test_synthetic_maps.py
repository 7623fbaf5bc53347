"""Synthetic maps to measure the speed of scoring."""

import numpy as np

from deeplab_tf.benchmark import synthetic_maps
from deeplab_tf.scoring import panoptic_files


def test_files_can_be_scored_and_predictions_resemble_the_truth(tmp_path):
  files = synthetic_maps.write(tmp_path, 3, (128, 256), segments=20)
  score = panoptic_files.panoptic_score(*files)
  # Segments of random classes: some are of one class of stuff.
  assert all('in several segments' in warning for warning in score.warnings)
  assert 0.2 < score.metric.result()['All']['pq'] < 0.95


def test_maps_have_segments_with_rough_edges():
  first, second = synthetic_maps.draw_pair(np.random.default_rng(0), (256, 512), 60)
  assert first.shape == second.shape == (256, 512) and first.dtype == np.int32
  assert 40 < len(np.unique(first)) <= 61
  runs = np.count_nonzero(first[:, 1:] != first[:, :-1])
  # Blocks of a grid of 8 by 8 would have some 8 edges a row.
  assert runs > 10 * 256
  assert 0.6 < np.mean(first == second) < 0.99
