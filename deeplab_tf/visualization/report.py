"""One self-contained HTML page about a run: scores, curves and pictures."""

import base64
import datetime
import html
import io
import math
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import atomic_file
from deeplab_tf.visualization import draw, report_style

Series = Sequence[Tuple[int, float]]
_PICTURES = (('image', 'Input'), ('ground_truth', 'Ground truth'), ('prediction', 'Prediction'),
             ('error', 'Errors'))
# Curves are thinned to so many points; more cannot be seen.
_MOST_POINTS = 400
# Bytes; larger pictures are of photographs and stored as JPEG, others losslessly.
_LARGEST_PNG = 150_000
_WIDEST_PICTURE = 960
_ZOOM = "this.classList.toggle('zoom')"


def write_report(path: str, title: str, summary: Mapping[str, Any],
                 curves: Mapping[str, Series], scores: Mapping[str, Any],
                 class_names: Mapping[int, str], gallery: Sequence[Mapping[str, Any]]) -> None:
  """Writes the page, whole or not at all; every part may be empty.

  Args:
    path: The HTML file.
    title: Headline, e.g. the config's name.
    summary: Facts about the run by name (steps, time, parameters, ...), shown in order.
    curves: Name -> (step, value) pairs. Names with a common part before the last '/', and names
      that end in 'loss', share a plot.
    scores: What PanopticQuality.result() returns; empty for none.
    class_names: Category id -> name.
    gallery: Per image: name; image, ground_truth, prediction and optionally error, each uint8
      [height, width, 3]; optionally score in [0, 1]. `gallery_item` makes one.
  """
  parts = [
      header(title, summary, scores),
      _curves_section(curves),
      _scores_section(scores, class_names),
      _gallery_section(gallery),
  ]
  write_page(path, title, parts)


def write_page(path: str, title: str, parts: Sequence[str], style: str = '') -> None:
  """Writes a page in the style of the report, whole or not at all.

  Args:
    path: The HTML file.
    title: Of the browser's window.
    parts: HTML of the header and of the sections, in order; empty ones are left out.
    style: Style sheet that comes after the report's own.
  """
  now = datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')
  page = report_style.PAGE.format(title=html.escape(title), style=report_style.CSS + style,
                                  body='\n'.join(part for part in parts if part),
                                  footer=f'Written by deeplab_tf, {html.escape(now)}')
  with atomic_file.writing(path) as file:
    file.write(page)


def gallery_item(name: str, image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray,
                 dataset_info: DatasetInfo, score: Optional[float] = None) -> Dict[str, Any]:
  """Makes the pictures of one image; small ones are enlarged so that names can be read.

  Args:
    name: Caption.
    image: uint8 [height, width, 3].
    ground_truth: int [height, width], panoptic map.
    prediction: int [height, width], panoptic map.
    dataset_info: The classes.
    score: Panoptic quality of this image in [0, 1], if known.

  Returns:
    An entry of write_report's gallery.
  """
  image, ground_truth, prediction = (
      draw.enlarge(np.asarray(array), 360) for array in (image, ground_truth, prediction))
  return {
      'name': name,
      'image': image,
      'ground_truth': draw.overlay(image, ground_truth, dataset_info),
      'prediction': draw.overlay(image, prediction, dataset_info),
      'error': draw.error_map(ground_truth, prediction, dataset_info, image),
      'score': score,
  }


