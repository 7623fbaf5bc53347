"""The HTML page of an evaluation: PQ by class, size, confusion and image."""

import html
from typing import Any, Iterable, List, Mapping, NamedTuple, Sequence

from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import evaluation_figures as figures
from deeplab_tf.reports.evaluation import evaluation_parts as parts

# The parts of 1 - PQ, in the order of the bars: key, text on the page, color.
_LOSSES = (('imprecise', 'localization errors', figures.IMPRECISE),
           ('wrong_class', 'classification errors', figures.WRONG_CLASS),
           ('missed', 'false negatives', figures.MISSED),
           ('invented', 'false positives', figures.INVENTED))


class Content(NamedTuple):
  """Content of the page.

  Attributes:
    title: Title of the page.
    facts: Facts about the files, by name.
    result: Return value of SegmentSurvey.result().
    size_limits: Inner limits of the size bins, area in pixels.
    class_names: Category id -> name.
    thing_ids: Category ids of the thing classes.
    confusion: A Confusion, see SegmentSurvey.confusion.
    image_pq: PQ of the images that have any segment, in [0, 1].
    iou_histogram: Number of matches per bin of IoU, from 0.5 to 1.
    worst: Entries of page.gallery_article, which may be generated lazily; may be empty.
    best: Entries of page.gallery_article, likewise.
    table: Name of the file with the scores of all images, in the folder of the page.
    notices: Messages at the top of the page.
  """
  title: str
  facts: Mapping[str, Any]
  result: Mapping[str, Any]
  size_limits: Sequence[float]
  class_names: Mapping[int, str]
  thing_ids: Sequence[int]
  confusion: Any
  image_pq: Sequence[float]
  iou_histogram: Sequence[int]
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
  parts.write(path, content.title, _header(content), {
      'classes': ('Classes', _classes(content)), 'sizes': ('Sizes', _sizes(content)),
      'confusion': ('Confusion', _confusion(content)),
      'images': ('Images and masks', _distributions(content)),
      'pictures': ('Pictures', _galleries(content))}, content.notices)


def _header(content: Content) -> str:
  cards = ''.join(_card(name, content.result) for name in ('All', 'Things', 'Stuff'))
  return (f'<div class="cards">{cards}</div><p class="reading">The bars show the PQ and '
          'what each type of error costs; together they are 100. <b>Localization errors</b>: '
          'matched, but with an IoU below 1. <b>Classification errors</b>: a false negative and a '
          'false positive of another class in the same place. <b>False negatives</b> and '
          f'<b>false positives</b>: all others.</p>{page.facts(content.facts)}')


def _card(name: str, result: Mapping[str, Any]) -> str:
  """Returns the HTML of the card of a group of classes."""
  scores = result[name]
  values = ''.join(
      f'<span class="{key}" title="{title}"><b>{percent(scores[key])}</b> {key.upper()}</span>'
      for key, title in (('pq', 'panoptic quality: SQ x RQ of each class, averaged'),
                         ('sq', 'segmentation quality: mean IoU of the matched segments'),
                         ('rq', 'recognition quality: F1 score of the segments')))
  classes = {0: 'no classes', 1: '1 class'}.get(scores['n'], f'{scores["n"]} classes')
  kinds = {'things': result['Things'], 'stuff': result['Stuff']}
  # The average over all classes is the average of things and stuff, weighted by their numbers.
  shares = {kind: group['pq'] * group['n'] / scores['n'] for kind, group in kinds.items()
            if group['n'] and name.lower() in ('all', kind)}
  bar = '' if scores['pq'] is None else _bar(shares, scores) + _loss_words(scores)
  return (f'<div class="card"><h2>{name}<small>{classes}</small></h2>'
          f'<div class="trio">{values}</div>{bar}</div>')


def _loss_words(scores: Mapping[str, Any]) -> str:
  words = ''.join(f'<div><dt>{parts.key(color)}{name}</dt><dd>{percent(scores["losses"][key])}</dd>'
                  '</div>' for key, name, color in _LOSSES)
  return f'<dl class="losses">{words}</dl>'


def _legend() -> str:
  keys = ''.join(f'<li>{parts.key(color)}{name}</li>'
                 for name, color in (('PQ of things', figures.THINGS),
                                     ('PQ of stuff', figures.STUFF),
                                     *((name, color) for _, name, color in _LOSSES)))
  return f'<ul class="legend">{keys}</ul>'


def _bar(shares: Mapping[str, float], scores: Mapping[str, Any]) -> str:
  """Returns the HTML of a stacked bar of PQ, by kind of class, and losses; their sum is 100."""
  pieces = [(kind, value, '') for kind, value in shares.items()]
  pieces += [('', scores['losses'][key], color) for key, _, color in _LOSSES]
  return parts.bar(pieces, ', '.join([f'PQ {percent(scores["pq"])}', *(
      f'{name} {percent(scores["losses"][key])}' for key, name, _ in _LOSSES)]))


# --- Classes ----------------------------------------------------------------------------------


