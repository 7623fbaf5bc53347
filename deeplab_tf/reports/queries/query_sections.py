"""The individual analyses: each draws figures, stores numbers and explains how to read them.

Each function returns a section of the page, adds numbers to the dictionary that is written to
analysis.json, and may write arrays to NPZ files.
"""

import os
from typing import Any, Optional, Sequence

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.reports.queries import (
  event_curves,
  pixel_colors,
  query_figures,
  query_pictures,
  query_statistics,
)
from deeplab_tf.reports.queries.query_page import Section
from deeplab_tf.reports.queries.query_statistics import QueryStatistics
from deeplab_tf.reports.queries.query_survey import Picture
from deeplab_tf.visualization import draw

# Small images are enlarged to this side in pixels before lines and names are drawn on them.
_SIDE = 480
# Maximum number of queries listed in text.
_LISTED = 40
_NO_MASKS = ('Left out: no query is left in any panoptic prediction. The confidences of the model '
             'are too low, or the thresholds of evaluator_options are too high.')


def query_classes(folder: str, statistics: QueryStatistics, info: DatasetInfo,
                  numbers: dict[str, Any]) -> Section:
  """Analyzes the joint distribution of queries and classes (figure A.3).

  Args:
    folder: Output folder.
    statistics: Statistics of the queries.
    info: Description of the classes.
    numbers: Dictionary to which an entry `query_classes` is added.
  """
  things_first = sorted(range(len(info.categories)), key=lambda i: not info.categories[i].isthing)
  categories = [info.categories[i] for i in things_first]
  histogram = statistics.histogram[:, things_first]
  order = statistics.order().tolist()
  never = [query for query in order if not statistics.firings[query]]
  numbers['query_classes'] = {
      'classes': [{'class_id': c.class_id, 'name': c.name, 'isthing': c.isthing}
                  for c in categories],
      'histogram': histogram.tolist(), 'firings': statistics.firings.tolist(), 'order': order}
  title = 'Queries and classes'
  if len(never) == len(order):
    return Section(title, '', (), [_NO_MASKS])
  path = os.path.join(folder, 'query_classes.png')
  # Queries that never fire are listed in text, since their rows would be blank.
  query_figures.query_classes(path, histogram, order[:len(order) - len(never)],
                              [c.name for c in categories], sum(c.isthing for c in categories))
  return Section(
      title,
      'Each row is a query (the paper says mask slot), each column a class: *things left of the '
      'line, stuff right*. A cell counts the images in which the query is a mask of that class '
      'in the panoptic prediction; the bars are the sums. Queries are sorted by firings. Rows with '
      'entries on one side only are queries that specialize in things or stuff, single dark cells '
      'are queries of one class. Queries that never fire have no row; they are listed below. '
      '(Figure A.3)',
      [(path, '')])


def average_masks(folder: str, statistics: QueryStatistics, info: DatasetInfo,
                  numbers: dict[str, Any]) -> Section:
  """Analyzes the average mask of each query (figure A.4).

  Args:
    folder: Output folder.
    statistics: Statistics of the queries.
    info: Description of the classes.
    numbers: Dictionary to which an entry `average_masks` is added.
  """
  groups, firings, masks = statistics.groups(), statistics.firings, statistics.average_masks()
  never = np.flatnonzero(firings == 0).tolist()
  numbers['average_masks'] = {'groups': {g.name: g.queries for g in groups}, 'never': never}
  np.savez_compressed(os.path.join(folder, 'average_masks.npz'), masks=masks, firings=firings)
  title = 'Average masks of the queries'
  if not groups:
    return Section(title, '', (), [_NO_MASKS])
  path = os.path.join(folder, 'average_masks.png')
  notes = {query: _favorite(statistics.histogram[query], info)
           for group in groups for query in group.queries}
  query_figures.average_masks(path, masks, firings, notes, [tuple(g) for g in groups])
  return Section(
      title,
      'Panoptic predictions are resized to a square and the masks of each query are averaged over '
      'the images in which it fires. *Bright regions are where the query predicts masks*: a spot '
      'means a fixed location, a uniform mask any location. Above each mask are the index of the '
      'query and its number of firings, below is its most frequent class. (Figure A.4)',
      [(path, '')], _never(never, len(firings)))


