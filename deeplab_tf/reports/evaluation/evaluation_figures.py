"""The plots of the evaluation page, as inline SVG in the colors of the page."""

import math
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.reports import page, page_style

# Colors that are visible on white and on black: cool for correct, warm for errors.
THINGS, STUFF = '#2f81f7', '#2da44e'
IMPRECISE, WRONG_CLASS, MISSED, INVENTED = '#8a94a3', '#e5534b', '#a371f7', '#e0a32e'
FOUND = '#2a9d8f'
_PLAIN = '#5b86b8'
_SIZE = (4.7, 2.9)
# Limits between COCO's small, medium and large objects, area in pixels.
_COCO_LIMITS = ((32**2, 'small', 'medium'), (96**2, 'medium', 'large'))


def size_names(limits: Sequence[float]) -> Tuple[str, ...]:
  """Returns names of size bins, given by the side of a square of that area, in pixels.

  Args:
    limits: Inner limits of the bins, area in pixels, ascending.

  Returns:
    Name of each bin, one more than limits, e.g. '<11', '11–18', '>288'.
  """
  sides = [round(math.sqrt(limit)) for limit in limits]
  between = [f'{low}–{high}' for low, high in zip(sides, sides[1:])]
  return (f'<{sides[0]}', *between, f'>{sides[-1]}')


def quality_by_size(limits: Sequence[float],
                    pq: Mapping[str, Sequence[Optional[float]]]) -> str:
  """Plots PQ by the size of the segments.

  Args:
    limits: Inner limits of the bins, area in pixels.
    pq: 'Things' and 'Stuff' -> PQ in [0, 1] per bin; None for a bin without segments.
  """

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    for offset, (name, color) in zip((-0.2, 0.2), (('Things', THINGS), ('Stuff', STUFF))):
      heights = [(place, 100 * value) for place, value in enumerate(pq[name])
                 if value is not None]
      if not heights:
        continue
      places, values = zip(*heights)
      axes.bar(np.array(places) + offset, values, 0.38, color=color, label=name.lower())
      for place, value in heights:
        # A bar of height 0 means that no segment matched; a gap means that there are no segments.
        axes.text(place + offset, value + 1.5, f'{value:.0f}', ha='center', va='bottom',
                  fontsize=7.5, color=page_style.INK)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel('PQ')
    _sizes(axes, limits)
    if axes.containers:
      legend(figure)

  return page.svg_plot('quality by size', _SIZE, paint)


def segments_by_size(limits: Sequence[float], found: Sequence[int], missed: Sequence[int],
                     invented: Sequence[int]) -> str:
  """Plots the number of segments by their size.

  Args:
    limits: Inner limits of the bins, area in pixels.
    found: Number of true positives per bin.
    missed: Number of false negatives per bin.
    invented: Number of false positives per bin.
  """

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    places = np.arange(len(found))
    axes.bar(places - 0.2, found, 0.38, color=FOUND, label='matched (TP)')
    axes.bar(places - 0.2, missed, 0.38, bottom=found, color=MISSED, label='false negatives (FN)')
    axes.bar(places + 0.2, invented, 0.38, color=INVENTED, label='false positives (FP)')
    axes.set_ylabel('segments')
    whole_numbers(axes, max([*np.add(found, missed), *invented, 1]))
    _sizes(axes, limits)
    legend(figure)

  return page.svg_plot('segments by size', _SIZE, paint)


def image_histogram(scores: Sequence[float], name: str = 'PQ') -> str:
  """Plots a histogram of the scores of single images.

  Args:
    scores: Score of each image, in [0, 1]; at least one image.
    name: Name of the score.
  """
  counts, _ = np.histogram(scores, bins=20, range=(0, 1))

  def paint(figure: Any) -> None:
    axes = _histogram(figure, counts, (0, 100))
    axes.set_xlabel(f'{name} of the image')
    axes.set_ylabel('images')
    median = 100 * float(np.median(scores))
    axes.axvline(median, color=page_style.INK, linewidth=1.2, linestyle='--')
    axes.annotate(f'median {median:.1f}', (median, 1), xycoords=('data', 'axes fraction'),
                  xytext=(4 if median < 70 else -4, -2), textcoords='offset points', va='top',
                  ha='left' if median < 70 else 'right', fontsize=9, color=page_style.INK)

  return page.svg_plot(f'{name} of images', _SIZE, paint)


def iou_histogram(counts: Sequence[int]) -> str:
  """Plots a histogram of the IoU of matched segments.

  Args:
    counts: Number of matches per bin; the bins have equal width from 0.5 to 1.
  """

  def paint(figure: Any) -> None:
    axes = _histogram(figure, counts, (0.5, 1))
    axes.set_xlabel('IoU of the match')
    axes.set_ylabel('matched segments')

  return page.svg_plot('IoU of matches', _SIZE, paint)


def _histogram(figure: Any, counts: Sequence[int], span: Tuple[float, float]) -> Any:
  axes = figure.add_subplot()
  edges = np.linspace(*span, len(counts) + 1)
  axes.bar(edges[:-1], counts, 0.92 * (edges[1] - edges[0]), align='edge', color=_PLAIN)
  axes.set_xlim(*span)
  whole_numbers(axes, max([*counts, 1]))
  page.style_axes(axes, 'y')
  axes.tick_params(axis='x', pad=6)
  return axes


def whole_numbers(axes: Any, highest: float) -> None:
  """Sets integer ticks; the space above the highest bar is for text."""
  from matplotlib import ticker
  axes.set_ylim(0, 1.15 * highest)
  axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  axes.yaxis.set_major_formatter(ticker.EngFormatter(sep='') if highest >= 10_000
                                 else ticker.StrMethodFormatter('{x:,.0f}'))


def _sizes(axes: Any, limits: Sequence[float]) -> None:
  """Labels the axis of sizes, with COCO's small, medium and large."""
  names = size_names(limits)
  page.style_axes(axes, 'y')
  axes.set_xlim(-0.5, len(names) - 0.5)
  axes.set_xticks(range(len(names)), names)
  axes.tick_params(axis='x', labelsize=7.5, pad=5)
  axes.set_xlabel('size of the segment: side of a square of its area, in pixels')
  starts = [-0.5]
  for limit, _, _ in _COCO_LIMITS:
    starts.append(list(limits).index(limit) + 0.5)
    axes.axvline(starts[-1], color=page_style.INK, linewidth=0.9, linestyle=(0, (3, 3)))
  ends = [*starts[1:], len(names) - 0.5]
  words = (_COCO_LIMITS[0][1], *(after for _, _, after in _COCO_LIMITS))
  for start, end, word in zip(starts, ends, words):
    axes.annotate(word, ((start + end) / 2, 1), xycoords=('data', 'axes fraction'), ha='center',
                  va='bottom', fontsize=8.5, color=page_style.INK, xytext=(0, 2),
                  textcoords='offset points')


def legend(figure: Any, columns: int = 3) -> None:
  """Draws a legend below the axes of a figure."""
  figure.legend(loc='outside lower center', ncols=columns, frameon=False,
                labelcolor=page_style.INK, fontsize=9, handlelength=1.1, handleheight=0.9)
