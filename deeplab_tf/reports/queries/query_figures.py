"""Figures of the analyses, as PNG files.

They are figures 4, 5 and A.3 to A.6 of the MaX-DeepLab paper, figure 3 of the Mask2Former paper and
figures 1 and 5 of the CMT-DeepLab paper.
"""

import math
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deeplab_tf.reports import page_style, png_figures

_BAR = '#8fa3bd'
# Maximum number of cells of a histogram in which counts are written.
_MOST_WRITTEN_CELLS = 700
_COLUMNS_OF_MASKS = 10


def query_classes(path: str, histogram: np.ndarray, order: Sequence[int],
                  class_names: Sequence[str], num_things: int) -> None:
  """Draws the joint distribution of queries and classes (figure A.3).

  Args:
    path: Path of the PNG file.
    histogram: int [queries, classes], counts; things first.
    order: Queries from top to bottom.
    class_names: Class names of the columns.
    num_things: Number of columns that are thing classes.
  """
  from matplotlib import colors, ticker
  counts = np.asarray(histogram)[list(order)]
  rows, columns = counts.shape
  cell = (min(0.42, 14.0 / columns), min(0.21, 12.0 / rows))
  size = (columns * cell[0] + 2.4, rows * cell[1] + 2.6)
  with png_figures.figure(path, size) as figure:
    grid = figure.add_gridspec(2, 3, width_ratios=(columns * cell[0], 0.9, 0.12),
                               height_ratios=(0.75, rows * cell[1]), wspace=0.02, hspace=0.02)
    axes = figure.add_subplot(grid[1, 0])
    norm = colors.LogNorm(1, max(counts.max(initial=1), 2))
    shown = np.ma.masked_equal(counts, 0)
    picture = axes.pcolormesh(shown, cmap='YlGnBu', norm=norm, edgecolors='#eef1f4',
                              linewidth=0.4 if rows * columns < 4000 else 0.1)
    axes.invert_yaxis()
    text = min(8.0, 72 * 0.72 * min(cell))
    axes.set_yticks(np.arange(rows) + 0.5, order, fontsize=text)
    axes.set_xticks(np.arange(columns) + 0.5, class_names, rotation=90, fontsize=text + 0.5
                    if columns > 40 else 8)
    axes.tick_params(length=0)
    axes.set_ylabel('query')
    if counts.size <= _MOST_WRITTEN_CELLS:
      _write_counts(axes, counts, norm)
    axes.axvline(num_things, color=png_figures.INK, linewidth=1.2)
    _margins(figure, grid, axes, counts, num_things)
    bar = figure.colorbar(picture, cax=figure.add_subplot(grid[1, 2]),
                          format=ticker.StrMethodFormatter('{x:.0f}'))
    bar.ax.set_title('images', fontsize=8, loc='left')
    bar.ax.tick_params(which='both', length=2)
    bar.outline.set_visible(False)


def _write_counts(axes: Any, counts: np.ndarray, norm: Any) -> None:
  for row, column in np.argwhere(counts):
    value = counts[row, column]
    axes.text(column + 0.5, row + 0.52, value, ha='center', va='center', fontsize=7,
              color='white' if norm(value) > 0.62 else png_figures.INK)


def _margins(figure: Any, grid: Any, axes: Any, counts: np.ndarray, num_things: int) -> None:
  """Draws bars of the sums over queries (above) and over classes (right)."""
  rows, columns = counts.shape
  above = figure.add_subplot(grid[0, 0], sharex=axes)
  color = [png_figures.THINGS] * num_things + [png_figures.STUFF] * (columns - num_things)
  above.bar(np.arange(columns) + 0.5, counts.sum(axis=0), width=0.8, color=color)
  above.axvline(num_things, color=png_figures.INK, linewidth=1.2)
  for place, name, tint in ((num_things / 2, 'things', png_figures.THINGS),
                            ((num_things + columns) / 2, 'stuff', png_figures.STUFF)):
    above.annotate(name, (place, 1.04), xycoords=('data', 'axes fraction'), ha='center',
                   va='bottom', color=tint, fontweight='bold')
  right = figure.add_subplot(grid[1, 1], sharey=axes)
  things = counts[:, :num_things].sum(axis=1)
  right.barh(np.arange(rows) + 0.5, things, height=0.8, color=png_figures.THINGS)
  right.barh(np.arange(rows) + 0.5, counts[:, num_things:].sum(axis=1), left=things, height=0.8,
             color=png_figures.STUFF)
  for margin, keep in ((above, 'left'), (right, 'bottom')):
    margin.tick_params(labelbottom=keep == 'bottom', labelleft=keep == 'left', length=0)
    margin.spines[:].set_visible(False)
    margin.locator_params(axis='y' if keep == 'left' else 'x', nbins=3)
    margin.grid(axis='y' if keep == 'left' else 'x', color=png_figures.GRID, linewidth=0.6)
    margin.set_axisbelow(True)
  right.set_xlabel('firings')


