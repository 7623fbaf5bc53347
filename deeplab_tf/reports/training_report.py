"""The HTML report of a training: scores, curves and example images."""

import html
import math
import os
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page, page_style

Series = Sequence[Tuple[int, float]]
# Maximum number of points of a curve; more are not visible.
_MOST_POINTS = 400


def write(path: str, title: str, *, summary: Mapping[str, Any],
          curves: Mapping[str, Series], scores: Mapping[str, Any],
          class_names: Mapping[int, str], gallery: Sequence[Mapping[str, Any]]) -> None:
  """Writes the page, atomically; every part may be empty.

  Args:
    path: Path of the HTML file.
    title: Title, e.g. the name of the config.
    summary: Facts about the run by name (steps, time, parameters, ...), shown in order.
    curves: Name -> (step, value) pairs. Names with a common part before the last '/', and names
      that end in 'loss', share a plot.
    scores: Return value of PanopticQuality.result(); may be empty.
    class_names: Category id -> name.
    gallery: One entry per image, e.g. from `page.gallery_item`: name; image, ground_truth,
      prediction and optionally error, each uint8 [height, width, 3]; optionally score in [0, 1].
  """
  parts = [
      page.header(title, summary, scores),
      _curves_section(curves),
      _scores_section(scores, class_names),
      _gallery_section(gallery),
  ]
  page.write_page(path, title, parts)


def read_curves(model_dir: str) -> dict[str, list[tuple[int, float]]]:
  """Reads the curves for `write` from the TensorBoard logs of a training.

  Returns:
    Tag -> (step, value) pairs; tags of the evaluation begin with "validation/". Counts, parts of
    PQ and statistics of the machine are left out, since they would clutter the plots.
  """
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
  from tensorboard.util import tensor_util
  curves = {}
  for part, prefix in (('train', ''), ('eval', 'validation/')):
    events = EventAccumulator(os.path.join(model_dir, part), size_guidance={'tensors': 0})
    events.Reload()
    for tag in events.Tags()['tensors']:
      points = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
      if points and points[0][1].shape == () and points[0][1].dtype.kind == 'f':
        curves[prefix + (tag.replace('/', ' ') if prefix else tag)] = [
            (step, float(value)) for step, value in points]
  return {name: points for name, points in curves.items()
          if not name.endswith((' n', ' sq', ' rq', 'matched_masks'))
          and not name.startswith(('losses_unweighted/', 'memory/', 'weight_norm', 'loss_scale',
                                   'skipped_steps'))}


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
          '<th class="score">RQ</th><th title="true positives: matched segments">TP</th>'
          '<th title="false positives: predictions without a match">FP</th>'
          '<th title="false negatives: ground truth without a match">FN</th></tr>')
  return ('<section><h2>Scores</h2><div class="scroll"><table>'
          f'<thead>{head}</thead><tbody class="groups">{"".join(rows)}</tbody>'
          f'<tbody>{"".join(per_class)}</tbody></table></div></section>')


def _score_cells(values: Mapping[str, Any]) -> str:
  cells = []
  for key in ('pq', 'sq', 'rq'):
    value = values[key]
    width = 0 if value is None else 100 * min(max(value, 0), 1)
    cells.append(f'<td class="score {key}"><span class="value">{percent(value)}</span>'
                 f'<span class="bar"><span style="width:{width:.1f}%"></span></span></td>')
  return ''.join(cells)


def _gallery_section(gallery: Sequence[Mapping[str, Any]]) -> str:
  if not gallery:
    return ''
  legend = page.error_legend() if any(entry.get('error') is not None for entry in gallery) else ''
  articles = ''.join(map(page.gallery_article, gallery))
  return f'<section><h2>Pictures</h2>{legend}{articles}</section>'


def _curves_section(curves: Mapping[str, Series]) -> str:
  plots = []
  for group, series in _groups(curves).items():
    plots.append(f'<figure class="plot"><figcaption>{html.escape(group)}</figcaption>'
                 f'{_plot(group, series)}</figure>')
  if not plots:
    return ''
  return f'<section><h2>Training</h2><div class="plots">{"".join(plots)}</div></section>'


def _groups(curves: Mapping[str, Series]) -> Dict[str, Dict[str, Series]]:
  """Groups curves into plots: name of the plot -> name of the line -> points."""
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
  """Plots lines over training steps."""
  from matplotlib import ticker

  def draw_lines(figure: Any) -> None:
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(series.items()):
      steps, values = zip(*_thinned(points))
      axes.plot(steps, values, label=name, linewidth=1.8, solid_capstyle='round',
                color=page_style.LINES[index % len(page_style.LINES)],
                linestyle=('-', '--', ':')[index // len(page_style.LINES) % 3],
                marker='o' if len(points) <= 20 else None, markersize=3.5)
    values = [value for points in series.values() for _, value in points]
    if min(values) > 0 and max(values) > 100 * min(values):
      axes.set_yscale('log')
    elif min(values) >= 0 and 0.05 < max(values) <= 1:
      axes.set_ylim(0, 1)
    page.style_axes(axes, 'both')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    axes.set_xlabel('step')
    if len(series) > 1:
      figure.legend(loc='outside lower center', ncols=2, frameon=False,
                    labelcolor=page_style.INK, fontsize=9, handlelength=1.4)

  return page.svg_plot(group, (5.2, 2.9), draw_lines)


def _thinned(points: Series) -> List[Tuple[int, float]]:
  """Averages neighboring points to at most _MOST_POINTS; the last point is kept."""
  count = math.ceil(len(points) / _MOST_POINTS)
  if count <= 1:
    return list(points)
  chunks = [points[start:start + count] for start in range(0, len(points), count)]
  thinned = [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]
  return thinned[:-1] + [(points[-1][0], float(points[-1][1]))]
