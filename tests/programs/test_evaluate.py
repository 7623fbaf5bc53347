"""evaluation/evaluate.py, run as a user runs it."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import shared
from PIL import Image

from deeplab_tf.formats import coco_panoptic

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
  coco_panoptic.write_panoptic_png(tmp_path / 'gt' / 'a.png', truth)
  coco_panoptic.write_panoptic_png(tmp_path / 'out' / 'a.png', guess)
  coco_panoptic.write_json(tmp_path / 'gt.json', {
      'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 6, 'width': 16}],
      'categories': [{'id': 3, 'name': 'box', 'isthing': 1}, {'id': 4, 'name': 'ball',
                                                              'isthing': 1}],
      'annotations': [{'image_id': 1, 'file_name': 'a.png', 'segments_info': [
          {'id': 1, 'category_id': 3, 'area': 48, 'iscrowd': 0},
          {'id': 2, 'category_id': 4, 'area': 48, 'iscrowd': 0}]}]})
  coco_panoptic.write_json(tmp_path / 'out' / 'predictions.json', {
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
  assert set(scores) == {'All', 'Things', 'Stuff', 'per_class', 'left_out'}
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
  scores = json.loads(output.read_text())
  assert scores['per_class'] == {'3': 0.8, '4': 0.75}
  assert scores['miou'] == scores['miou_union'] == pytest.approx(0.775)
  assert scores['pixel_accuracy'] == pytest.approx(14 / 16)
  lines = [line.rsplit(maxsplit=1) for line in run.stdout.splitlines()]
  assert ['mIoU', '77.5'] in lines and ['pixel accuracy', '87.5'] in lines


def test_semantic_pngs(files):
  for side, values in (('truth', [0, 0, 1, 9]), ('guess', [0, 1, 1, 1])):
    (files / side).mkdir()
    Image.fromarray(np.array([values], np.uint8)).save(files / side / 'a.png')
  arguments = ('--task=semantic', f'--ground_truth={files / "truth"}',
               f'--predictions={files / "guess"}', '--num_classes=2')
  run = _run(*arguments, '--ignore_label=9', '--per_class', f'--output={files / "scores.json"}')
  assert run.returncode == 0, run.stderr
  assert json.loads((files / 'scores.json').read_text())['per_class'] == {'0': 0.5, '1': 0.5}
  assert ['1', '50.0'] in [line.split() for line in run.stdout.splitlines()]
  assert 'the ground truth holds the class 9' in _refused(*arguments)


@pytest.mark.parametrize('flag, pq', [('--boundary', (20 / 32 + 16 / 28) / 2),
                                      ('--definition=deeplab2', 0.775)])
def test_other_definitions_of_panoptic_quality(files, flag, pq):
  # Boundaries are one pixel thick: of 8 x 6 and 10 x 6 pixels 24 and 28, of which they share 20;
  # of 8 x 6 and 6 x 6 pixels 24 and 20, of which they share 16.
  run = _run('--task=panoptic', f'--ground_truth={files / "gt.json"}',
             f'--predictions={files / "out"}', f'--output={files / "scores.json"}', flag)
  assert run.returncode == 0, run.stderr
  assert json.loads((files / 'scores.json').read_text())['All']['pq'] == pytest.approx(pq)


@pytest.mark.parity
@pytest.mark.parametrize('flags, key', [(('--workers=1',), 'segm'),
                                        (('--boundary', '--workers=2'), 'boundary')])
def test_instance(tmp_path, flags, key):
  folder = shared.path('parity', 'evaluation', 'instance_ap', 'real')
  run = _run('--task=instance', f'--ground_truth={folder / "gt.json"}', *flags,
             f'--predictions={folder / "results.json"}', f'--output={tmp_path / "scores.json"}')
  assert run.returncode == 0, run.stderr
  expected = json.loads((folder / 'expected.json').read_text())[key]['stats']
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert scores.pop('left_out')['results_beyond_limit'] == 0
  assert scores == pytest.approx(expected, abs=1e-6)


def test_what_is_left_out_is_said(files):
  # Of 6 x 16 pixels two columns are void, one is not predicted; a class never occurs.
  content = json.loads((files / 'gt.json').read_text())
  content['categories'].append({'id': 8, 'name': 'sky', 'isthing': 0})
  (files / 'gt.json').write_text(json.dumps(content))
  content = json.loads((files / 'out' / 'predictions.json').read_text())
  content['annotations'].append({**content['annotations'][0], 'image_id': 2})
  (files / 'out' / 'predictions.json').write_text(json.dumps(content))
  for path, columns in ((files / 'gt' / 'a.png', 2), (files / 'out' / 'a.png', 1)):
    ids = coco_panoptic.read_panoptic_png(path).copy()
    ids[:, :columns] = 0
    coco_panoptic.write_panoptic_png(path, ids)
  flags = (f'--ground_truth={files / "gt.json"}', f'--predictions={files / "out"}',
           f'--output={files / "scores.json"}')
  run = _run('--task=panoptic', *flags)
  for line in ('left out of the score',
               '  void pixels of the ground truth: 12.50 % (12 of 96)',
               '  classes that the ground truth never has: 1 of 3 (sky)',
               '  predictions of images without ground truth: 1',
               'pixels without a prediction: 6.25 % (6 of 96)'):
    assert line in run.stdout.splitlines()
  assert json.loads((files / 'scores.json').read_text())['left_out'] == {
      'pixels': 96, 'void_pixels': 12, 'void_share': 0.125, 'unpredicted_pixels': 6,
      'unpredicted_share': 0.0625, 'crowd_segments': 0, 'classes_not_in_ground_truth': [8],
      'predictions_not_scored': 1}
  run = _run('--task=semantic', *flags)
  assert '  ignored pixels of the ground truth: 12.50 % (12 of 96)' in run.stdout.splitlines()
  left_out = json.loads((files / 'scores.json').read_text())['left_out']
  assert (left_out['ignored_pixels'], left_out['no_class_pixels']) == (12, 0)


def test_a_mask_of_0_and_255_is_no_perfect_score_without_a_word(files):
  for side, values in (('truth', [0, 0, 0, 255]), ('guess', [0, 0, 0, 0])):
    (files / side).mkdir()
    Image.fromarray(np.array([values], np.uint8)).save(files / side / 'a.png')
  arguments = ('--task=semantic', f'--ground_truth={files / "truth"}',
               f'--predictions={files / "guess"}', '--num_classes=2')
  run = _run(*arguments)
  assert '  ignored pixels of the ground truth: 25.00 % (1 of 4)' in run.stdout.splitlines()
  assert '  classes that the ground truth never has: 1 of 2 (1)' in run.stdout.splitlines()
  assert 'warning: the ground truth has the values 0 and 255 alone' in run.stderr
  assert '255 is meant as a class, write it as 1' in run.stderr
  Image.fromarray(np.array([[0, 1, 0, 255]], np.uint8)).save(files / 'truth' / 'a.png')
  Image.fromarray(np.array([[0, 255, 0, 255]], np.uint8)).save(files / 'guess' / 'a.png')
  run = _run(*arguments)
  assert 'scored pixels predicted as no class: 33.33 % (1 of 3)' in run.stdout
  assert ('values that are no class (classes are 0 to 1): 255; their pixels are false '
          'negatives') in run.stderr


def test_stuff_in_several_segments_is_a_warning(files):
  content = json.loads((files / 'gt.json').read_text())
  for category in content['categories']:
    category['isthing'] = 0
  content['annotations'][0]['segments_info'][1]['category_id'] = 3
  (files / 'gt.json').write_text(json.dumps(content))
  arguments = ('--task=panoptic', f'--ground_truth={files / "gt.json"}',
               f'--predictions={files / "out"}')
  run = _run(*arguments)
  assert 'in 1 of the 1 images of the ground truth (image 1: "box" in 2)' in run.stderr
  assert _run(*arguments, '--definition=deeplab2').stderr == ''
  content = json.loads((files / 'out' / 'predictions.json').read_text())
  content['annotations'][0]['segments_info'][1]['category_id'] = 3
  (files / 'out' / 'predictions.json').write_text(json.dumps(content))
  assert 'images of the predictions (image 1: "box" in 2)' in _run(*arguments).stderr


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
  assert '--boundary belongs to' in _refused('--task=semantic', truth, guess, '--boundary')
  assert 'without --boundary' in _refused('--task=panoptic', truth, guess, '--boundary',
                                          '--definition=deeplab2')
  assert '--num_classes belongs to' in _refused('--task=panoptic', truth, guess,
                                                '--num_classes=2')
  assert 'give --num_classes too' in _refused('--task=semantic', truth, guess,
                                              '--ignore_label=2')
  assert 'is a folder; give a JSON' in _refused('--task=panoptic', f'--ground_truth={files}', guess)
  assert 'is not a whole number of at' in _refused('--task=panoptic', truth, guess, '--workers=0')
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


@pytest.fixture
def many(files):
  """As files, with thirteen images that differ."""
  for name, folder in (('gt.json', 'gt'), ('out/predictions.json', 'out')):
    content = json.loads((files / name).read_text())
    first = content['annotations'][0]
    ids = coco_panoptic.read_panoptic_png(files / folder / 'a.png')
    content['annotations'] = []
    for index in range(13):
      segments = [{'id': entry['id'], 'category_id': entry['category_id']}
                  for entry in first['segments_info']]
      content['annotations'].append({'image_id': index, 'file_name': f'{index}.png',
                                     'segments_info': segments})
      wide = np.repeat(ids, index + 1, axis=1)
      wide = wide[:, index:] if folder == 'gt' else wide[:, :wide.shape[1] - index]
      coco_panoptic.write_panoptic_png(files / folder / f'{index}.png', wide)
    coco_panoptic.write_json(files / name, content)
  return files


@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_scores_do_not_depend_on_the_number_of_processes(many, task):
  outputs = []
  for number in (1, 2):
    output = many / f'{number}.json'
    run = _run(f'--task={task}', f'--ground_truth={many / "gt.json"}',
               f'--predictions={many / "out"}', f'--workers={number}', f'--output={output}')
    assert run.returncode == 0, run.stderr
    outputs.append(output.read_text())
  assert outputs[0] == outputs[1] and '0.' in outputs[0]


def test_bad_input_in_another_process_is_one_line(many):
  (many / 'out' / '7.png').write_text('no picture')
  line = _refused('--task=panoptic', f'--ground_truth={many / "gt.json"}',
                  f'--predictions={many / "out"}', '--workers=2',
                  f'--output={many / "scores.json"}')
  assert '7.png' in line and not list(many.glob('scores.json*'))


def test_an_interrupt_ends_all_processes(many):
  process = subprocess.Popen(
      [sys.executable, '-c', _SIGNAL_ONE_CHUNK, str(PROGRAM.parent), '--task=panoptic',
       f'--ground_truth={many / "gt.json"}', f'--predictions={many / "out"}', '--workers=2'],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 130 and errors == 'interrupted\n'


# Sends the interrupt of a terminal, which all processes of the group get, amid the work.
_SIGNAL_ONE_CHUNK = """
import os, signal, sys
# A run in the background of a shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
import evaluate
from deeplab_tf.metrics import panoptic_quality
merge = panoptic_quality.PanopticQuality.merge
def merge_and_interrupt(self, other):
  merge(self, other)
  os.killpg(0, signal.SIGINT)
panoptic_quality.PanopticQuality.merge = merge_and_interrupt
sys.exit(evaluate.main(sys.argv[2:]))
"""


def test_help_and_no_tensorflow(files):
  assert _run('--help').returncode == 0
  code = (f'import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import evaluate; '
          f'evaluate.main(["--task=panoptic", "--ground_truth={files / "gt.json"}", '
          f'"--predictions={files / "out"}"]); '
          'from deeplab_tf.scoring import instance_files, semantic_files; '
          'assert "tensorflow" not in sys.modules')
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