def _classes(content: Content) -> str:
  per_class = content.result['per_class']
  things = set(content.thing_ids)
  ordered = sorted(per_class, key=lambda category: (-per_class[category]['pq'],
                                                    content.class_names[category]))
  rows = []
  for category in ordered:
    scores = per_class[category]
    kind = 'thing' if category in things else 'stuff'
    cells = ''.join(f'<td>{percent(scores[key])}</td>' for key in ('sq', 'rq'))
    counts = ''.join(f'<td class="count">{scores[key]:,}</td>' for key in ('tp', 'fp', 'fn'))
    rows.append(f'<tr><th scope="row">{html.escape(content.class_names[category])}</th>'
                f'<td class="kind {kind}">{kind}</td><td class="main">{percent(scores["pq"])}'
                f'</td><td class="wide">{_bar({kind: scores["pq"]}, scores)}</td>'
                f'{cells}{counts}</tr>')
  absent = len(content.class_names) - len(per_class)
  words = '' if not absent else (
      f' {absent} of the {len(content.class_names)} classes '
      f'{"is" if absent == 1 else "are"} in neither ground truth nor prediction and left out.')
  table = parts.sortable_table(
      ('class', 'kind', 'PQ', 'PQ and losses', 'SQ', 'RQ', ('TP', 'matched segments'),
       ('FP', 'predictions without a match'), ('FN', 'ground truth without a match')), rows,
      'classes', unsorted=3)
  body = (f'<p class="reading">Click on a column header to sort.{words} TP: matched segments. FP: '
          f'predictions without a match. FN: ground truth segments without a match.</p>{_legend()}'
          f'{table}') if rows else '<p class="notice">No segment of any class.</p>'
  return f'<section id="classes"><h2>PQ by class</h2>{body}</section>'


# --- Sizes ------------------------------------------------------------------------------------


def _sizes(content: Content) -> str:
  sizes, limits = content.result['sizes'], content.size_limits
  total = sizes['All']
  if not any(total['tp'] + total['fp'] + total['fn']):
    return ''
  plots = (('PQ of all segments of a size',
            figures.quality_by_size(limits, {name: sizes[name]['pq']
                                             for name in ('Things', 'Stuff')})),
           ('Number of segments',
            figures.segments_by_size(limits, total['tp'], total['fn'], total['fp'])))
  rows = []
  for index, name in enumerate(figures.size_names(limits)):
    scores = [percent(sizes[group][key][index]) for group, key in (
        ('All', 'pq'), ('All', 'sq'), ('All', 'rq'), ('Things', 'pq'), ('Stuff', 'pq'))]
    counts = [f'{total[key][index]:,}' for key in ('tp', 'fp', 'fn')]
    rows.append(f'<tr><th scope="row">{html.escape(name)}</th>'
                + ''.join(f'<td>{value}</td>' for value in scores)
                + ''.join(f'<td class="count">{value}</td>' for value in counts) + '</tr>')
  table = parts.plain_table(('side, pixels', 'PQ', 'SQ', 'RQ', 'PQ things', 'PQ stuff', 'TP',
                             'FP', 'FN'), rows)
  return ('<section id="sizes"><h2>PQ by size of segment</h2><p class="reading">Segments of '
          'all classes are pooled, so these PQs are not averages over classes. True positives and '
          'false negatives are counted at the size of the ground truth, false positives at their '
          'own size; PQ is 0 for sizes at which no segment matched. Small, medium and large are '
          'defined as in COCO: areas up to 32² and 96² pixels.</p>'
          f'<div class="plots">{"".join(parts.plot(*plot) for plot in plots)}</div>'
          f'<details><summary>Table of these numbers</summary>{table}</details></section>')


# --- Confusion --------------------------------------------------------------------------------


def _confusion(content: Content) -> str:
  return parts.section('confusion', 'Confusion of classes', parts.beside(
      parts.heat_map(content.confusion, content.class_names), _mistaken(content)))


def _mistaken(content: Content) -> str:
  pairs = content.result['mistaken']
  if not pairs:
    return ('<h3>By segments</h3><p class="notice">No false negative has a prediction of '
            'another class in the same place, with an IoU above 0.5.</p>')
  total = sum(pair['segments'] for pair in pairs)
  table = parts.confused_pairs(pairs, content.class_names, {
      'segments': lambda pair: f'{pair["segments"]:,}',
      'share, %': lambda pair: percent(pair['share'])})
  noun = 'false negative has' if total == 1 else 'false negatives have'
  return (f'<h3>By segments</h3><p class="reading">{total:,} {noun} a prediction of another class '
          'in the same place, with an IoU above 0.5. The share is relative to all segments of the '
          f'ground truth class.</p>{table}')


# --- Images -----------------------------------------------------------------------------------


def _distributions(content: Content) -> str:
  plots: List[str] = []
  if len(content.image_pq):
    plots.append(parts.plot('PQ of images', figures.image_histogram(content.image_pq)))
  if any(content.iou_histogram):
    plots.append(parts.plot('IoU of matched segments',
                            figures.iou_histogram(content.iou_histogram)))
  link = html.escape(content.table)
  return ('<section id="images"><h2>Images and masks</h2><p class="reading">The PQ of an image is '
          'averaged over the classes in it, so the mean over images is not the PQ of the dataset. '
          f'All images with their scores: <a href="{link}">{link}</a>.</p>'
          f'<div class="plots">{"".join(plots)}</div></section>')


def _galleries(content: Content) -> str:
  return parts.galleries(content.worst, content.best, 'PQ',
                         f' Colors of the error maps:</p>{page.error_legend()}')
