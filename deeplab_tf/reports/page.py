"""Building blocks of the self-contained HTML reports: header, galleries and plots."""

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
# Maximum number of points of a curve; more are not visible.
_MOST_POINTS = 400
# Maximum size of a PNG in bytes; larger images, usually photographs, are stored as JPEG.
_LARGEST_PNG = 150_000
_WIDEST_PICTURE = 960
_ZOOM = "this.classList.toggle('zoom')"


def write_page(path: str, title: str, parts: Sequence[str], style: str = '') -> None:
  """Writes a page in the common style of the reports, atomically.

  Args:
    path: Path of the HTML file.
    title: Title of the browser window.
    parts: HTML of the header and the sections, in order; empty strings are left out.
    style: Additional style sheet.
  """
  now = datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')
  page = page_style.PAGE.format(title=html.escape(title), style=page_style.CSS + style,
                                body='\n'.join(part for part in parts if part),
                                footer=f'Written by deeplab_tf, {html.escape(now)}')
  with atomic_file.writing(path) as file:
    file.write(page)


def gallery_item(name: str, image: np.ndarray, *, ground_truth: np.ndarray, prediction: np.ndarray,
                 dataset_info: DatasetInfo, score: Optional[float] = None) -> Dict[str, Any]:
  """Visualizes one image for a gallery; small images are enlarged so that names are legible.

  Args:
    name: Caption.
    image: uint8 [height, width, 3], RGB.
    ground_truth: int [height, width], panoptic map.
    prediction: int [height, width], panoptic map.
    dataset_info: Description of the classes.
    score: Panoptic quality of this image in [0, 1], if known.

  Returns:
    A gallery entry, see `gallery_article`.
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
  """Returns the HTML of a page header: title, PQ if there are scores, and facts by name."""
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
  """Returns the HTML of a list of facts by name."""
  entries = ''.join(
      f'<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>'
      for name, value in summary.items())
  return f'<dl class="facts">{entries}</dl>'


def gallery_article(entry: Mapping[str, Any]) -> str:
  """Returns the HTML of one gallery entry.

  Args:
    entry: `name`; the pictures that exist, see `gallery_item`; and optionally `score` in [0, 1],
      its name `measure` (default: PQ), and `note`, a paragraph.
  """
  figures = []
  for key, caption in _PICTURES:
    if entry.get(key) is not None:
      figures.append(f'<figure><img loading="lazy" onclick="{_ZOOM}" alt="{caption} of '
                     f'{html.escape(str(entry["name"]))}" src="{_picture(entry[key])}">'
                     f'<figcaption>{caption}</figcaption></figure>')
  score = entry.get('score')
  badge = '' if score is None else (
      f'<span class="badge">{entry.get("measure", "PQ")} {percent(score)}</span>')
  note = f'<p class="note">{html.escape(entry["note"])}</p>' if entry.get('note') else ''
  return (f'<article><h3>{html.escape(str(entry["name"]))}{badge}</h3>{note}'
          f'<div class="pictures">{"".join(figures)}</div></article>')


def error_legend(colors: Mapping[str, Sequence[int]] = draw.ERROR_COLORS) -> str:
  """Returns the HTML of the legend of the error maps, name -> color; default: panoptic maps."""
  keys = ''.join('<li><span style="background:rgb({},{},{})"></span>{}</li>'.format(*color, name)
                 for name, color in colors.items())
  return f'<ul class="legend">{keys}</ul>'


def _picture(array: np.ndarray) -> str:
  """Returns an image as a data URI."""
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
  """Styles matplotlib axes for `svg_plot`.

  Args:
    axes: Axes to style.
    grid: Axis with grid lines: 'x', 'y' or 'both'.
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
  """Returns a matplotlib figure as inline SVG, whose text and grid have the colors of the page.

  Args:
    name: Name that is unique on the page, used for the ids of the SVG.
    size: Width and height in inches.
    paint: Function that draws into the figure.
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
  # Ids of groups would be the same in all plots, and are not referenced.
  svg = re.sub(r'<g id="[^"]*"', '<g', svg[svg.index('<svg'):])
  for placeholder, variable in page_style.VARIABLES.items():
    svg = svg.replace(placeholder, f'var({variable})')
  return svg
