"""TensorBoard pages show what was written."""

import json
import re

import numpy as np
import pytest
import step_outputs
import tensorflow as tf
import tiny_centers
import tiny_runs
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import custom_scalars_plugin
from tensorboard.plugins.hparams import (
  api_pb2,
  backend_context,
  get_experiment,
  list_session_groups,
)

from deeplab_tf import config as config_lib
from deeplab_tf.training.reporting import summaries


@pytest.fixture(name='config')
def load_config(tmp_path):
  return config_lib.load_config(tiny_runs.write_config(tmp_path))


def _tensorboard(folder):
  """Returns what TensorBoard's plugins read a log folder through."""
  runs = plugin_event_multiplexer.EventMultiplexer()
  runs.AddRunsFromDirectory(str(folder))
  runs.Reload()
  return base_plugin.TBContext(data_provider=data_provider.MultiplexerDataProvider(runs, ''),
                               plugin_name_to_instance={})


def _layout(folder):
  plugin = custom_scalars_plugin.CustomScalarsPlugin(_tensorboard(folder))
  return json.loads(plugin.layout_impl(context.RequestContext(), 'experiment'))


def _rows(folder):
  """The rows of the page HParams: name -> (hyperparameters, scores)."""
  request = api_pb2.ListSessionGroupsRequest(
      slice_size=100, include_metrics=True, allowed_statuses=[api_pb2.STATUS_UNKNOWN])
  response = list_session_groups.Handler(
      context.RequestContext(), backend_context.Context(_tensorboard(folder)), 'experiment',
      request).run()
  return {
      group.name: ({name: value.string_value or value.number_value
                    for name, value in group.hparams.items()},
                   {f'{m.name.group}/{m.name.tag}': m.value for m in group.metric_values})
      for group in response.session_groups}


def _write_run(folder, config, score):
  summaries.write_experiment(str(folder), config, 0)
  for run, scalars in ((summaries.TRAIN, summaries.scalars_of(step_outputs.make(2.5))),
                       (summaries.EVAL, {'All/pq': score, 'Things/pq': 0.1, 'Stuff/pq': 0.2})):
    writer = summaries.Writer(folder, run)
    writer.scalars(scalars, 1)
    writer.close()


def test_scalars_of_a_step_have_their_groups():
  scalars = summaries.scalars_of(step_outputs.make(3.0))
  assert scalars == {
      'losses/a': 2, 'losses/b': 1, 'losses/total': 3, 'losses_unweighted/a': 1,
      'losses_unweighted/b': 1, 'statistics/mask_id_accuracy': 0.5,
      'learning_rate/main': np.float32(0.01), 'learning_rate/backbone': np.float32(0.001),
      'gradient_norm': 4, 'weight_norm': 90}
  assert summaries.scalars_of(step_outputs.make(loss_scale=np.float32(2)))['loss_scale'] == 2


def test_custom_scalars_have_their_charts_whatever_was_resumed(config, tmp_path):
  for step in (0, 2):
    summaries.write_experiment(str(tmp_path / 'run'), config, step)
  sections = {section['title']: section['chart'] for section in _layout(tmp_path)['category']}
  assert list(sections) == list(summaries.LAYOUT)
  for title, charts in summaries.LAYOUT.items():
    assert {c['title']: c['multiline']['tag'] for c in sections[title]} == charts
    assert len(charts) <= 12  # More are on a page of their own.


def test_centre_models_have_charts_of_their_own(tmp_path):
  config = config_lib.load_config(tiny_centers.write_config(tmp_path))
  summaries.write_experiment(str(tmp_path / 'run'), config, 0)
  charts = {chart['title']: chart['multiline']['tag']
            for section in _layout(tmp_path)['category'] for chart in section['chart']}
  assert charts['Error of the offsets in pixels'] == ['statistics/offset_error$']
  assert charts == {title: tags for section in summaries.CENTER_LAYOUT.values()
                    for title, tags in section.items()}


def test_charts_have_exactly_the_curves_that_they_name():
  charts = {chart: tags for charts in summaries.LAYOUT.values() for chart, tags in charts.items()}
  tags = list(summaries.scalars_of(step_outputs.make())) + ['All/pq', 'Things/pq', 'All/n']

  def curves(chart):  # As TensorBoard looks for them.
    return [tag for tag in tags if any(re.match(regex, tag) for regex in charts[chart])]

  assert curves('Total loss') == ['losses/total']
  assert curves('Weighted loss terms') == ['losses/a', 'losses/b']
  assert curves('PQ: all, things, stuff') == ['All/pq', 'Things/pq']
  assert curves('Learning rates') == ['learning_rate/main', 'learning_rate/backbone']
  assert curves('Gradient norm before clipping') == ['gradient_norm']