def header(title: str, summary: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
  """Returns the HTML of a page's head: headline, PQ if there are scores, and facts by name."""
  tiles = []
  names = (('pq', 'PQ', 'panoptic quality'), ('sq', 'SQ', 'segmentation quality'),
           ('rq', 'RQ', 'recognition quality'))
  for key, short, long in names:
    value = (scores.get('All') or {}).get(key)
    if scores:
      tiles.append(f'<div class="tile"><span class="big">{_per_cent(value)}</span>'
                   f'<span class="name">{short}</span><span class="note">{long}</span></div>')
  return (f'<header><h1>{html.escape(title)}</h1>'
          + (f'<div class="tiles">{"".join(tiles)}</div>' if tiles else '')
          + (facts(summary) if summary else '') + '</header>')


def facts(summary: Mapping[str, Any]) -> str:
  """Returns the HTML of facts by name."""
  entries = ''.join(
      f'<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>'
      for name, value in summary.items())
  return f'<dl class="facts">{entries}</dl>'


def _scores_section(scores: Mapping[str, Any], class_names: Mapping[int, str]) -> str:
  if not scores:
    return ''
  rows = []
  for group in ('All', 'Things', 'Stuff'):
    values = scores[group]
    rows.append(f'<tr><th scope="row">{group}</th>{_score_cells(values)}'
                f'<td colspan="3" class="count">{values["n"]} classes</td></tr>')
  per_class = []
  for category, values in scores.get('per_class', {}).items():
    name = html.escape(str(class_names.get(category, category)))
    counts = ''.join(f'<td class="count">{values[key]}</td>' for key in ('tp', 'fp', 'fn'))
    per_class.append(f'<tr><th scope="row">{name}</th>{_score_cells(values)}{counts}</tr>')
  head = ('<tr><th></th><th class="score">PQ</th><th class="score">SQ</th>'
          '<th class="score">RQ</th><th title="matched segments">TP</th>'
          '<th title="predicted in vain">FP</th><th title="missed">FN</th></tr>')
  return ('<section><h2>Scores</h2><div class="scroll"><table>'
          f'<thead>{head}</thead><tbody class="groups">{"".join(rows)}</tbody>'
          f'<tbody>{"".join(per_class)}</tbody></table></div></section>')


def _score_cells(values: Mapping[str, Any]) -> str:
  cells = []
  for key in ('pq', 'sq', 'rq'):
    value = values[key]
    width = 0 if value is None else 100 * min(max(value, 0), 1)
    cells.append(f'<td class="score {key}"><span class="value">{_per_cent(value)}</span>'
                 f'<span class="bar"><span style="width:{width:.1f}%"></span></span></td>')
  return ''.join(cells)


def _per_cent(value: Optional[float]) -> str:
  return 'n/a' if value is None else f'{100 * value:.1f}'


def _gallery_section(gallery: Sequence[Mapping[str, Any]]) -> str:
  if not gallery:
    return ''
  legend = error_legend() if any(entry.get('error') is not None for entry in gallery) else ''
  return (f'<section><h2>Pictures</h2>{legend}{"".join(map(gallery_article, gallery))}</section>')


def gallery_article(entry: Mapping[str, Any]) -> str:
  """Returns the HTML of one entry of write_report's gallery; its `note` may add a paragraph."""
  figures = []
  for key, caption in _PICTURES:
    if entry.get(key) is not None:
      figures.append(f'<figure><img loading="lazy" onclick="{_ZOOM}" alt="{caption} of '
                     f'{html.escape(str(entry["name"]))}" src="{_picture(entry[key])}">'
                     f'<figcaption>{caption}</figcaption></figure>')
  score = entry.get('score')
  badge = '' if score is None else f'<span class="badge">PQ {_per_cent(score)}</span>'
  note = f'<p class="note">{html.escape(entry["note"])}</p>' if entry.get('note') else ''
  return (f'<article><h3>{html.escape(str(entry["name"]))}{badge}</h3>{note}'
          f'<div class="pictures">{"".join(figures)}</div></article>')


def error_legend() -> str:
  """Returns the HTML of the legend of the error maps."""
  keys = ''.join('<li><span style="background:rgb({},{},{})"></span>{}</li>'.format(
      *color, name) for name, color in draw.ERROR_COLORS.items())
  return f'<ul class="legend">{keys}</ul>'


def _picture(array: np.ndarray) -> str:
  """Returns a picture as a data URI."""
  picture = Image.fromarray(np.asarray(array, np.uint8))
  if picture.width > _WIDEST_PICTURE:
    height = max(1, round(picture.height * _WIDEST_PICTURE / picture.width))
    picture = picture.resize((_WIDEST_PICTURE, height), Image.Resampling.LANCZOS)
  buffer, kind = io.BytesIO(), 'png'
  picture.save(buffer, kind)
  if buffer.tell() > _LARGEST_PNG:
    buffer, kind = io.BytesIO(), 'jpeg'
    picture.save(buffer, kind, quality=90, subsampling=0)
  return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def _curves_section(curves: Mapping[str, Series]) -> str:
  plots = []
  for group, series in _groups(curves).items():
    plots.append(f'<figure class="plot"><figcaption>{html.escape(group)}</figcaption>'
                 f'{_plot(group, series)}</figure>')
  if not plots:
    return ''
  return f'<section><h2>Training</h2><div class="plots">{"".join(plots)}</div></section>'


def _groups(curves: Mapping[str, Series]) -> Dict[str, Dict[str, Series]]:
  """Sorts curves into plots: name of the plot -> name of the line -> points."""
  groups: Dict[str, Dict[str, Series]] = {}
  for name, series in curves.items():
    points = [(step, value) for step, value in series
              if value is not None and math.isfinite(value)]
    if not points:
      continue
    group, _, line = name.rpartition('/')
    if not group:
      group = 'loss' if line.endswith('loss') else line
    groups.setdefault(group.replace('_', ' '), {})[line.replace('_', ' ')] = points
  return groups


def _plot(group: str, series: Mapping[str, Series]) -> str:
  """Draws lines over training steps."""
  from matplotlib import ticker

  def draw_lines(figure: Any) -> None:
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(series.items()):
      steps, values = zip(*_thinned(points))
      axes.plot(steps, values, label=name, linewidth=1.8, solid_capstyle='round',
                color=report_style.LINES[index % len(report_style.LINES)],
                linestyle=('-', '--', ':')[index // len(report_style.LINES) % 3],
                marker='o' if len(points) <= 20 else None, markersize=3.5)
    values = [value for points in series.values() for _, value in points]
    if min(values) > 0 and max(values) > 100 * min(values):
      axes.set_yscale('log')
    elif min(values) >= 0 and 0.05 < max(values) <= 1:
      axes.set_ylim(0, 1)
    style_axes(axes, 'both')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    axes.set_xlabel('step')
    if len(series) > 1:
      figure.legend(loc='outside lower center', ncols=2, frameon=False,
                    labelcolor=report_style.INK, fontsize=9, handlelength=1.4)

  return svg_plot(group, (5.2, 2.9), draw_lines)


def style_axes(axes: Any, grid: str) -> None:
  """Gives matplotlib axes the look of the report, before `svg_plot` lends it its colours.

  Args:
    axes: The axes.
    grid: Which axis has grid lines: 'x', 'y' or 'both'.
  """
  axes.grid(True, axis=grid, color=report_style.GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=report_style.INK, length=0, labelsize=9)
  axes.xaxis.label.set(color=report_style.INK, fontsize=9)
  axes.yaxis.label.set(color=report_style.INK, fontsize=9)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(report_style.GRID)


def svg_plot(name: str, size: Tuple[float, float], paint: Callable[[Any], None]) -> str:
  """Draws a matplotlib figure as inline SVG whose text and grid take the page's colours.

  Args:
    name: Distinct on a page, since each SVG needs ids of its own.
    size: Width and height in inches.
    paint: Fills the figure.
  """
  import matplotlib
  from matplotlib import figure as figure_lib
  settings = {'svg.hashsalt': name, 'svg.fonttype': 'none', 'font.family': 'sans-serif',
              'font.size': 10}
  with matplotlib.rc_context(settings):
    figure = figure_lib.Figure(figsize=size, layout='constrained')
    paint(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  svg = buffer.getvalue()
  # The ids of groups are the same in all plots, and nothing refers to them.
  svg = re.sub(r'<g id="[^"]*"', '<g', svg[svg.index('<svg'):])
  for placeholder, variable in report_style.VARIABLES.items():
    svg = svg.replace(placeholder, f'var({variable})')
  return svg


def _thinned(points: Series) -> List[Tuple[int, float]]:
  """Averages neighbouring points until few enough are left; the last one is kept."""
  count = math.ceil(len(points) / _MOST_POINTS)
  if count <= 1:
    return list(points)
  chunks = [points[start:start + count] for start in range(0, len(points), count)]
  thinned = [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]
  return thinned[:-1] + [(points[-1][0], float(points[-1][1]))]
