"""The plots of the page about instances, as inline SVG in the colors of the page."""

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from deeplab_tf.reports import page, page_style
from deeplab_tf.reports.evaluation import evaluation_figures as figures

SIZE = (4.7, 2.9)
# Colors of the kinds of predictions, see instance_survey.KINDS, and of annotations without a match.
KIND_COLORS = {'correct': figures.FOUND, 'duplicate': figures.THINGS,
               'wrong_class': figures.WRONG_CLASS, 'imprecise': figures.IMPRECISE,
               'invented': figures.INVENTED}
_MARKERS = ('o', 's', '^', 'D')


def ap_by_iou(thresholds: Sequence[float],
              by_size: Mapping[str, Sequence[Optional[float]]]) -> str:
  """Plots AP over the IoU that a match needs.

  Args:
    thresholds: IoU thresholds.
    by_size: Name of a range of areas -> AP in [0, 1] at each threshold, None without annotations.
  """

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    for (name, values), color, marker in zip(by_size.items(), page_style.LINES, _MARKERS):
      if None in values:
        continue
      axes.plot(thresholds, 100 * np.array(values), color=color, marker=marker, markersize=3.5,
                linewidth=2.2 if name == 'all' else 1.4, label=name)
    _percent_axis(axes, 'AP')
    axes.set_xlabel('IoU that a match needs')
    axes.set_xticks(thresholds, [f'{threshold:.2f}' for threshold in thresholds])
    axes.tick_params(axis='x', labelsize=8)
    _legend(figure, axes, 4)

  return page.svg_plot('AP by IoU', SIZE, paint)


def precision_recall(recalls: Sequence[float],
                     precision: Mapping[float, Optional[Sequence[float]]]) -> str:
  """Plots precision over recall.

  Args:
    recalls: Recalls.
    precision: IoU threshold -> precision at each recall, in [0, 1], or None.
  """

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    for (threshold, values), color in zip(precision.items(), page_style.LINES):
      if values is None:
        continue
      axes.plot(100 * np.array(recalls), 100 * np.array(values), color=color, linewidth=1.8,
                label=f'IoU {threshold:g} (area {100 * np.mean(values):.1f})')
    _percent_axis(axes, 'precision')
    axes.set_xlim(0, 102)
    axes.set_xlabel('recall')
    _legend(figure, axes, 2)

  return page.svg_plot('precision and recall', SIZE, paint)


def kinds_by_score(counts: Mapping[str, Sequence[int]], names: Mapping[str, str]) -> str:
  """Plots the number of predictions of each kind by their score.

  Args:
    counts: Kind -> number per bin; the bins have equal width from 0 to 1.
    names: Kind -> name on the page.
  """
  bins = len(next(iter(counts.values())))

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    edges, below = np.linspace(0, 1, bins + 1), np.zeros(bins)
    for kind, numbers in counts.items():
      axes.bar(edges[:-1], numbers, 0.92 / bins, below, align='edge', color=KIND_COLORS[kind],
               label=names[kind])
      below = below + numbers
    axes.set_xlim(0, 1)
    axes.set_ylabel('predictions')
    axes.set_xlabel('score')
    figures.whole_numbers(axes, max([*below, 1]))
    page.style_axes(axes, 'y')
    axes.tick_params(axis='x', pad=6)
    _legend(figure, axes, 3)

  return page.svg_plot('kinds by score', SIZE, paint)


def truths_by_size(names: Sequence[str], truths: Sequence[int], missed: Sequence[int]) -> str:
  """Plots the number of annotations by size, with and without a match.

  Args:
    names: Names of the sizes.
    truths: Number of annotations of each size.
    missed: Number of those without a match.
  """

  def paint(figure: Any) -> None:
    axes = figure.add_subplot()
    places, found = np.arange(len(names)), np.subtract(truths, missed)
    axes.bar(places, found, 0.6, color=figures.FOUND, label='matched')
    axes.bar(places, missed, 0.6, found, color=figures.MISSED, label='false negatives')
    for place, (whole, part) in enumerate(zip(truths, missed)):
      if whole:
        axes.annotate(f'{100 * part / whole:.0f} % missed', (place, whole), xytext=(0, 2),
                      textcoords='offset points', ha='center', va='bottom', fontsize=8,
                      color=page_style.INK)
    axes.set_ylabel('annotations')
    axes.set_xlim(-0.5, len(names) - 0.5)
    figures.whole_numbers(axes, max([*truths, 1]))
    page.style_axes(axes, 'y')
    axes.set_xticks(places, names)
    axes.tick_params(axis='x', pad=5)
    _legend(figure, axes, 2)

  return page.svg_plot('annotations by size', SIZE, paint)


def _percent_axis(axes: Any, name: str) -> None:
  axes.set_ylim(0, 102)
  axes.set_yticks(range(0, 101, 20))
  axes.set_ylabel(name)
  page.style_axes(axes, 'both')


def _legend(figure: Any, axes: Any, columns: int) -> None:
  if axes.get_legend_handles_labels()[1]:
    figures.legend(figure, columns)
