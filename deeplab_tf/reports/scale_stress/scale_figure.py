"""The figure of a scale stress test (Axial-DeepLab, figure 4)."""

from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.reports import png_figures

# Colors of models, distinct from those of things and stuff.
_MODELS = ('#a371f7', '#1b9e9e', '#e5534b', '#8b7355', '#db61a2', '#2da44e')
# Maximum number of models in a figure.
MOST_MODELS = len(_MODELS)
_GROUPS = {'All': ('PQ', png_figures.INK), 'Things': ('PQ (things)', png_figures.THINGS),
           'Stuff': ('PQ (stuff)', png_figures.STUFF)}
# Percent. Gains over a PQ near 0 are unbounded: above this value the axis is logarithmic.
_LINEAR_GAIN = 100
_GAIN_TICKS = (-100, -50, 0, 50, 100, 300, 1000, 3000, 10000, 100000, 1000000)


class Curves(NamedTuple):
  """Scores of a model over ratios.

  Attributes:
    name: Name of the model.
    values: 'All', 'Things' and 'Stuff' -> ratio -> value, or None if not available.
  """
  name: str
  values: Mapping[str, Mapping[float, Optional[float]]]


def scale_stress(path: str, quality: Sequence[Curves], gains: Sequence[Curves] = ()) -> None:
  """Plots PQ of models by ratio, and the relative improvement of the first over the others.

  Args:
    path: Path of the PNG file.
    quality: PQ in [0, 1] of each model, at least one and at most MOST_MODELS.
    gains: Relative improvement of the first model over each of the others, in percent.
  """
  if len(quality) == 1:
    with png_figures.figure(path, (5.0, 3.3)) as figure:
      axes = figure.add_subplot()
      for group, (label, color) in _GROUPS.items():
        _line(axes, _percent(quality[0].values[group]), label, color, group == 'All')
      _ratio_axis(axes, quality)
      axes.set_ylim(bottom=0)
      axes.set_ylabel('panoptic quality')
      axes.set_title(quality[0].name)
      figure.legend(loc='outside lower center', ncols=len(_GROUPS), handlelength=1.6)
    return
  with png_figures.figure(path, (max(8.6, 3.2 * len(gains)), 5.8)) as figure:
    above, below = figure.subfigures(2, 1, height_ratios=(1.05, 1))
    _draw_models(above, quality)
    _draw_gains(below, quality[0].name, gains)


def _draw_models(figure: Any, models: Sequence[Curves]) -> None:
  """Draws a panel per group, with a color per model."""
  panels = figure.subplots(1, len(_GROUPS), sharey=True)
  for axes, (group, (title, _)) in zip(panels, _GROUPS.items()):
    for number, (model, color) in enumerate(zip(models, _MODELS)):
      label = model.name if axes is panels[0] else None
      _line(axes, _percent(model.values[group]), label, color, number == 0)
    _ratio_axis(axes, models)
    axes.set_title(title)
  panels[0].set_ylabel('panoptic quality')
  panels[0].set_ylim(bottom=0)  # Set after all curves are drawn, since the panels share it.
  figure.legend(loc='outside upper center', ncols=min(len(models), 3), handlelength=1.6)


def _draw_gains(figure: Any, name: str, gains: Sequence[Curves]) -> None:
  """Draws a panel per compared model, with a color per group."""
  panels = figure.subplots(1, len(gains), sharey=True, squeeze=False)[0]
  for axes, other in zip(panels, gains):
    for group, (label, color) in _GROUPS.items():
      _line(axes, other.values[group], label if axes is panels[0] else None, color,
            group == 'All')
    axes.axhline(0, color=png_figures.MUTED, linewidth=0.8)
    _ratio_axis(axes, [other])
    axes.set_title(f'over {other.name}', fontsize=8.5)
  figure.suptitle(f'relative improvement of {name}, (PQ − other PQ) / other PQ', fontsize=9.5)
  panels[0].set_ylabel('percent')
  known = [gain for other in gains for values in other.values.values()
           for gain in values.values() if gain is not None]
  if max(known, default=0) > 2 * _LINEAR_GAIN:
    _make_logarithmic(panels, min(0, *known) - 10, 1.1 * max(known))
  figure.legend(loc='outside lower center', ncols=len(_GROUPS), handlelength=1.6)


def _percent(values: Mapping[float, Optional[float]]) -> dict[float, Optional[float]]:
  return {ratio: None if value is None else 100 * value for ratio, value in values.items()}


def _line(axes: Any, values: Mapping[float, Optional[float]], label: Optional[str], color: str,
          is_main: bool) -> None:
  """Draws a curve with a marker at each ratio, and gaps where there is no value."""
  heights = np.array([np.nan if value is None else value for value in values.values()], float)
  axes.plot(list(values), heights, 'o-', color=color, label=label, markersize=3.2,
            linewidth=2.0 if is_main else 1.4, zorder=3 if is_main else 2, clip_on=False)


def _make_logarithmic(panels: Sequence[Any], low: float, high: float) -> None:
  """Sets a logarithmic scale above _LINEAR_GAIN."""
  ticks = [tick for tick in _GAIN_TICKS if low <= tick <= high]
  for axes in panels:
    axes.set_yscale('symlog', linthresh=_LINEAR_GAIN, linscale=2)
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f'{tick:,}' for tick in ticks])
    axes.minorticks_off()


def _ratio_axis(axes: Any, curves: Sequence[Curves]) -> None:
  """Sets a logarithmic axis with ticks at powers of two, and a line at ratio 1."""
  ratios = sorted({ratio for each in curves for ratio in each.values['All']})
  axes.set_xscale('log', base=2)
  powers = [2.0**n for n in range(int(np.floor(np.log2(ratios[0]))),
                                  int(np.ceil(np.log2(ratios[-1]))) + 1)]
  ticks = [power for power in powers if ratios[0] <= power <= ratios[-1]] or ratios
  axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axes.minorticks_off()
  axes.set_xlim(ratios[0] / 1.12, ratios[-1] * 1.12)
  if ratios[0] <= 1 <= ratios[-1]:
    axes.axvline(1, color=png_figures.MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
  axes.set_xlabel('input size / evaluation size')
  png_figures.plain(axes)
