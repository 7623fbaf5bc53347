"""Running sums over the queries, against plain numpy over all maps at once."""

import numpy as np
import pytest

from deeplab_tf.reports.queries import query_statistics

NUM_QUERIES, NUM_CLASSES = 6, 4


def _maps(count=5, shape=(24, 36), seed=0):
  """Blocky query maps in which query 5 never occurs, and classes."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(-1, NUM_QUERIES - 1, (count, 4, 6))
  full = coarse.repeat(shape[0] // 4, axis=1).repeat(shape[1] // 6, axis=2)
  return full, rng.integers(0, NUM_CLASSES, (count, NUM_QUERIES))


def _statistics(maps, classes, side):
  statistics = query_statistics.QueryStatistics(NUM_QUERIES, NUM_CLASSES, side)
  for query_map, query_class in zip(maps, classes):
    statistics.update(query_map, query_class)
  return statistics


def test_histogram_counts_images_in_which_a_query_is_a_mask():
  maps, classes = _maps()
  statistics = _statistics(maps, classes, 12)
  expected = np.zeros((NUM_QUERIES, NUM_CLASSES), int)
  for query_map, query_class in zip(maps, classes):
    for query in range(NUM_QUERIES):
      expected[query, query_class[query]] += (query_map == query).any()
  np.testing.assert_array_equal(statistics.histogram, expected)
  np.testing.assert_array_equal(statistics.firings, expected.sum(axis=1))
  assert statistics.firings[NUM_QUERIES - 1] == 0 < statistics.firings[0]
  assert statistics.images == len(maps)


def test_average_masks_are_means_of_area_resized_masks():
  maps, classes = _maps()
  side = 12
  found = _statistics(maps, classes, side).average_masks()
  for query in range(NUM_QUERIES):
    masks = [(m == query).reshape(side, 2, side, 3).mean(axis=(1, 3))
             for m in maps if (m == query).any()]
    expected = np.mean(masks, axis=0) if masks else np.zeros((side, side))
    np.testing.assert_allclose(found[query], expected, atol=1e-6)


@pytest.mark.parametrize('shape', [(24, 36), (7, 5), (130, 97)])
def test_a_query_that_covers_the_image_averages_to_one(shape):
  statistics = query_statistics.QueryStatistics(2, 1, side=16)
  statistics.update(np.zeros(shape, int), np.zeros(2, int))
  np.testing.assert_allclose(statistics.average_masks(), [np.ones((16, 16)), np.zeros((16, 16))],
                             atol=1e-6)


def test_groups_hold_every_query_that_fires_from_most_to_few():
  statistics = query_statistics.QueryStatistics(8, 1)
  statistics.histogram[:, 0] = [5, 0, 100, 1, 7, 7, 40, 0]
  groups = statistics.groups()
  assert [g.name for g in groups] == ['most firings', 'some firings', 'few firings']
  assert [g.queries for g in groups] == [[2, 6], [4, 5], [0, 3]]
  assert query_statistics.QueryStatistics(8, 1).groups() == []


def test_the_largest_things_are_chosen_first():
  query_map = np.full((4, 10), -1)
  for query, width in ((0, 4), (1, 1), (2, 2), (3, 2)):
    query_map[:, [0, 4, 5, 7][query]:[0, 4, 5, 7][query] + width] = query
  isthing = np.array([False, True, True, False, True])
  assert query_statistics.choose_masks(query_map, isthing, 4) == [2, 1, 0, 3]
  assert query_statistics.choose_masks(query_map, isthing, 2) == [2, 1]
  assert query_statistics.choose_masks(query_map, isthing, 4, wanted=[3, 4]) == [3, 4]


def test_agreement_with_the_last_prediction():
  masks = np.zeros((3, 2, 4, 2), bool)
  masks[0, :, :2, 0] = masks[1, 0, :3, 0] = masks[2, 0, 1:3, 0] = True
  # Pixels of the last mask: 2; in common 1 of 5, then 2 of 3; the second query has no mask at all.
  np.testing.assert_allclose(query_statistics.iou_with_the_last(masks),
                             [[1 / 5, 1], [2 / 3, 1], [1, 1]])