def test_image_classification_has_charts_and_scores_of_its_own(config, tmp_path):
  config.model_options.classification.SetInParent()
  summaries.write_experiment(str(tmp_path / 'run'), config, 0)
  (overview,) = [s for s in _layout(tmp_path)['category'] if s['title'] == 'Overview']
  charts = {chart['title']: chart['multiline']['tag'] for chart in overview['chart']}
  tags = ['top1', 'top5', 'n', 'statistics/top1']
  assert [[tag for tag in tags if re.match(regex, tag)] for (regex,) in charts.values()] == [
      [], ['top1', 'top5'], ['statistics/top1']]


def test_runs_can_be_compared_by_their_hyperparameters(config, tmp_path):
  _write_run(tmp_path / 'runs' / 'first', config, 0.25)
  config.trainer_options.solver_options.optimizer = 'sgd'
  _write_run(tmp_path / 'runs' / 'second', config, 0.5)
  rows = _rows(tmp_path / 'runs')
  assert set(rows) == {'runs/first', 'runs/second'}
  assert [rows[name][0]['optimizer'] for name in sorted(rows)] == ['adam', 'sgd']
  assert rows['runs/second'][1] == pytest.approx(
      {'eval/All/pq': 0.5, 'eval/Things/pq': 0.1, 'eval/Stuff/pq': 0.2,
       'train/losses/total': 2.5})


def test_a_resumed_run_is_one_row_with_its_latest_scores(config, tmp_path):
  folder = tmp_path / 'runs' / 'model'
  for score, step in ((0.25, 0), (0.75, 2)):
    summaries.write_experiment(str(folder), config, step)
    writer = summaries.Writer(folder, summaries.EVAL)
    writer.scalars({'All/pq': score}, step + 2)
    writer.close()
  # The folder itself may be what TensorBoard is shown.
  for log_folder in (tmp_path / 'runs', folder):
    rows = _rows(log_folder)
    assert list(rows) == ['runs/model']
    assert rows['runs/model'][1] == {'eval/All/pq': 0.75}
  experiment = get_experiment.Handler(
      context.RequestContext(), backend_context.Context(_tensorboard(folder)), 'experiment',
      api_pb2.GetExperimentRequest(include_metrics=True)).run()
  assert {info.name for info in experiment.hparam_infos} == set(
      summaries.hyperparameters(config))
  assert [info.display_name for info in experiment.metric_infos] == list(summaries.SCORES)


def test_hyperparameters_are_numbers_and_texts_as_the_config_has_them(config):
  values = summaries.hyperparameters(config)
  assert values['model'] == 'max_deeplab'
  assert values['backbone'] == 'max_deeplab_s'
  assert values['crop_size'] == '65x65'
  assert values['batch_size'] == 2
  assert values['base_learning_rate'] == 0.001
  assert values['precision'] == 'float32'
  assert values['weight_decay'] == 0.0


@pytest.mark.parametrize('options,expected', [
    ('weight_decay: 0.1', 0.0),  # Read and not applied.
    ('weight_decay: 0.1 apply_weight_decay: true', 0.1),
    ('adamw_weight_decay: 0.05', 0.0),  # Adam has none.
    ('adamw_weight_decay: 0.05 optimizer: "adamw"', 0.05),
])
def test_weight_decay_is_the_one_that_is_applied(tmp_path, options, expected):
  config = config_lib.load_config(tiny_runs.write_config(tmp_path), [
      f'trainer_options {{ solver_options {{ {options} }} }}'])
  assert summaries.hyperparameters(config)['weight_decay'] == pytest.approx(expected)


def test_the_config_is_a_block_of_code(config, tmp_path):
  summaries.write_experiment(str(tmp_path / 'run'), config, 3)
  assert set(tiny_runs.read_scalars(tmp_path / 'run')['config']) == {3}
  provider = _tensorboard(tmp_path).data_provider
  data = provider.read_tensors(context.RequestContext(), experiment_id='', plugin_name='text',
                               downsample=1)
  text = data['run']['config'][0].numpy.item().decode()
  assert '    model_options {' in text.splitlines()
  assert all(line.startswith('    ') for line in text.splitlines())


def test_a_writer_without_a_folder_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = summaries.Writer(None, summaries.TRAIN)
  writer.scalars({'losses/total': 1.0}, 1)
  writer.image('pictures/00', np.zeros((4, 4, 3), np.uint8), 1)
  writer.flush()
  writer.close()
  assert not list(tmp_path.iterdir())


def test_a_writer_leaves_out_what_is_not_available(tmp_path):
  writer = summaries.Writer(tmp_path, summaries.TRAIN)
  # Orbit switches summaries off around its steps.
  with tf.summary.record_if(False):
    writer.scalars({'a': 1.0, 'b': None, 'c': 3}, 1)
  writer.close()
  assert tiny_runs.read_scalars(tmp_path / summaries.TRAIN) == {'a': {1: 1.0}, 'c': {1: 3.0}}
