"""The file, the tables and the comparison of scale stress tests."""

import json

import numpy as np
import pytest

from deeplab_tf.reports.scale_stress import scale_results
from deeplab_tf.reports.scale_stress.scale_results import GROUPS, Identity, Measurement, StressTest


def _test(pq_by_ratio, config='a', checkpoint='runs/a/ckpt-1'):
  """A test whose PQ is that of `pq_by_ratio`: ratio -> PQ of all, things, stuff."""
  test = StressTest(config, checkpoint, 'shapes', (65, 81), Identity('1', '2', None))
  for ratio, values in pq_by_ratio.items():
    scores = {group: {'pq': pq, 'sq': pq, 'rq': None if pq is None else pq / 2, 'n': 3}
              for group, pq in zip(GROUPS, values)}
    test = test.with_measurement(Measurement(ratio, (33, 41), 7, 0.25, scores))
  return test


def test_improvement_is_relative_and_of_common_ratios():
  random = np.random.default_rng(0)
  ratios = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
  own, other = random.uniform(0.01, 0.9, (2, len(ratios), 3))
  test = _test(dict(zip(ratios.tolist(), own.tolist())))
  compared = _test({**dict(zip(ratios[1:].tolist(), other[1:].tolist())), 8.0: (0.1, 0.1, 0.1)})
  for column, group in enumerate(GROUPS):
    gains = scale_results.improvement(test, compared, group)
    assert list(gains) == ratios[1:].tolist()
    np.testing.assert_allclose(
        list(gains.values()), 100 * (own[1:, column] / other[1:, column] - 1), rtol=1e-9)


def test_an_improvement_over_nothing_is_not_available():
  test = _test({1.0: (0.5, None, 0.0)})
  other = _test({1.0: (0.0, 0.5, 0.4)})
  assert [scale_results.improvement(test, other, group)[1.0] for group in GROUPS] == [
      None, None, -100]
  table = scale_results.format_improvement(test, other, 'b').split('\n')
  assert 'over b in percent' in table[0] and table[2].split() == ['1', 'n/a', 'n/a', '-100.0']


def test_the_table_has_a_line_per_ratio_upwards():
  test = _test({2.0: (0.5, None, 0.25), 0.25: (0.1, 0.2, 0.3)})
  lines = [line.split() for line in scale_results.format_test(test).split('\n')]
  assert lines[1:] == [
      ['0.25', '33x41', '10.0', '20.0', '30.0', '10.0', '5.0', '0.250', '7'],
      ['2', '33x41', '50.0', 'n/a', '25.0', '50.0', '25.0', '0.250', '7']]


def test_a_test_comes_back_from_its_file(tmp_path):
  test = _test({0.7: (1 / 3, None, 0.25), 0.25: (0.1, 0.2, 0.3)})
  path = tmp_path / scale_results.FILE
  scale_results.write(str(path), test)
  assert scale_results.read(str(path)) == test == scale_results.read(str(tmp_path))
  content = json.loads(path.read_text())
  assert [each['ratio'] for each in content['ratios']] == [0.25, 0.7]
  assert content['ratios'][0]['Things'] == {'pq': 0.2, 'sq': 0.2, 'rq': 0.1, 'n': 3}
  assert content['ratios'][1]['size'] == [33, 41] and content['checkpoint'] == 'runs/a/ckpt-1'


def test_other_files_are_refused_in_one_line(tmp_path):
  path = tmp_path / scale_results.FILE
  with pytest.raises(FileNotFoundError, match='scale_stress.json: there is no such file'):
    scale_results.read(str(tmp_path))
  scale_results.write(str(path), _test({1.0: (0.5, 0.5, 0.5)}))
  good = json.loads(path.read_text())
  for text in ('{', '[]', '{}', '7', json.dumps({**good, 'ratios': 7}),
               json.dumps({**good, 'ratios': [{**good['ratios'][0], 'All': {'pq': 1}}]}),
               json.dumps({**good, 'ratios': [{**good['ratios'][0], 'size': [1]}]}),
               json.dumps({**good, 'ratios': [{**good['ratios'][0], 'ratio': 0}]}),
               json.dumps({**good, 'ratios': []}),
               json.dumps(good).replace('0.5', '"0.5"')):
    path.write_text(text)
    with pytest.raises(ValueError, match='result of evaluation/scale_stress.py') as error:
      scale_results.read(str(path))
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


def test_models_of_one_config_are_named_by_their_checkpoints():
  tests = [_test({}), _test({}, 'b', 'x/ckpt-1'), _test({}, 'b', '/runs/x/ckpt-2')]
  assert scale_results.names(tests) == ['a', 'x/ckpt-1', 'x/ckpt-2']


@pytest.mark.parametrize('checkpoints,names', [
    (['old/a/ckpt-1', 'new/a/ckpt-1'], ['old/a/ckpt-1', 'new/a/ckpt-1']),
    (['/r/old/a/b/ckpt-1', '/r/new/a/b/ckpt-1', 'x/ckpt-1'],
     ['old/a/b/ckpt-1', 'new/a/b/ckpt-1', 'x/ckpt-1']),
    (['a/ckpt-1', '/a/ckpt-1'], ['a/ckpt-1', '/a/ckpt-1']),
    (['r/a/ckpt-1', 'r/a/ckpt-1'], ['a/ckpt-1 (1)', 'a/ckpt-1 (2)']),
    (['r/a/ckpt-1', 'q/a/ckpt-1', 'r/a/ckpt-1'],
     ['r/a/ckpt-1 (1)', 'q/a/ckpt-1', 'r/a/ckpt-1 (2)'])])
def test_no_two_names_are_alike(checkpoints, names):
  tests = [_test({}, 'b', checkpoint) for checkpoint in checkpoints]
  assert scale_results.names(tests) == names
  # Another config that is called like one of the checkpoints.
  more = scale_results.names([*tests, _test({}, names[-1].partition(' (')[0])])
  assert len(set(more)) == len(more)
