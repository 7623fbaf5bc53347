"""One self-contained HTML page about a run: scores, curves and pictures."""

import base64
import datetime
import html
import io
import re
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import atomic_file
from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page_style
from deeplab_tf.visualization import draw

Series = Sequence[Tuple[int, float]]
_PICTURES = (('image', 'Input'), ('ground_truth', 'Ground truth'), ('prediction', 'Prediction'),
             ('error', 'Errors'))
# Curves are thinned to so many points; more cannot be seen.
_MOST_POINTS = 400
# Bytes; larger pictures are of photographs and stored as JPEG, others losslessly.
_LARGEST_PNG = 150_000
_WIDEST_PICTURE = 960
_ZOOM = "this.classList.toggle('zoom')"


def write_page(path: str, title: str, parts: Sequence[str], style: str = '') -> None:
  """Writes a page in the style of the report, whole or not at all.

  Args:
    path: The HTML file.
    title: Of the browser's window.
    parts: HTML of the header and of the sections, in order; empty ones are left out.
    style: Style sheet that comes after the report's own.
  """
  now = datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')
  page = page_style.PAGE.format(title=html.escape(title), style=page_style.CSS + style,
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
      tiles.append(f'<div class="tile"><span class="big">{percent(value)}</span>'
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


def gallery_article(entry: Mapping[str, Any]) -> str:
  """Returns the HTML of one entry of write_report's gallery; its `note` may add a paragraph."""
  figures = []
  for key, caption in _PICTURES:
    if entry.get(key) is not None:
      figures.append(f'<figure><img loading="lazy" onclick="{_ZOOM}" alt="{caption} of '
                     f'{html.escape(str(entry["name"]))}" src="{_picture(entry[key])}">'
                     f'<figcaption>{caption}</figcaption></figure>')
  score = entry.get('score')
  badge = '' if score is None else f'<span class="badge">PQ {percent(score)}</span>'
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


def style_axes(axes: Any, grid: str) -> None:
  """Gives matplotlib axes the look of the report, before `svg_plot` lends it its colours.

  Args:
    axes: The axes.
    grid: Which axis has grid lines: 'x', 'y' or 'both'.
  """
  axes.grid(True, axis=grid, color=page_style.GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=page_style.INK, length=0, labelsize=9)
  axes.xaxis.label.set(color=page_style.INK, fontsize=9)
  axes.yaxis.label.set(color=page_style.INK, fontsize=9)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(page_style.GRID)


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
  for placeholder, variable in page_style.VARIABLES.items():
    svg = svg.replace(placeholder, f'var({variable})')
  return svg
