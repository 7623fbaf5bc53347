"""How much denser attention becomes by the assignment of pixels to clusters."""

import numpy as np

from deeplab_tf.reports.queries import cluster_section
from deeplab_tf.reports.queries.analyzed_network import AnalyzedImage

_SIZE = (9, 13)


def _found(assignment, query_map):
  rng = np.random.default_rng(0)
  attention = rng.uniform(size=(2, 4, *_SIZE)) ** 8
  attention /= attention.sum((2, 3), keepdims=True)
  return AnalyzedImage(
      image=np.zeros((*_SIZE, 3), np.uint8), panoptic_map=query_map, query_map=query_map,
      query_class=np.zeros(4, int), padded_size=_SIZE,
      raw={'attention': attention, 'assignment': assignment})


def test_an_even_assignment_changes_no_share_and_the_right_one_fills_the_masks():
  query_map = np.zeros(_SIZE, int)
  query_map[:, 6:], query_map[5:, 6:] = 1, 2
  even = cluster_section._densities(_found(np.full((*_SIZE, 4), 0.25), query_map), [0, 1, 2])
  np.testing.assert_allclose(even['dense_after'], even['dense_before'])
  assert max(even['dense_before']) < 0.6
  right = cluster_section._densities(_found(np.eye(4)[query_map], query_map), [0, 1, 2])
  np.testing.assert_allclose(right['dense_after'], 1)
  assert right['dense_before'] == even['dense_before']


def test_without_assignment_there_are_no_shares():
  found = _found(None, np.zeros(_SIZE, int))
  del found.raw['assignment']
  assert cluster_section._densities(found, [0]) == {}
