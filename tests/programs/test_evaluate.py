"""The evaluate program, run as a user runs it."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import shared

from deeplab_tf.metrics import coco_panoptic_io

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'evaluation' / 'evaluate.py'


def _run(*arguments):
  return subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)],
                        capture_output=True, text=True, timeout=120, check=False)


def _refused(*arguments):
  """Runs the program on wrong input and returns its one line."""
  run = _run(*arguments)
  assert run.returncode == 2, run.stderr
  lines = run.stderr.strip().splitlines()
  assert len(lines) == 1, run.stderr
  return lines[0]


@pytest.fixture
def files(tmp_path):
  """Ground truth in gt.json and gt/; predictions in out/, beside predictions.json."""
  truth = np.repeat([1, 2], 8)[None].repeat(6, axis=0)
  guess = np.where(np.arange(16) < 10, 5, 6)[None].repeat(6, axis=0)
  (tmp_path / 'gt').mkdir()
  (tmp_path / 'out').mkdir()
  coco_panoptic_io.write_panoptic_png(tmp_path / 'gt' / 'a.png', truth)
  coco_panoptic_io.write_panoptic_png(tmp_path / 'out' / 'a.png', guess)
  coco_panoptic_io.write_json(tmp_path / 'gt.json', {
      'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 6, 'width': 16}],
      'categories': [{'id': 3, 'name': 'box', 'isthing': 1}, {'id': 4, 'name': 'ball',
                                                             'isthing': 1}],
      'annotations': [{'image_id': 1, 'file_name': 'a.png', 'segments_info': [
          {'id': 1, 'category_id': 3, 'area': 48, 'iscrowd': 0},
          {'id': 2, 'category_id': 4, 'area': 48, 'iscrowd': 0}]}]})
  coco_panoptic_io.write_json(tmp_path / 'out' / 'predictions.json', {
      'annotations': [{'image_id': 1, 'file_name': 'a.png', 'segments_info': [
          {'id': 5, 'category_id': 3}, {'id': 6, 'category_id': 4}]}]})
  return tmp_path


def test_panoptic_prints_a_table_and_writes_json(files):
  output = files / 'scores.json'
  run = _run('--task=panoptic', f'--ground_truth={files / "gt.json"}',
             f'--predictions={files / "out"}', f'--output={output}', '--per_class')
  assert run.returncode == 0, run.stderr
  assert run.stderr == ''
  pq = (8 / 10 + 6 / 8) / 2
  scores = json.loads(output.read_text())
  assert set(scores) == {'All', 'Things', 'Stuff', 'per_class'}
  assert scores['All'] == {'pq': pytest.approx(pq), 'sq': pytest.approx(pq), 'rq': 1.0, 'n': 2}
  assert scores['Stuff'] == {'pq': None, 'sq': None, 'rq': None, 'n': 0}
  assert scores['per_class']['3'] == {'pq': 0.8, 'sq': 0.8, 'rq': 1.0, 'tp': 1, 'fp': 0, 'fn': 0}
  lines = run.stdout.splitlines()
  assert any(line.split()[:5] == ['Things', '77.5', '77.5', '100.0', '2'] for line in lines)
  assert any(line.startswith('Stuff') and 'not available' in line for line in lines)
  assert any(line.split()[:2] == ['box', '80.0'] for line in lines)


def test_semantic(files):
  output = files / 'scores.json'
  run = _run('--task=semantic', f'--ground_truth={files / "gt.json"}',
             f'--predictions={files / "out" / "predictions.json"}', f'--output={output}')
  assert run.returncode == 0, run.stderr
  assert json.loads(output.read_text()) == {
      'miou': pytest.approx(0.775), 'per_class': {'3': 0.8, '4': 0.75}}
  assert 'mIoU' in run.stdout and '77.5' in run.stdout


@pytest.mark.parity
def test_instance(tmp_path):
  folder = shared.path('parity', 'evaluation', 'instance_ap', 'real')
  run = _run('--task=instance', f'--ground_truth={folder / "gt.json"}',
             f'--predictions={folder / "results.json"}', f'--output={tmp_path / "scores.json"}')
  assert run.returncode == 0, run.stderr
  expected = json.loads((folder / 'expected.json').read_text())['segm']['stats']
  assert json.loads((tmp_path / 'scores.json').read_text()) == pytest.approx(expected, abs=1e-6)


def test_a_wrong_area_is_a_warning(files):
  content = json.loads((files / 'gt.json').read_text())
  content['annotations'][0]['segments_info'][0]['area'] = 40
  (files / 'gt.json').write_text(json.dumps(content))
  run = _run('--task=panoptic', f'--ground_truth={files / "gt.json"}',
             f'--predictions={files / "out"}')
  assert run.returncode == 0
  assert run.stderr.startswith('warning: ') and '"area" of 1 ground truth' in run.stderr


def test_folders_can_be_named(files):
  shutil.move(str(files / 'gt'), str(files / 'elsewhere'))
  arguments = ('--task=panoptic', f'--ground_truth={files / "gt.json"}',
               f'--predictions={files / "out"}')
  assert f'{files / "gt"}: there is no such folder' in _refused(*arguments)
  run = _run(*arguments, f'--ground_truth_dir={files / "elsewhere"}',
             f'--predictions_dir={files / "out"}')
  assert run.returncode == 0, run.stderr


def test_wrong_use_is_one_line(files):
  truth, guess = f'--ground_truth={files / "gt.json"}', f'--predictions={files / "out"}'
  assert "invalid choice: 'depth'" in _refused('--task=depth', truth, guess)
  assert '--ground_truth' in _refused('--task=panoptic', guess)
  assert '--boundary is not available yet' in _refused('--task=panoptic', truth, guess,
                                                       '--boundary')
  assert 'there is no folder' in _refused('--task=panoptic', truth, guess,
                                          f'--output={files / "none" / "scores.json"}')
  assert 'predictions.json' in _refused('--task=panoptic', truth, f'--predictions={files / "gt"}')
  assert 'belong to the tasks' in _refused('--task=instance', truth, guess,
                                           '--predictions_dir=x')


def test_bad_input_is_one_line_and_leaves_no_output(files):
  content = json.loads((files / 'out' / 'predictions.json').read_text())
  content['annotations'][0]['segments_info'][0]['category_id'] = 8
  (files / 'out' / 'predictions.json').write_text(json.dumps(content))
  line = _refused('--task=panoptic', f'--ground_truth={files / "gt.json"}',
                  f'--predictions={files / "out"}', f'--output={files / "scores.json"}')
  for word in ('predictions.json', 'image 1', 'segment 5', 'category 8'):
    assert word in line
  assert not list(files.glob('scores.json*'))


@pytest.mark.parity
@pytest.mark.parametrize('name', ['json_id_not_in_png', 'no_png', 'no_prediction_for_image',
                                  'png_id_not_in_json', 'unknown_category'])
def test_refuses_what_the_reference_refuses(name):
  folder = shared.path('parity', 'evaluation', 'pq', 'refused', name)
  assert _refused('--task=panoptic', f'--ground_truth={folder / "gt.json"}',
                  f'--predictions={folder / "pred.json"}').startswith('error: ')


def test_help_and_no_tensorflow():
  assert _run('--help').returncode == 0
  code = ('import sys; from deeplab_tf.metrics import coco_panoptic, panoptic_quality, '
          'average_precision, mean_iou; assert "tensorflow" not in sys.modules')
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