def average_masks(path: str, masks: np.ndarray, firings: np.ndarray, notes: Mapping[int, str],
                  groups: Sequence[Tuple[str, Sequence[int]]]) -> None:
  """Draws the average mask of each query that fires (figure A.4).

  Args:
    path: Path of the PNG file.
    masks: [queries, side, side] in [0, 1], average masks.
    firings: int [queries], number of firings.
    notes: Query -> text below its mask.
    groups: Pairs of group name and queries, in order.
  """
  from matplotlib import colors
  columns = min(_COLUMNS_OF_MASKS, max((len(queries) for _, queries in groups), default=1))
  lines = [(name, queries[start:start + columns]) for name, queries in groups
           for start in range(0, len(queries), columns)]
  side, gap_x, gap_y, left = 0.94, 0.12, 0.45, 0.45
  width = left + columns * (side + gap_x) + 0.75
  height = 0.2 + max(len(lines), 1) * (side + gap_y)
  # The square root makes faint averages visible.
  shown = [query for _, queries in groups for query in queries]
  highest = float(np.max(masks[shown], initial=1e-3))
  norm = colors.PowerNorm(0.5, 0, highest)
  with png_figures.figure(path, (width, height), layout='none') as figure:
    picture, last = None, None
    for line, (name, queries) in enumerate(lines):
      top = height - 0.32 - line * (side + gap_y)
      for column, query in enumerate(queries):
        axes = figure.add_axes(((left + column * (side + gap_x)) / width, (top - side) / height,
                                side / width, side / height))
        picture = axes.imshow(masks[query], cmap='magma', norm=norm, interpolation='bilinear')
        png_figures.bare(axes)
        axes.set_title(f'{query}  ·  {firings[query]}×', fontsize=8, pad=2.5)
        axes.set_xlabel(notes.get(query, ''), fontsize=6.5, color=png_figures.MUTED, labelpad=2)
      if name != last:
        figure.text(0.16 / width, (top - side / 2) / height, name, rotation=90, va='center',
                    ha='center', fontsize=8.5, fontweight='bold')
        last = name
    if picture is not None:
      box = ((width - 0.62) / width, (height - 0.32 - side) / height, 0.1 / width, side / height)
      bar = figure.colorbar(picture, cax=figure.add_axes(box), format='%.2f',
                            ticks=[highest * part for part in (0, 0.1, 0.4, 1)])
      bar.outline.set_visible(False)
      bar.ax.tick_params(labelsize=7, length=2)
      bar.ax.set_title('mean', fontsize=7, pad=4)


def attention(path: str, outlined: np.ndarray, heads: Sequence[np.ndarray],
              titles: Sequence[str], legend: Sequence[Tuple[str, Tuple[int, int, int]]]) -> None:
  """Draws the attention of chosen masks, one image per head (figure A.6).

  Args:
    path: Path of the PNG file.
    outlined: uint8 [height, width, 3], input image with outlined masks.
    heads: Attention of each head, uint8 [height, width, 3].
    titles: Titles of the heads.
    legend: Names and colors of the masks.
  """
  columns = math.ceil(len(heads) / 2)
  height, width = outlined.shape[:2]
  unit = 1.9
  cell_height = unit * height / width
  size = (2 * unit + columns * unit + 0.5, 2 * cell_height + 0.85)
  with png_figures.figure(path, size) as figure:
    grid = figure.add_gridspec(2, columns + 2, wspace=0.03, hspace=0.02)
    axes = figure.add_subplot(grid[:, :2])
    axes.imshow(outlined)
    axes.set_title('input and predicted masks')
    png_figures.bare(axes)
    for head, (picture, title) in enumerate(zip(heads, titles)):
      axes = figure.add_subplot(grid[head // columns, 2 + head % columns])
      axes.imshow(picture)
      axes.set_title(title, fontsize=8, pad=3)
      png_figures.bare(axes)
    _legend(figure, legend)


def _legend(figure: Any, entries: Sequence[Tuple[str, Tuple[int, int, int]]]) -> None:
  from matplotlib import patches
  handles = [patches.Patch(color=np.array(color) / 255, label=name) for name, color in entries]
  figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), handlelength=1.1)


