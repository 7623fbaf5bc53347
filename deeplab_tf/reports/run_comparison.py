"""Compares trainings by the scores in their model directories: curves and a table."""

import pathlib
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.reports import event_files, page_style, png_figures
from deeplab_tf.training.reporting import summaries
from deeplab_tf.user_errors import DataError

# Tag of a score -> title of its panel.
SCORES = {'All/pq': 'all classes', 'Things/pq': 'things', 'Stuff/pq': 'stuff'}
MAIN = 'All/pq'
# A scalar that training writes at each step that has summaries.
_TRAINED = 'losses/total'
MOST_RUNS = len(page_style.LINES)


class Run(NamedTuple):
  """Curves of one model directory.

  Attributes:
    name: Name in the legend.
    scores: Tag of SCORES -> {step: value in [0, 1]}, with ascending steps.
    minutes: Step of a score -> minutes of training and evaluation up to it. Pauses between a stop
      and a restart do not count.
    seconds_per_step: Median over the steps between two summaries; None if there are too few.
  """
  name: str
  scores: dict[str, dict[int, float]]
  minutes: dict[int, float]
  seconds_per_step: Optional[float]


def read(model_dir: str, name: str = '') -> Run:
  """Reads the curves of a model directory.

  Args:
    model_dir: A model directory of trainer/train.py.
    name: Name in the legend; by default that of the folder.

  Raises:
    DataError: The directory has no scores.
  """
  folder = pathlib.Path(model_dir)
  if not folder.is_dir():
    raise DataError(f'{model_dir}: is no folder; give a --model_dir of trainer/train.py')
  found = event_files.read(folder / summaries.EVAL, SCORES)
  if MAIN not in found:
    raise DataError(f'{model_dir}: has no panoptic quality in TensorBoard files below '
                    f'{summaries.EVAL}; train with --mode=train_and_eval, or run --mode=eval')
  times = {step: point.time for step, point in found[MAIN].items()}
  trained = event_files.read(folder / summaries.TRAIN, [_TRAINED]).get(_TRAINED, {})
  return Run(name or folder.resolve().name,
             {tag: {step: point.value for step, point in points.items()}
              for tag, points in found.items()},
             _minutes(folder, times), _seconds_per_step(trained))


def _minutes(folder: pathlib.Path, times: dict[int, float]) -> dict[int, float]:
  """Returns minutes that training took up to each time; see Run."""
  written = {run: [[event.wall_time for event in event_files.events(path)]
                   for path in event_files.files_in(folder / run)]
             for run in (summaries.TRAIN, summaries.EVAL)}
  starts = [of_file[0] for of_file in written[summaries.TRAIN] if of_file]
  if not starts:
    return {}
  # The file of an evaluation may have been created later than that of training.
  known = np.unique([*sum(written[summaries.TRAIN], []), *sum(written[summaries.EVAL], [])])
  # No time passes from the last event before a start to the start.
  passed = np.where(np.isin(known[1:], starts), 0.0, np.diff(known))
  total = np.concatenate([[0.0], np.cumsum(passed)]) / 60
  return {step: float(total[np.searchsorted(known, time)]) for step, time in times.items()}


def _seconds_per_step(trained: dict[int, event_files.Point]) -> Optional[float]:
  steps = np.array(list(trained))
  times = np.array([point.time for point in trained.values()])
  return float(np.median(np.diff(times) / np.diff(steps))) if len(steps) > 2 else None


def table(runs: Sequence[Run]) -> str:
  """Returns a line for each run: its last step, minutes, seconds per step, and PQ in percent."""
  width = max(len('run'), *(len(run.name) for run in runs))
  lines = [f'{"run":<{width}}{"steps":>9}{"minutes":>9}{"s/step":>8}{"PQ":>7}{"things":>8}'
           f'{"stuff":>7}{"best PQ":>9}']
  for run in runs:
    last = max(run.scores[MAIN])
    scores = [run.scores.get(tag, {}).get(last) for tag in SCORES]
    cells = [f'{last:>9,}', _cell(run.minutes.get(last), 9), _cell(run.seconds_per_step, 8, 2),
             *(_cell(value and 100 * value, width) for value, width in zip(scores, (7, 8, 7))),
             _cell(100 * max(run.scores[MAIN].values()), 9)]
    lines.append(f'{run.name:<{width}}' + ''.join(cells))
  return '\n'.join(lines)


def _cell(value: Optional[float], width: int, digits: int = 1) -> str:
  return f'{"-" if value is None else f"{value:.{digits}f}":>{width}}'


def draw(path: str, runs: Sequence[Run], over_steps: bool = False) -> None:
  """Draws the scores of runs over minutes or steps, a panel for each of SCORES.

  Args:
    path: Path of the PNG file.
    runs: At most MOST_RUNS.
    over_steps: Whether the horizontal axis has steps and not minutes.
  """
  with png_figures.figure(path, (9.4, 3.6)) as figure:
    panels = figure.subplots(1, len(SCORES), sharey=True)
    for axes, (tag, title) in zip(panels, SCORES.items()):
      for run, color in zip(runs, page_style.LINES):
        _draw_run(axes, run, tag, color, over_steps)
      axes.set_title(title)
      axes.set_xlabel('step' if over_steps else 'minutes, evaluation included')
      axes.set_xlim(left=0)
      png_figures.plain(axes)
    panels[0].set_ylim(0, 100)
    panels[0].set_ylabel('panoptic quality')
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=min(len(runs), 4),
                  handlelength=1.6)


def _draw_run(axes: Any, run: Run, tag: str, color: str, over_steps: bool) -> None:
  steps = [step for step in run.scores.get(tag, {}) if over_steps or step in run.minutes]
  places = steps if over_steps else [run.minutes[step] for step in steps]
  axes.plot(places, [100 * run.scores[tag][step] for step in steps], 'o-', color=color,
            label=run.name, linewidth=1.8, markersize=3.2, clip_on=False)
