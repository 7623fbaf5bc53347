"""The figure of a scale stress test."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.reports import png_figures
from deeplab_tf.reports.scale_stress import scale_figure
from deeplab_tf.reports.scale_stress.scale_figure import Curves

_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def _curves(name, scale, ratios=_RATIOS):
  return Curves(name, {group: {ratio: scale * factor / (1 + ratio) for ratio in ratios}
                       for group, factor in (('All', 0.5), ('Things', 0.4), ('Stuff', 0.9))})


@pytest.fixture(name='drawn')
def fixture_drawn(monkeypatch):
  """The figures that are drawn."""
  figures, figure = [], png_figures.figure

  @contextlib.contextmanager
  def kept(*args, **options):
    with figure(*args, **options) as drawn:
      figures.append(drawn)
      yield drawn

  monkeypatch.setattr(png_figures, 'figure', kept)
  return figures


def _lines(axes):
  """The curves, without the lines that mark a place."""
  return [line for line in axes.lines if line.get_marker() == 'o']


def test_one_model_has_its_three_curves(tmp_path, drawn):
  model = _curves('a', 1.0)
  scale_figure.scale_stress(str(tmp_path / 'a.png'), [model])
  (axes,) = drawn[0].axes
  for line, group in zip(_lines(axes), ('All', 'Things', 'Stuff')):
    np.testing.assert_array_equal(line.get_xdata(), _RATIOS)
    np.testing.assert_allclose(line.get_ydata(), [100 * v for v in model.values[group].values()])
  assert len(_lines(axes)) == 3 and axes.get_xscale() == 'log'
  assert [text.get_text() for text in axes.get_xticklabels()] == ['0.25', '0.5', '1', '2', '4']
  with Image.open(tmp_path / 'a.png') as picture:
    assert min(picture.size) > 400
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_compared_models_are_in_each_panel_and_have_their_gains(tmp_path, drawn):
  models = [_curves('a', 1.0), _curves('b', 0.8), _curves('c', 0.5, (1.0, 3.0))]
  gains = [Curves('b', {g: {1.0: 10.0, 2.0: -5.0} for g in ('All', 'Things', 'Stuff')}),
           Curves('c', {g: {1.0: 30.0, 3.0: None} for g in ('All', 'Things', 'Stuff')})]
  scale_figure.scale_stress(str(tmp_path / 'a.png'), models, gains)
  panels = drawn[0].axes
  assert [axes.get_title() for axes in panels] == [
      'PQ', 'PQ (things)', 'PQ (stuff)', 'over b', 'over c']
  # All panels of the models are high enough for all curves.
  assert len({axes.get_ylim() for axes in panels[:3]}) == 1 and panels[0].get_ylim()[1] > 72
  for axes, group in zip(panels, ('All', 'Things', 'Stuff')):
    for line, model in zip(_lines(axes), models):
      np.testing.assert_allclose(line.get_ydata(), [100 * v for v in model.values[group].values()])
    assert len({line.get_color() for line in _lines(axes)}) == 3
  np.testing.assert_array_equal(_lines(panels[3])[1].get_ydata(), [10, -5])
  np.testing.assert_array_equal(_lines(panels[4])[1].get_ydata(), [30, np.nan])
  assert panels[3].get_yscale() == 'linear'


def test_gains_over_almost_nothing_leave_the_others_readable(tmp_path, drawn):
  gains = [Curves('b', {'All': {1.0: 5000.0, 2.0: -60.0}, 'Things': {1.0: None, 2.0: None},
                        'Stuff': {1.0: 10.0, 2.0: 20.0}})]
  scale_figure.scale_stress(str(tmp_path / 'a.png'), [_curves('a', 1.0), _curves('b', 1.0)], gains)
  axes = drawn[0].axes[-1]
  assert axes.get_yscale() == 'symlog'
  low, high = axes.get_ylim()
  assert low < -60 and high > 5000
  height = axes.transData.transform([(1, 0), (1, 100), (1, 5000)])[:, 1]
  assert height[1] - height[0] > 0.2 * (height[2] - height[0])


def test_a_single_ratio_and_missing_values_are_drawn(tmp_path):
  nothing = Curves('a', {g: {3.0: None} for g in ('All', 'Things', 'Stuff')})
  scale_figure.scale_stress(str(tmp_path / 'a.png'), [nothing, nothing], [nothing])
  assert (tmp_path / 'a.png').stat().st_size > 1000
