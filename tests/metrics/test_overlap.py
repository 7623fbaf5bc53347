"""Overlaps and boundaries of the segments of two maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deeplab_tf.metrics import overlap


def _blobs(seed, height, width):
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 4, (-(-height // 4), -(-width // 4)), dtype=np.int32)
  ids = small.repeat(4, axis=0).repeat(4, axis=1)[:height, :width] * 5_000_000
  ids[rng.random(ids.shape) < 0.02] = 7
  return ids


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_boundaries_are_what_erosions_of_each_segment_remove(seed, height, width, distance):
  ids = _blobs(seed, height, width)
  expected = np.zeros(ids.shape, bool)
  for value in np.unique(ids):
    mask = ids == value
    expected |= mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), distance)
  np.testing.assert_array_equal(overlap.boundaries(ids, distance), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25))
def test_overlaps_equal_a_count_pixel_by_pixel(seed, height, width):
  first, second = _blobs(seed, height, width), _blobs(seed + 1, height, width)
  counted = overlap.overlaps(first, second, distance=2)
  assert overlap.overlaps(first, second) == (counted.pixels, {}, {}, {})
  on_first, on_second = overlap.boundaries(first, 2), overlap.boundaries(second, 2)
  everywhere = np.ones(first.shape, bool)
  for pairs, where in zip(counted, (everywhere, on_first, on_second, on_first & on_second)):
    assert sum(pairs.values()) == np.count_nonzero(where)
    for (one, other), pixels in pairs.items():
      assert pixels == np.count_nonzero((first == one) & (second == other) & where)


def test_values_of_one_new_name_are_added():
  counted = overlap.overlaps(np.array([[1, 2, 3]]), np.array([[4, 4, 5]]))
  renamed = counted.renamed(lambda value: 0 if value < 3 else value, lambda value: value)
  assert renamed.pixels == {(0, 4): 2, (3, 5): 1}
  assert overlap.sums(counted.pixels, 1) == {4: 2, 5: 1}


@pytest.mark.parametrize('shape, pixels', [((480, 640), 16), ((1024, 2048), 46), ((3, 3), 1)])
def test_boundaries_are_a_share_of_the_diagonal_thick(shape, pixels):
  assert overlap.boundary_distance(shape, 0.02) == pixels


def test_what_cannot_be_counted_is_named():
  with pytest.raises(ValueError, match='1 x 4 pixels and the prediction is 1 x 5 pixels'):
    overlap.overlaps(np.zeros((1, 4), np.int32), np.zeros((1, 5), np.int32))
  for value in (-3, 2**31):
    with pytest.raises(ValueError, match=f'holds the value {value}'):
      overlap.overlaps(np.full((1, 4), value), np.zeros((1, 4), np.int32))
  assert overlap.overlaps(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32), 1).pixels == {}