def memory_share(path: str, shares: np.ndarray) -> None:
  """Plots the fractions of each head's attention to pixels and to the memory.

  Args:
    path: Path of the PNG file.
    shares: [heads], fractions of the attention to the memory, in [0, 1].
  """
  numbers = np.arange(1, len(shares) + 1)
  with png_figures.figure(path, (1.4 + 0.55 * len(shares), 2.3)) as figure:
    axes = figure.add_subplot()
    axes.bar(numbers, 1 - shares, width=0.72, color=_BAR, label='pixels (M2P)')
    axes.bar(numbers, shares, bottom=1 - shares, width=0.72, color=png_figures.STUFF,
             label='memory (M2M)')
    for number, share in zip(numbers, shares):
      axes.text(number, 1.02, f'{100 * share:.0f}%', ha='center', va='bottom', fontsize=8,
                color='#9c5c12')
    axes.set_xticks(numbers)
    axes.set_xlabel('head')
    axes.set_ylabel('share of attention')
    axes.set_ylim(0, 1.12)
    axes.set_yticks((0, 0.5, 1))
    png_figures.plain(axes)
    figure.legend(loc='outside right upper')


class FeatureRow(NamedTuple):
  """Visualizations of one image, uint8 [height, width, 3]; `masks` may be None in all rows.

  Attributes:
    image: Input image.
    pixels: Pixel features as colors.
    masks: Masks in the colors of the mask features of their queries.
    prediction: Panoptic prediction.
  """
  image: np.ndarray
  pixels: np.ndarray
  masks: Optional[np.ndarray]
  prediction: np.ndarray


def features(path: str, rows: Sequence[FeatureRow]) -> None:
  """Draws features as colors between input and prediction (figures 5 and A.5).

  Args:
    path: Path of the PNG file.
    rows: Rows, one per image.
  """
  titles = {'image': 'input', 'pixels': 'pixel features', 'masks': 'mask features of the queries',
            'prediction': 'panoptic prediction'}
  kinds = [kind for kind in titles if getattr(rows[0], kind) is not None]
  unit = 2.6
  heights = [unit * row.image.shape[0] / row.image.shape[1] for row in rows]
  with png_figures.figure(path, (len(kinds) * unit, sum(heights) + 0.3)) as figure:
    grid = figure.add_gridspec(len(rows), len(kinds), height_ratios=heights, wspace=0.02,
                               hspace=0.02)
    for line, row in enumerate(rows):
      for column, kind in enumerate(kinds):
        axes = figure.add_subplot(grid[line, column])
        axes.imshow(getattr(row, kind))
        axes.set_title(titles[kind] if line == 0 else '')
        png_figures.bare(axes)


def layer_title(layer: int) -> str:
  """Returns what stands above a prediction: the decoder layer that made it, 0 being none."""
  return f'after layer {layer}' if layer else 'before layer 1'


def proposal_recall(path: str, layers: Sequence[int], recalls: Sequence[float]) -> None:
  """Draws the recall of the proposals of some decoder layers as bars (Mask2Former, figure 3).

  Args:
    path: Path of the PNG file.
    layers: Decoder layers, ascending.
    recalls: AR@100 of each layer, in [0, 1].
  """
  with png_figures.figure(path, (1.6 + 0.8 * len(layers), 2.5)) as figure:
    axes = figure.add_subplot()
    places = range(len(layers))
    axes.bar(places, [100 * recall for recall in recalls], width=0.62,
             color=[png_figures.THINGS if layer else _BAR for layer in layers])
    for place, recall in zip(places, recalls):
      axes.annotate(f'{100 * recall:.1f}', (place, 100 * recall), (0, 2),
                    textcoords='offset points', ha='center', va='bottom', fontweight='bold')
    axes.set_xticks(places, [f'layer {layer}' for layer in layers])
    axes.set_xlabel('masks after the decoder layer (0: before the first)')
    axes.set_ylabel('AR@100')
    axes.set_ylim(0, max(100 * max(recalls), 1) * 1.15)
    png_figures.plain(axes)


