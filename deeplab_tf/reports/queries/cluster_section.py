"""The section about clustering: assignments after each layer, reference masks, denser attention.

These are figures 5 and 1 of the CMT-DeepLab paper.
"""

import colorsys
import os
from typing import Any, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.reports.queries import query_figures, query_pictures, query_statistics
from deeplab_tf.reports.queries.query_page import Section
from deeplab_tf.reports.queries.query_survey import Picture
from deeplab_tf.visualization import draw

# Small images are enlarged to this side in pixels before lines and points are drawn on them.
_SIDE = 480
# Step of the hue from one cluster to the next, in turns: neighbors differ.
_HUE_STEP = 0.618


def clustering(folder: str, pictures: Sequence[Picture], wanted: Optional[Sequence[int]],
               info: DatasetInfo, numbers: dict[str, Any]) -> Section:
  """Shows the clusters after each layer, the reference masks, and the attention to pixels.

  Args:
    folder: Output folder.
    pictures: Example images.
    wanted: Queries to show instead of the largest things.
    info: Description of the classes.
    numbers: Dictionary to which an entry `clustering` is added.
  """
  title = 'Clusters of the layers'
  if not pictures or not {'assignment', 'reference_points'} & set(pictures[0].found.raw):
    return Section(title, '', (), ['Left out: this model has no clustering layers.'])
  isthing = np.array([c.isthing for c in info.categories])
  sheets, entries = [], []
  for number, picture in enumerate(pictures, 1):
    found = picture.found
    chosen = query_statistics.choose_masks(found.query_map, isthing[found.query_class],
                                           len(query_pictures.COLORS), wanted)
    if not chosen:
      continue
    path = os.path.join(folder, f'clustering_{number}.png')
    _draw(path, picture, chosen, info)
    sheets.append((path, picture.name))
    entries.append({'number': number, 'name': picture.name, 'queries': list(chosen),
                    **_densities(found, chosen)})
  numbers['clustering'] = entries
  return Section(
      title,
      'Each pixel belongs to a cluster, a query. *The clusters after each layer* are painted, the '
      'masks on the left in their colors and all others in pale ones: they should begin with '
      'classes and end with single things. *Reference masks* are the points that the same queries '
      'predict before they read the image in the last layer; their extreme points and their mean '
      'should be those of the mask. *Attention before* is that of the last layer (softmax over the '
      'pixels, mean over the heads), *attention after* the same with the assignment added: it '
      'should fill the masks. (CMT-DeepLab, figures 5 and 1)',
      sheets, [] if entries else ['Left out: no mask was predicted in the example images.'])


def _densities(found, chosen) -> dict[str, list[float]]:
  """Returns the share of a mask's pixels that have more than even attention, before and after.

  The attention of each query has sum 1 here, so that an even assignment adds nothing.
  """
  if 'assignment' not in found.raw:
    return {}
  before, after = _attention(found, chosen)
  masks = [found.query_map == query for query in chosen]
  shares = {}
  for name, maps in (('dense_before', before), ('dense_after', after)):
    above = found.resized(maps / maps.sum((0, 1))) > 1 / maps[..., 0].size
    shares[name] = [float(above[mask, i].mean()) if mask.any() else 0.0
                    for i, mask in enumerate(masks)]
  return shares


def _attention(found, chosen) -> tuple[np.ndarray, np.ndarray]:
  """Returns the attention of queries before and after it is made denser, [h, w, queries] each."""
  before = np.moveaxis(found.raw['attention'][:, chosen].mean(0), 0, -1)
  return before, before + found.raw['assignment'][..., chosen]


def _draw(path: str, picture: Picture, chosen: Sequence[int], info: DatasetInfo) -> None:
  """Draws the sheet of one image."""
  found = picture.found
  image, query_map = (draw.enlarge(x, _SIDE) for x in (found.image, found.query_map))
  panels, titles = [], []
  if 'assignment' in found.raw:
    colors = _colors(len(found.query_class), chosen)
    for i, masks in enumerate(found.raw['layer_masks']):
      clusters = found.resized(masks.astype(np.float32)).argmax(-1)
      panels.append(draw.enlarge(query_pictures.paint_masks(clusters, colors), _SIDE))
      titles.append(query_figures.layer_title(i + 1))
  if 'reference_points' in found.raw:
    panels.append(_with_points(image, found, chosen))
    titles.append('reference masks')
  if 'assignment' in found.raw:
    for name, maps in zip(('attention before', 'attention after'), _attention(found, chosen)):
      even = 1 / maps[..., 0].size
      panels += query_pictures.colored(found.image, found.resized(maps)[:, :, None], even)
      titles.append(name)
  legend = [(f'{draw.short_name(info.categories[found.query_class[query]].name)} (query {query})',
             color) for query, color in zip(chosen, query_pictures.COLORS)]
  width = max(2, min(image.shape[:2]) // 130)
  query_figures.attention(
      path, query_pictures.outlined(image, [query_map == query for query in chosen], width),
      panels, titles, legend)


def _colors(queries: int, chosen: Sequence[int]) -> np.ndarray:
  """Returns a color in [0, 1] for each query: pale ones, and those of the chosen queries."""
  colors = np.array([colorsys.hsv_to_rgb(query * _HUE_STEP % 1, 0.25, 0.75)
                     for query in range(queries)])
  for query, color in zip(chosen, query_pictures.COLORS):
    colors[query] = np.array(color) / 255
  return colors


def _with_points(image: np.ndarray, found, chosen: Sequence[int]) -> np.ndarray:
  """Draws the reference masks of the last layer over the faded image."""
  canvas = Image.fromarray(np.rint(0.45 * image).astype(np.uint8))
  painter = ImageDraw.Draw(canvas)
  scale = image.shape[0] / found.image.shape[0]
  radius = max(3, min(image.shape[:2]) // 80)
  reach = np.array(found.padded_size) - 1
  for query, color in zip(chosen, query_pictures.COLORS):
    for y, x in found.raw['reference_points'][-1, query] * reach * scale:
      painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color,
                      outline=(0, 0, 0))
  return np.asarray(canvas)