def _never(never: Sequence[int], total: int) -> list[str]:
  if not never:
    return []
  listed = ', '.join(str(query) for query in sorted(never)[:_LISTED])
  more = f' and {len(never) - _LISTED} more' if len(never) > _LISTED else ''
  return [f'{len(never)} of {total} queries never fire: {listed}{more}.']


def _favorite(counts: np.ndarray, info: DatasetInfo) -> str:
  best = int(counts.argmax())
  name = draw.short_name(info.categories[best].name)
  name = name if len(name) <= 14 else f'{name[:13]}…'
  return f'{name} {100 * counts[best] / counts.sum():.0f}%'


def attention(folder: str, pictures: Sequence[Picture], shares: Optional[np.ndarray],
              wanted: Optional[Sequence[int]], info: DatasetInfo,
              numbers: dict[str, Any]) -> Section:
  """Analyzes the attention of chosen masks to pixels (figure A.6).

  Args:
    folder: Output folder.
    pictures: Example images.
    shares: [heads], mean fraction of the attention to the memory over the dataset, or None if
      unknown.
    wanted: Queries to show instead of the largest things.
    info: Description of the classes.
    numbers: Dictionary to which an entry `attention` is added.
  """
  title = 'Attention of the masks'
  if not pictures or 'attention' not in pictures[0].found.raw:
    return Section(title, '', (), [
        'Left out: in this model queries do not attend to the pixels of one feature map.'])
  sheets, arrays, entries = [], {}, []
  for number, picture in enumerate(pictures, 1):
    chosen = query_statistics.choose_masks(picture.found.query_map, _isthing(picture, info),
                                           len(query_pictures.COLORS), wanted)
    if not chosen:
      continue
    raw = picture.found.raw
    path = os.path.join(folder, f'attention_{number}.png')
    names = _draw_attention(path, picture, chosen, info)
    sheets.append((path, picture.name))
    arrays[f'weights_{number}'] = raw['attention'][:, chosen]
    arrays[f'queries_{number}'] = np.array(chosen)
    entries.append({'number': number, 'name': picture.name, 'masks': [
        {'query': query, 'class': name, 'memory_share': raw['memory_share'][:, query].tolist()}
        for query, name in zip(chosen, names)]})
  if arrays:
    np.savez_compressed(os.path.join(folder, 'attention.npz'), **arrays)
  numbers['attention'] = {'memory_share': None if shares is None else shares.tolist(),
                          'pictures': entries}
  notices = [] if entries else ['Left out: no mask was predicted in the example images.']
  if shares is not None and not shares.any():
    notices.append('The layer has no memory-to-memory attention: all attention goes to the pixels.')
  elif shares is not None:
    path = os.path.join(folder, 'memory_share.png')
    query_figures.memory_share(path, shares)
    sheets.append((path, 'Attention of each head to pixels and memory, mean over all predicted '
                   'masks of the dataset'))
  return Section(
      title,
      'Masks are outlined in the input; in the image of each head, *the same colors show to '
      'which pixels these masks attend* in the last layer in which queries read pixels (the last '
      'dual-path layer of MaX-DeepLab, the last layer of Mask2Former). Heads whose colors stay '
      'inside the outlines read the mask itself, others gather context. Pixels are colored if '
      'their attention is above uniform attention, with one scale per mask over all heads: dark '
      'heads attend to all pixels equally, or to the memory. In MaX-DeepLab memory-to-pixel (M2P) '
      'and memory-to-memory (M2M) attention share one softmax; the percentage is the fraction of '
      'attention to the memory, mean over the masks shown. With masked attention (Mask2Former) a '
      'query reads only inside the mask that it predicted before the layer. (Figure A.6)',
      sheets, notices)