class ProposalRow(NamedTuple):
  """Things of one image and the proposals for them.

  Attributes:
    pictures: uint8 [height, width, 3], the things outlined, then their proposals in each layer.
    notes: For each picture, texts that are written below it on the colors of the things.
    colors: Colors of the things.
  """
  pictures: Sequence[np.ndarray]
  notes: Sequence[Sequence[str]]
  colors: Sequence[Tuple[int, int, int]]


def proposals(path: str, rows: Sequence[ProposalRow], titles: Sequence[str]) -> None:
  """Draws things and the best proposals for them (Mask2Former, figure 3).

  Args:
    path: Path of the PNG file.
    rows: Rows, one per image.
    titles: Titles of the columns.
  """
  unit, text = 2.5, 0.26
  heights = [unit * row.pictures[0].shape[0] / row.pictures[0].shape[1] + text for row in rows]
  with png_figures.figure(path, (len(titles) * unit, sum(heights) + 0.3)) as figure:
    grid = figure.add_gridspec(len(rows), len(titles), height_ratios=heights, wspace=0.02,
                               hspace=0.02)
    for line, row in enumerate(rows):
      for column, (picture, notes) in enumerate(zip(row.pictures, row.notes)):
        axes = figure.add_subplot(grid[line, column])
        axes.imshow(picture)
        axes.set_title(titles[column] if line == 0 else '')
        png_figures.bare(axes)
        _write_notes(axes, notes, row.colors)


def _write_notes(axes: Any, notes: Sequence[str],
                 colors: Sequence[Tuple[int, int, int]]) -> None:
  """Writes texts side by side below a picture."""
  axes.set_xlabel(' ', fontsize=8)  # Reserves their space.
  for place, (note, color) in enumerate(zip(notes, colors)):
    axes.annotate(note, ((place + 0.5) / len(notes), 0), (0, -5), xycoords='axes fraction',
                  textcoords='offset points', ha='center', va='top', fontsize=6.5,
                  bbox={'boxstyle': 'round,pad=0.25', 'linewidth': 0,
                        'facecolor': np.array(color) / 255})


class Panel(NamedTuple):
  """One plot of the training curves.

  Attributes:
    title: Title of the plot.
    lines: Legend (empty for none) -> step -> value in [0, 1].
  """
  title: str
  lines: Mapping[str, Mapping[int, float]]


def training_curves(path: str, panels: Sequence[Panel]) -> None:
  """Plots training curves side by side (figure 4).

  Args:
    path: Path of the PNG file.
    panels: Plots, at least one; none is empty.
  """
  from matplotlib import ticker
  with png_figures.figure(path, (2.35 * len(panels) + 0.4, 2.3)) as figure:
    for index, panel in enumerate(panels):
      axes = figure.add_subplot(1, len(panels), index + 1)
      for color, (name, points) in zip(page_style.LINES, panel.lines.items()):
        _line(axes, name, np.array(list(points)), np.array(list(points.values())), color)
      axes.set_title(f'({chr(ord("a") + index)}) {panel.title}', fontsize=9)
      axes.set_ylim(0, 1)
      axes.set_xlim(left=0)
      axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
      axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
      axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
      axes.tick_params(labelleft=index == 0)
      axes.set_xlabel('training step')
      png_figures.plain(axes)
      if len(panel.lines) > 1:
        axes.legend(loc='best', handlelength=1.3)


def _line(axes: Any, name: str, steps: np.ndarray, values: np.ndarray, color: str) -> None:
  """Draws a few points with markers, or many as a faint line with their running mean."""
  if len(steps) <= 30:
    axes.plot(steps, values, 'o-', color=color, label=name, markersize=3, linewidth=1.5)
    return
  axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
  reach = max(1, len(values) // 50)
  sums = np.concatenate([[0], np.cumsum(values)])
  starts = np.maximum(np.arange(len(values)) - reach, 0)
  ends = np.minimum(np.arange(len(values)) + reach + 1, len(values))
  axes.plot(steps, (sums[ends] - sums[starts]) / (ends - starts), color=color, label=name,
            linewidth=1.6)
