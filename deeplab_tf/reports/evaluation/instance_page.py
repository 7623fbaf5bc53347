"""The HTML page of an evaluation of instances: AP by IoU, class and size, and kinds of errors."""

import html
from typing import Any, Iterable, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.metrics import instance_survey
from deeplab_tf.metrics.instance_average_precision import SIZES, Curves
from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import evaluation_figures as figures
from deeplab_tf.reports.evaluation import evaluation_parts as parts
from deeplab_tf.reports.evaluation import instance_figures
from deeplab_tf.reports.evaluation.instance_pictures import NAMES
from deeplab_tf.visualization import instances

_TILES = (('AP', 'mean over the IoU thresholds 0.50 to 0.95'), ('AP50', 'at an IoU of 0.50'),
          ('AP75', 'at an IoU of 0.75'), ('APs', 'areas up to 32² pixels'),
          ('APm', 'areas from 32² to 96² pixels'), ('APl', 'areas from 96² pixels'))
_RECALLS = ('AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
_SCORES = ('AP50', 'AP75', 'APs', 'APm', 'APl', 'AR100')
_EXPLAINED = {
    'correct': 'matched as in COCOeval',
    'duplicate': 'the annotation is matched by a prediction with a higher score',
    'wrong_class': 'an IoU of 0.5 or more with an annotation of another class',
    'imprecise': 'an IoU of 0.1 to 0.5 with an annotation of the class',
    'invented': 'an IoU below 0.1 with each annotation of the class, and below 0.5 with those of '
                'other classes',
}


class Content(NamedTuple):
  """Content of the page.

  Attributes:
    title: Title of the page.
    facts: Facts about the files, by name.
    figures: COCO's twelve scores by name, in [0, 1]; -1 where there are no annotations.
    curves: AP by IoU, and precision by recall.
    survey: InstanceSurvey of all images.
    class_names: Category id -> name.
    worst, best: Entries of page.gallery_article, which may be generated lazily; may be empty.
    false_positives, false_negatives: Entries, likewise.
    table: Name of the file with the scores of all images, in the folder of the page.
    notices: Messages at the top of the page.
  """
  title: str
  facts: Mapping[str, Any]
  figures: Mapping[str, float]
  curves: Curves
  survey: instance_survey.InstanceSurvey
  class_names: Mapping[int, str]
  worst: Iterable[Mapping[str, Any]]
  best: Iterable[Mapping[str, Any]]
  false_positives: Iterable[Mapping[str, Any]]
  false_negatives: Iterable[Mapping[str, Any]]
  table: str
  notices: Sequence[str] = ()


def write(path: str, content: Content) -> None:
  """Writes the page, atomically.

  Args:
    path: Path of the HTML file.
    content: Content of the page.
  """
  legend = f' Colors of the error maps:</p>{page.error_legend(instances.ERROR_COLORS)}'
  parts.write(path, content.title, _header(content), {
      'iou': ('IoU and recall', _curves(content)),
      'classes': ('Classes', _classes(content)),
      'errors': ('Errors', _errors(content)),
      'sizes': ('Sizes', _sizes(content)),
      'images': ('Images', _images(content)),
      'false_positives': ('False positives', _findings(
          'false_positives', 'False positives with the highest scores',
          'The prediction alone, next to all annotations.', content.false_positives)),
      'false_negatives': ('False negatives', _findings(
          'false_negatives', 'Largest false negatives',
          'The annotation alone, next to the predictions with a score of '
          f'{instance_survey.CONFIDENT:g} or more.', content.false_negatives)),
      'pictures': ('Pictures', parts.galleries(content.worst, content.best, 'AP', legend)),
  }, content.notices)


def _header(content: Content) -> str:
  scores = {name: _score(value) for name, value in content.figures.items()}
  recalls = ''.join(f'<td>{percent(scores[name])}</td>' for name in _RECALLS)
  return (parts.tiles([(name, scores[name], note) for name, note in _TILES])
          + parts.plain_table(('', *_RECALLS),
                              [f'<tr>{parts.row_head("average recall")}{recalls}</tr>'],
                              'plain recalls') + page.facts(content.facts))


def _score(value: float) -> Optional[float]:
  return value if value >= 0 else None


def _curves(content: Content) -> str:
  curves = content.curves
  if all(value is None for value in curves.by_size['all']):
    return parts.section('iou', 'AP by IoU', '<p class="notice">No annotations.</p>')
  rows = [parts.row(name, [percent(value) for value in curves.by_size[name]]) for name in SIZES]
  table = parts.plain_table(('', *(f'{each:.2f}' for each in curves.thresholds)), rows)
  return parts.section('iou', 'AP by IoU, precision by recall', parts.reading(
      'AP is the mean of the left curve of all sizes. The right curves are averaged over the '
      'classes with annotations; the area under them is AP50 and AP75.') + parts.plots([
          parts.plot('AP by IoU and size',
                     instance_figures.ap_by_iou(curves.thresholds, curves.by_size)),
          parts.plot('Precision by recall', instance_figures.precision_recall(
              curves.recalls, curves.precision))])
                       + parts.details('Table of AP by IoU', table))


# --- Classes ----------------------------------------------------------------------------------


def _classes(content: Content) -> str:
  per_class, survey = content.curves.per_class, content.survey
  known = [index for index, category in enumerate(survey.category_ids)
           if per_class[category]['AP'] is not None]
  known.sort(key=lambda index: (-per_class[survey.category_ids[index]]['AP'],
                                content.class_names[survey.category_ids[index]]))
  if not known:
    return parts.section('classes', 'AP by class',
                         '<p class="notice">No annotations of any class.</p>')
  rows = []
  for index in known:
    category = survey.category_ids[index]
    scores = per_class[category]
    stack = parts.bar([('thing', scores['AP'], '')], f'AP {percent(scores["AP"])}')
    cells = ''.join(f'<td>{percent(scores[name])}</td>' for name in _SCORES)
    counts = ''.join(f'<td class="count">{number:,}</td>' for number in (
        survey.truths[index].sum(), survey.missed[index].sum(), survey.detections[index].sum()))
    rows.append(f'<tr>{parts.row_head(content.class_names[category])}<td class="main">'
                f'{percent(scores["AP"])}</td><td class="wide">{stack}</td>{cells}{counts}</tr>')
  absent = len(survey.category_ids) - len(known)
  words = '' if not absent else (
      f' {absent} of the {len(survey.category_ids)} classes '
      f'{"is" if absent == 1 else "are"} not in the ground truth and left out.')
  table = parts.sortable_table(
      ('class', 'AP', 'of 100', *_SCORES, ('annotations', 'without crowds'),
       ('missed', 'annotations without a match at an IoU of 0.5'), 'predictions'),
      rows, 'scored classes', 'AP', 2)
  return parts.section('classes', 'AP by class', parts.reading(
      f'Click on a column header to sort.{words} Missed: annotations that no prediction matches '
      'at an IoU of 0.5, whatever its score.') + table)


# --- Errors -----------------------------------------------------------------------------------


def _errors(content: Content) -> str:
  survey = content.survey
  counts = dict(zip(instance_survey.KINDS, survey.detections.sum(axis=0).tolist()))
  if not survey.detections.any():
    return parts.section('errors', 'Kinds of errors',
                         '<p class="notice">No predictions.</p>')
  first = round(instance_survey.CONFIDENT * instance_survey.SCORE_BINS)
  totals = [max(1, sum(sum(numbers[start:]) for numbers in counts.values()))
            for start in (0, first)]
  rows = []
  for kind, numbers in counts.items():
    cells = ''.join(f'<td>{sum(numbers[start:]):,}</td><td>'
                    f'{percent(sum(numbers[start:]) / total)}</td>'
                    for start, total in zip((0, first), totals))
    rows.append(f'<tr><th scope="row">{parts.key(instance_figures.KIND_COLORS[kind])}'
                f'{NAMES[kind]}</th><td class="as">{_EXPLAINED[kind]}</td>{cells}</tr>')
  bound = f'score ≥ {instance_survey.CONFIDENT:g}'
  table = parts.plain_table(('kind', 'at an IoU of 0.5', 'all', '%', bound, '%'), rows, 'kinds')
  svg = instance_figures.kinds_by_score(counts, NAMES)
  return parts.section('errors', 'Kinds of errors', parts.reading(
      'The predictions that COCOeval counts, the 100 with the highest scores of each image and '
      'class, by the first kind that applies. Predictions that match a crowd are left out.')
                       + table + '<div class="gap"></div>' + parts.beside(
                           parts.plot('Predictions by score', svg), _mistaken(content)))


def _mistaken(content: Content) -> str:
  pairs = content.survey.mistaken_pairs()
  bound = f'with a score of {instance_survey.CONFIDENT:g} or more'
  if not pairs:
    return f'<p class="notice">No classification errors {bound}.</p>'
  return f'<h3>Classification errors {bound}</h3>' + parts.confused_pairs(
      pairs, content.class_names, {'predictions': lambda pair: f'{pair["segments"]:,}'})


# --- Sizes and images -------------------------------------------------------------------------


def _sizes(content: Content) -> str:
  truths, missed = (getattr(content.survey, name).sum(axis=0).tolist()
                    for name in ('truths', 'missed'))
  if not any(truths):
    return ''
  rows = []
  for index, name in enumerate(SIZES[1:]):
    score = _score(content.figures[f'AP{name[0]}'])
    cells = [percent(score), percent(_score(content.figures[f'AR{name[0]}'])),
             f'{truths[index]:,}', f'{missed[index]:,}',
             percent(missed[index] / truths[index] if truths[index] else None)]
    rows.append(parts.row(name, cells))
  table = parts.plain_table(('size', 'AP', 'AR', 'annotations', 'false negatives', '%'), rows)
  svg = instance_figures.truths_by_size(SIZES[1:], truths, missed)
  return parts.section('sizes', 'Size of instances', parts.reading(
      'Small, medium and large as in COCO: areas up to 32² and 96² pixels. False negatives: '
      'annotations that no prediction matches at an IoU of 0.5, whatever its score.')
                       + parts.beside(parts.plot('Annotations by size', svg), table))


def _images(content: Content) -> str:
  scores = [ap for ap in content.survey.image_ap if not np.isnan(ap)]
  plots: List[str] = []
  if scores:
    plots.append(parts.plot('AP of images', figures.image_histogram(scores, 'AP')))
  link = html.escape(content.table)
  return parts.section('images', 'Images', parts.reading(
      'The AP of an image is that of the image alone, averaged over the classes in it, so the mean '
      f'over images is not the AP of the dataset. All images with their scores: <a href="{link}">'
      f'{link}</a>.') + parts.plots(plots))


def _findings(anchor: str, title: str, explanation: str,
              entries: Iterable[Mapping[str, Any]]) -> str:
  articles = ''.join(page.gallery_article(entry) for entry in entries)
  return parts.section(anchor, title, parts.reading(
      f'{explanation} Click to enlarge.') + articles) if articles else ''
