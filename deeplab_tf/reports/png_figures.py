"""Common colors, style and writing of figures in PNG files."""

import contextlib
from typing import Any, Iterator, Tuple

from deeplab_tf.formats import atomic_file

INK = '#1c2128'
MUTED = '#5b6470'
GRID = '#e3e7ec'
THINGS, STUFF = '#2f6fde', '#d4852a'
_DOTS_PER_INCH = 180
_STYLE = {
    'font.family': 'sans-serif', 'font.size': 9, 'axes.titlesize': 9.5, 'axes.labelsize': 9,
    'axes.edgecolor': '#9aa4b1', 'axes.labelcolor': INK, 'axes.titlecolor': INK,
    'text.color': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.linewidth': 0.8,
    'xtick.labelsize': 8, 'ytick.labelsize': 8, 'legend.fontsize': 8, 'legend.frameon': False,
    'figure.facecolor': 'white', 'savefig.facecolor': 'white',
}


@contextlib.contextmanager
def figure(path: str, size: Tuple[float, float], layout: str = 'constrained') -> Iterator[Any]:
  """Yields a figure, which is written atomically at the end; the size is in inches."""
  import matplotlib
  from matplotlib import figure as figure_lib
  with matplotlib.rc_context(_STYLE):
    drawn = figure_lib.Figure(figsize=size, layout=layout)
    yield drawn
    with atomic_file.replacing(path) as temporary:
      drawn.savefig(temporary, format='png', dpi=_DOTS_PER_INCH, metadata={'Software': None})


def bare(axes: Any) -> None:
  """Removes ticks and borders of the axes."""
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(False)


def plain(axes: Any) -> None:
  """Keeps only horizontal grid lines and the bottom border of the axes."""
  axes.grid(axis='y', color=GRID, linewidth=0.7)
  axes.set_axisbelow(True)
  axes.tick_params(length=0)
  axes.spines[['top', 'right', 'left']].set_visible(False)
