"""The HTML page of an evaluation of semantic maps: mean IoU by class, confusion and image."""

import html
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence

import numpy as np

from deeplab_tf.metrics import mean_iou
from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import evaluation_figures as figures
from deeplab_tf.reports.evaluation import evaluation_parts as parts
from deeplab_tf.visualization import draw

# Explanations of mean_iou.SCORES, whose names are those of the table in the terminal.
_NOTES = {
    'miou': 'averaged over the classes in the ground truth',
    'miou_union': 'averaged over the classes in ground truth or prediction',
    'miou_detectron2': 'averaged over the classes in the ground truth, without the pixels '
                       'predicted as no class',
    'fwiou': 'IoU of the classes weighted by their ground truth pixels',
    'mean_accuracy': 'correct fraction of each class, averaged over the classes',
    'pixel_accuracy': 'correct fraction of all pixels',
}
# The parts of the union of a class.
_PIECES = (('IoU', figures.FOUND), ('false negatives', figures.MISSED),
           ('false positives', figures.INVENTED))
# There are no instances.
_LEGEND = {name: color for name, color in draw.ERROR_COLORS.items() if name != 'wrong instance'}


class Content(NamedTuple):
  """Content of the page.

  Attributes:
    facts: Facts about the files, by name.
    metric: MeanIoU of all images.
    class_names: Class id -> name.
    confusion: A metrics.confusion.Confusion.
    pairs: Return value of metrics.confusion.pairs.
    image_miou: Mean IoU of the images that have any scored pixel, in [0, 1].
    worst: Entries of page.gallery_article, which may be generated lazily; may be empty.
    best: Entries of page.gallery_article, likewise.
    table: Name of the file with the scores of all images, in the folder of the page.
    notices: Messages at the top of the page.
  """
  facts: Mapping[str, Any]
  metric: mean_iou.MeanIoU
  class_names: Mapping[int, str]
  confusion: Any
  pairs: Sequence[Mapping[str, Any]]
  image_miou: Sequence[float]
  worst: Iterable[Mapping[str, Any]]
  best: Iterable[Mapping[str, Any]]
  table: str
  notices: Sequence[str] = ()


def write(path: str, content: Content) -> None:
  """Writes the page, atomically.

  Args:
    path: Path of the HTML file.
    content: Content of the page.
  """
  result = content.metric.result()
  header = parts.tiles([(title, result[name], _NOTES[name])
                        for name, title in mean_iou.SCORES.items()]) + page.facts(content.facts)
  legend = f' Colors of the error maps:</p>{page.error_legend(_LEGEND)}'
  parts.write(path, 'Semantic segmentation in detail', header, {
      'classes': ('Classes', _classes(content, result['per_class'])),
      'confusion': ('Confusion', _confusion(content)),
      'images': ('Images', _images(content)),
      'pictures': ('Pictures', parts.galleries(content.worst, content.best, 'mIoU', legend)),
  }, content.notices)


def class_counts(metric: mean_iou.MeanIoU) -> Dict[int, Dict[str, int]]:
  """Returns class id -> numbers of pixels: tp, fn, fp, and their sum, the union.

  Args:
    metric: Metric that has counted all images.
  """
  found = np.diagonal(metric.confusion)
  missed = metric.confusion.sum(axis=1) - found
  invented = metric.confusion[:, :-1].sum(axis=0) - found
  return {class_id: {'tp': int(tp), 'fn': int(fn), 'fp': int(fp), 'union': int(tp + fn + fp)}
          for class_id, tp, fn, fp in zip(metric.class_ids, found, missed, invented)}


def _classes(content: Content, ious: Mapping[int, Any]) -> str:
  counts = class_counts(content.metric)
  pixels = max(1, int(content.metric.confusion.sum()))
  ordered = sorted((class_id for class_id in ious if ious[class_id] is not None),
                   key=lambda class_id: (-ious[class_id], content.class_names[class_id]))
  if not ordered:
    return parts.section('classes', 'IoU by class',
                         '<p class="notice">No pixel of any class.</p>')
  rows = [_class_row(content.class_names[class_id], counts[class_id], pixels)
          for class_id in ordered]
  absent = len(ious) - len(ordered)
  words = '' if not absent else (
      f' {absent} of the {len(ious)} classes {"is" if absent == 1 else "are"} in neither ground '
      'truth nor prediction and left out.')
  table = parts.sortable_table(
      ('class', 'IoU', 'correct, false negatives, false positives',
       ('accuracy', 'fraction of the ground truth pixels that is correct'),
       ('precision', 'fraction of the predicted pixels that is correct'),
       ('share', 'fraction of all ground truth pixels')), rows, 'scored classes', 'IoU', 2)
  legend = ''.join(f'<li>{parts.key(color)}{name}</li>' for name, color in _PIECES)
  return parts.section('classes', 'IoU by class', parts.reading(
      f'Click on a column header to sort.{words} The bar is the union of a class: its pixels in '
      'ground truth or prediction. Accuracy is the correct fraction of its ground truth pixels, '
      'precision that of its predicted pixels, and share its fraction of all ground truth pixels.')
                       + f'<ul class="legend">{legend}</ul>{table}')


def _class_row(name: str, counts: Mapping[str, int], pixels: int) -> str:
  union, found = counts['union'], counts['tp']
  in_truth, predicted = found + counts['fn'], found + counts['fp']
  shares = [counts[key] / union for key in ('tp', 'fn', 'fp')]
  words = ', '.join(f'{title} {percent(share)}' for (title, _), share in zip(_PIECES, shares))
  stack = parts.bar([('', share, color) for (_, color), share in zip(_PIECES, shares)], words)
  scores = [percent(part / whole if whole else None)
            for part, whole in ((found, in_truth), (found, predicted), (in_truth, pixels))]
  cells = ''.join(f'<td>{score}</td>' for score in scores)
  return (f'<tr>{parts.row_head(name)}<td class="main">{percent(found / union)}</td>'
          f'<td class="wide">{stack}</td>{cells}</tr>')


def _confusion(content: Content) -> str:
  return parts.section('confusion', 'Confusion of classes', parts.beside(
      parts.heat_map(content.confusion, content.class_names), _pairs(content)))


def _pairs(content: Content) -> str:
  if not content.pairs:
    return ''
  table = parts.confused_pairs(content.pairs, content.class_names, {
      'pixels': lambda pair: f'{pair["pixels"]:,}',
      'share, %': lambda pair: percent(pair['share'])})
  return '<h3>Pairs with the most pixels</h3>' + parts.reading(
      'The share is relative to all pixels of the ground truth class.') + table


def _images(content: Content) -> str:
  plots: List[str] = []
  if len(content.image_miou):
    plots.append(parts.plot('mIoU of images',
                            figures.image_histogram(content.image_miou, 'mIoU')))
  link = html.escape(content.table)
  return parts.section('images', 'Images', parts.reading(
      'The mIoU of an image is averaged over the classes in its ground truth, so the mean over '
      f'images is not the mIoU of the dataset. All images with their scores: <a href="{link}">'
      f'{link}</a>.') + parts.plots(plots))
