"""The scripts of small tables: trainings, seeds, results that are kept, the printed tables."""

import importlib
import itertools
import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.config import load_config
from deeplab_tf.data import catalog

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / 'scripts/mask2former_tables.py'
SCRIPTS = ('mask2former_tables', 'cmt_deeplab_tables')


@pytest.fixture(name='scripts', scope='module')
def fixture_scripts():
  """From a name to the module; the scripts find each other in their folder."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / 'scripts'))
    yield importlib.import_module


def _program(*arguments):
  return subprocess.run([sys.executable, str(PROGRAM), *arguments], cwd=ROOT, capture_output=True,
                        text=True, check=False)


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_options_of_every_row_fit_the_config(scripts, name):
  script = scripts(name)
  for row in itertools.chain(*script.TABLES.values()):
    config = load_config(ROOT / script.CONFIG, [row.options] if row.options else [])
    models.architecture(config).build_criterion(config, catalog.from_config(config))


@pytest.mark.slow
@pytest.mark.parametrize('name', SCRIPTS)
def test_every_row_is_a_network(scripts, name):
  script = scripts(name)
  for row in itertools.chain(*script.TABLES.values()):
    config = load_config(ROOT / script.CONFIG, [row.options] if row.options else [])
    with tf.Graph().as_default():  # Variables without values.
      deeplab_tf.build_model(config)


def test_results_are_kept_and_printed_with_their_spread(scripts, tmp_path):
  script = scripts('mask2former_tables')
  masked, config = script.TABLES['4a'][1].options, script.CONFIG
  for options, seed, pq in (('', 0, 30.0), ('', 1, 34.0), (masked, 0, 20)):
    result = {'options': options, 'seed': seed, 'pq': pq, 'pq_things': 1.0, 'pq_stuff': 2.0,
              'seconds_per_step': 0.25, 'memory_gb': 1.5}
    scripts('small_tables').Results(tmp_path / 'results.jsonl', config, 1000).add(
        {**result, 'steps': 1000})
  for other, steps in (('other.textproto', 1000), (config, 500)):  # These do not count.
    scripts('small_tables').Results(tmp_path / 'results.jsonl', other, steps).add(
        {**result, 'options': '', 'seed': 0, 'pq': 99.0, 'steps': steps})
  done = _program(f'--output_dir={tmp_path / "runs"}', f'--results={tmp_path / "results.jsonl"}',
                  '--tables=4a', '--minutes=0')
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[2].startswith('| Mask2Former | 32.0 (30.0 to 34.0) |') and '| 2 | 0.25 |' in lines[2]
  assert lines[3].startswith('| without masked attention | 20.0 |')
  assert 'not yet trained' in lines[4] and lines[4].endswith('| 50.2 |')
  # Of seven trainings, three results are there.
  assert lines[-1].startswith('4 trainings are left')


def test_rows_that_are_the_same_are_trained_once_and_ends_have_three_seeds(scripts):
  tables = scripts('mask2former_tables').TABLES
  runs = scripts('small_tables').trainings({name: tables[name] for name in ('4a', '4c', '4e')})
  assert len(runs) == len(set(runs)) == 17
  assert [seed for options, seed in runs if not options] == [0, 1, 2]
  assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)


def test_an_unknown_table_is_refused(tmp_path):
  done = _program(f'--output_dir={tmp_path}', '--tables=4z')
  assert done.returncode == 2 and 'no table "4z": the tables are 4a, 4b' in done.stderr


def test_the_time_of_a_step_leaves_out_the_first(scripts, tmp_path):
  log = tmp_path / 'log.jsonl'
  entries = [('start', 0, 0), ('train', 30, 20), ('train', 34, 40), ('train', 39, 60),
             ('eval', 50, 60), ('train', 55, 80)]
  log.write_text('\n'.join(json.dumps({
      'event': event, 'step': step, 'time': f'2026-01-01T00:00:{second:02d}+00:00'})
      for event, second, step in entries))
  assert scripts('small_tables').seconds_per_step(log) == pytest.approx(5 / 20)
