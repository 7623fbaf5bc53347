"""The plots of the evaluation page."""

import re

import pytest

from deeplab_tf.reports.evaluation import evaluation_figures as figures

LIMITS = (300, 32**2, 3072, 96**2)


def _texts(svg):
  return [text.strip() for text in re.findall(r'<text[^>]*>([^<]*)</text>', svg)]


def test_sizes_are_named_by_sides():
  assert figures.size_names(LIMITS) == ('<17', '17–32', '32–55', '55–96', '>96')


def test_quality_shows_each_bar_and_no_bar_without_segments():
  svg = figures.quality_by_size(LIMITS, {'Things': [0.5, None, 0.25, None, 0.0],
                                         'Stuff': [None] * 5})
  texts = _texts(svg)
  assert {'small', 'medium', 'large', 'PQ'} < set(texts)
  # Ticks go from 0 to 100 by 20; the rest are bars.
  assert sorted(text for text in texts if text.isdigit()) == sorted(
      ['0', '20', '40', '60', '80', '100', '50', '25', '0'])
  assert 'things' in texts and 'stuff' not in texts
  assert 'var(--muted)' in svg and '#010203' not in svg


def test_counts_are_whole_numbers():
  svg = figures.segments_by_size(LIMITS, [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 2])
  assert {'0', '1', '2', 'segments'} < set(_texts(svg))
  assert not [text for text in _texts(svg) if re.fullmatch(r'\d+\.\d+', text)]


@pytest.mark.parametrize('pq', [[0.0], [1.0], [0.2, 0.4]])
def test_histogram_names_the_median(pq):
  texts = _texts(figures.image_histogram(pq))
  assert f'median {100 * sum(pq) / len(pq):.1f}' in texts and 'images' in texts


def test_plots_of_one_page_have_ids_of_their_own():
  page = (figures.iou_histogram([0] * 19 + [5]) + figures.image_histogram([0.5])
          + figures.segments_by_size(LIMITS, [0] * 5, [0] * 5, [0] * 5)
          + figures.quality_by_size(LIMITS, {'Things': [None] * 5, 'Stuff': [None] * 5}))
  ids = re.findall(r'<(?:clipPath|path) id="([^"]*)"', page)
  assert len(set(ids)) == len(ids)