def _draw_attention(path: str, picture: Picture, chosen: Sequence[int],
                    info: DatasetInfo) -> list[str]:
  """Draws the attention figure of one image; returns the class names of the masks."""
  found = picture.found
  weights = found.raw['attention'][:, chosen]
  heads, masks, height, width = weights.shape
  maps = found.resized(weights.reshape(heads * masks, height, width).transpose(1, 2, 0))
  maps = maps.reshape(*maps.shape[:2], heads, masks)
  even = 1 / (height * width)
  image, query_map = (draw.enlarge(x, _SIDE) for x in (found.image, found.query_map))
  outlined = query_pictures.outlined(image, [query_map == query for query in chosen],
                                     max(2, min(image.shape[:2]) // 130))
  shares = found.raw['memory_share'][:, chosen].mean(axis=1)
  titles = [f'head {head}  ·  memory {100 * share:.0f}%' for head, share in enumerate(shares, 1)]
  names = [info.categories[found.query_class[query]].name for query in chosen]
  legend = [(f'{draw.short_name(name)} (query {query})', color)
            for name, query, color in zip(names, chosen, query_pictures.COLORS)]
  query_figures.attention(path, outlined, query_pictures.colored(found.image, maps, even),
                          titles, legend)
  return names


def layer_masks(folder: str, pictures: Sequence[Picture], wanted: Optional[Sequence[int]],
                info: DatasetInfo, numbers: dict[str, Any]) -> Section:
  """Shows the masks that chosen queries have after each decoder layer.

  Args:
    folder: Output folder.
    pictures: Example images.
    wanted: Queries to show instead of the largest things.
    info: Description of the classes.
    numbers: Dictionary to which an entry `layer_masks` is added.
  """
  title = 'Masks of the decoder layers'
  if not pictures or 'layer_masks' not in pictures[0].found.raw:
    return Section(title, '', (), [
        'Left out: this model predicts masks after its last layer only.'])
  sheets, entries = [], []
  for number, picture in enumerate(pictures, 1):
    chosen = query_statistics.choose_masks(picture.found.query_map, _isthing(picture, info),
                                           len(query_pictures.COLORS), wanted)
    if not chosen:
      continue
    masks = picture.found.raw['layer_masks'][..., chosen]
    path = os.path.join(folder, f'layer_masks_{number}.png')
    _draw_layer_masks(path, picture, masks, chosen, info)
    sheets.append((path, picture.name))
    entries.append({'number': number, 'name': picture.name, 'queries': list(chosen),
                    'iou_with_the_last': query_statistics.iou_with_the_last(masks).tolist()})
  numbers['layer_masks'] = entries
  return Section(
      title,
      'The same masks *after each layer of the decoder*, as outlines. In CMT-DeepLab they are the '
      'clusters of the layer. With masked attention '
      '(Mask2Former) the mask of one prediction is where the query may read pixels in the next '
      'layer, and a query whose mask is empty reads everywhere. Masks that are in place before the '
      'first layer belong to learned queries that propose a region by themselves; masks that move '
      'or split until the last layer are found by reading the image.',
      sheets, [] if entries else ['Left out: no mask was predicted in the example images.'])


def _draw_layer_masks(path: str, picture: Picture, masks: np.ndarray, chosen: Sequence[int],
                      info: DatasetInfo) -> None:
  """Draws the masks, bool [predictions, h, w, chosen], of one image."""
  found = picture.found
  image, query_map = (draw.enlarge(x, _SIDE) for x in (found.image, found.query_map))
  width = max(2, min(image.shape[:2]) // 130)
  pictures = []
  for prediction in masks:
    full = draw.enlarge(found.resized(prediction.astype(np.float32)) > 0.5, _SIDE)
    pictures.append(query_pictures.outlined(image, list(np.moveaxis(full, -1, 0)), width))
  titles = [query_figures.layer_title(found.first_prediction + i) for i in range(len(masks))]
  legend = [(f'{draw.short_name(info.categories[found.query_class[query]].name)} (query {query})',
             color) for query, color in zip(chosen, query_pictures.COLORS)]
  query_figures.attention(
      path, query_pictures.outlined(image, [query_map == query for query in chosen], width),
      pictures, titles, legend)


def _isthing(picture: Picture, info: DatasetInfo) -> np.ndarray:
  return np.array([c.isthing for c in info.categories])[picture.found.query_class]


def feature_colors(folder: str, pictures: Sequence[Picture], info: DatasetInfo,
                   numbers: dict[str, Any]) -> Section:
  """Visualizes pixel features, and mask features if there are three (figures 5 and A.5).

  Args:
    folder: Output folder.
    pictures: Example images.
    info: Description of the classes.
    numbers: Dictionary to which an entry `features` is added.
  """
  title = 'Pixel features as colors'
  if not pictures or 'pixel_features' not in pictures[0].found.raw:
    return Section(title, '', (), ['Left out: this model has no pixel features.'])
  shown = [picture.found.cut(picture.found.raw['pixel_features']) for picture in pictures]
  channels = shown[0].shape[-1]
  direct = channels == 3
  colors = pixel_colors.direct_colors() if direct else pixel_colors.principal_colors(shown)
  rows = [_feature_row(picture, colors, direct, info) for picture in pictures]
  if any(row.masks is None for row in rows):
    rows = [row._replace(masks=None) for row in rows]
  path = os.path.join(folder, 'features.png')
  query_figures.features(path, rows)
  np.savez_compressed(os.path.join(folder, 'features.npz'), **colors._asdict())
  numbers['features'] = {'channels': channels, 'mapping': 'direct' if direct else 'principal',
                         'explained': colors.explained, 'pictures': [p.name for p in pictures]}
  how = ('The three features of a pixel are shown *as red, green and blue*.' if direct else
         f'The {channels} features of a pixel are reduced to *three principal components as red, '
         'green and blue*, fitted over all of these images; they explain '
         f'{100 * colors.explained:.0f}% of the variance.')
  reading = (f'{how} Pixels of one mask should have one color, and different masks different '
             'colors: then the product with the feature of a query is a mask.')
  if rows[0].masks is not None:
    reading += (' The third column shows each predicted mask in the color of the mask feature '
                'that its query predicts: the closer to the color of the pixels, the better.')
  return Section(title, f'{reading} (Figures 5 and A.5)', [(path, '')])


def _feature_row(picture: Picture, colors: pixel_colors.FeatureColors, direct: bool,
                 info: DatasetInfo) -> query_figures.FeatureRow:
  found = picture.found
  pixel_features = found.raw['pixel_features']
  pixels = np.clip(found.resized_inside(colors(pixel_features)), 0, 1)
  image, panoptic_map = (draw.enlarge(x, _SIDE) for x in (found.image, found.panoptic_map))
  masks = None
  if direct:
    mask_features = pixel_colors.mask_features(pixel_features, found.raw['mask_logits'])
    if mask_features is not None:
      masks = query_pictures.paint_masks(found.query_map, colors(mask_features))
  return query_figures.FeatureRow(
      image, np.rint(255 * pixels).astype(np.uint8), masks,
      draw.overlay(image, panoptic_map, info, alpha=0.7))


def training_curves(folder: str, model_dir: Optional[str], numbers: dict[str, Any]) -> Section:
  """Plots the training curves (figure 4).

  Args:
    folder: Output folder.
    model_dir: Model directory with event files, or None.
    numbers: Dictionary to which an entry `curves` is added.
  """
  title = 'Training curves'
  found = event_curves.read(model_dir) if model_dir is not None else {}
  numbers['curves'] = {tag: {'steps': list(points), 'values': list(points.values())}
                       for tag, points in found.items()}
  panels = []
  for panel in event_curves.PANELS:
    lines = {name: found[tag] for name, tag in panel.tags.items() if tag in found}
    if lines:
      panels.append(query_figures.Panel(panel.title, lines))
  if not panels:
    return Section(title, '', (), [
        'Left out: there are no TensorBoard event files with these curves. Give the model '
        'directory of the training with --model_dir.'])
  path = os.path.join(folder, 'training_curves.png')
  query_figures.training_curves(path, panels)
  shown = {panel.title for panel in panels}
  missing = [panel.title for panel in event_curves.PANELS if panel.title not in shown]
  notices = [f'Not in the event files: {", ".join(missing)}.'] if missing else []
  return Section(
      title,
      '*Validation PQ*; for the masks that are matched to ground truth, the *class confidence* '
      '(the probability of the correct class) and the *dice* coefficient of mask and ground truth; '
      'the fraction of pixels that are nearest to their own instance (*instance discrimination*) '
      'and that predict their own mask (*mask-ID*). Matched class confidence and dice are the two '
      'factors of the PQ-style similarity that training maximizes. Faint lines are logged means '
      'over a few training steps, strong lines are running means. (Figure 4)',
      [(path, '')], notices)

