"""evaluation/scale_stress.py, called in this process to import TensorFlow only once."""

import importlib.util
import json
import pathlib

import pytest
import tensorflow as tf
import tiny_centers
import tiny_classification
import training_runs
from PIL import Image

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.reports.scale_stress import scale_figure, scale_results
from deeplab_tf.reports.scale_stress import scale_stress as stress_lib

_PATH = pathlib.Path(__file__).resolve().parents[2] / 'evaluation' / 'scale_stress.py'
_SPEC = importlib.util.spec_from_file_location('scale_stress', _PATH)
scale_stress = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(scale_stress)


@pytest.fixture(scope='module', name='untrained')
def fixture_untrained(tmp_path_factory):
  """Config and checkpoint."""
  folder = tmp_path_factory.mktemp('stress')
  path = tiny_centers.write_config(folder)
  return path, convert.save_checkpoint(deeplab_tf.build_model(deeplab_tf.load_config(path)),
                                       str(folder / 'run' / 'ckpt-1'))


def _flags(untrained, output, *more):
  return [f'--config_file={untrained[0]}', f'--checkpoint={untrained[1]}',
          f'--output_dir={output}', *more]


def _made_up(folder, **fields):
  """Writes the test of another model into a folder."""
  scores = {group: {'pq': 0.5, 'sq': 0.5, 'rq': 1.0, 'n': 1} for group in scale_results.GROUPS}
  test = scale_results.StressTest('other', 'runs/b/ckpt-1', 'shapes', (65, 81),
                                  scale_results.Identity('1', '2', None))
  for ratio in (0.25, 0.5, 1.0):
    test = test.with_measurement(scale_results.Measurement(ratio, (9, 9), 2, 0.1, scores))
  folder.mkdir()
  scale_results.write(str(folder / scale_results.FILE), test._replace(**fields))
  return folder


def test_figure_and_numbers_are_written_and_the_same_command_goes_on(untrained, tmp_path, capsys,
                                                                     monkeypatch):
  out, compared = tmp_path / 'out', _made_up(tmp_path / 'b')
  flags = _flags(untrained, out, '--num_images=2')
  assert scale_stress.main([*flags, '--ratios=0.5,0.25']) == 0
  table = [line.split() for line in capsys.readouterr().out.strip().split('\n')]
  assert [line[:2] for line in table[1:3]] == [['0.25', '17x21'], ['0.5', '33x41']]
  content = json.loads((out / 'scale_stress.json').read_text())
  assert content['config'] == 'tiny_centers' and content['evaluation_size'] == [65, 81]
  assert content['num_images'] == 2 and content['checkpoint'] == untrained[1]
  assert [each['images'] for each in content['ratios']] == [2, 2]
  assert all(each['seconds_per_image'] > 0 for each in content['ratios'])

  measured, measure = [], stress_lib.ScaleStress._measure

  def counted(self, ratio, size, progress):
    measured.append(ratio)
    return measure(self, ratio, size, progress)

  monkeypatch.setattr(stress_lib.ScaleStress, '_measure', counted)
  assert scale_stress.main([*flags, '--ratios=0.25,1', f'--compare={compared}',
                            f'--compare={compared / "scale_stress.json"}']) == 0
  assert measured == [1]
  out_text = capsys.readouterr().out
  assert 'already has 0.25; these ratios are not measured again' in out_text
  for number in (1, 2):
    assert f'relative improvement over b/ckpt-1 ({number}) in percent' in out_text
  after = json.loads((out / 'scale_stress.json').read_text())
  assert [each['ratio'] for each in after['ratios']] == [0.25, 0.5, 1.0]
  assert after['ratios'][:2] == content['ratios']
  with Image.open(out / 'scale_stress.png') as picture:
    assert min(picture.size) > 600
  assert sorted(path.name for path in out.iterdir()) == ['scale_stress.json', 'scale_stress.png']


@pytest.mark.slow
def test_ratio_1_is_what_the_trainer_counts(tmp_path):
  path = _PATH.parents[1] / 'configs' / 'shapes' / 'panoptic_deeplab_resnet50.textproto'
  overrides = [f'--override={text}' for text in (
      'trainer_options { solver_options { training_number_of_steps: 150 } }',
      'train_dataset_options { batch_size: 4 }',
      'eval_dataset_options { shapes { num_images: 24 } }')]
  training_runs.run(path, tmp_path / 'run', '--mode=train', *overrides)
  training_runs.run(path, tmp_path / 'run', '--mode=eval', *overrides)
  expected = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
  assert expected['Stuff']['pq'] > 0.01
  assert scale_stress.main(_flags((path, tmp_path / 'run'), tmp_path / 'out', '--ratios=1',
                                  *overrides)) == 0
  content = json.loads((tmp_path / 'out' / 'scale_stress.json').read_text())
  for group in scale_results.GROUPS:
    assert content['ratios'][0][group] == pytest.approx(expected[group], abs=1e-3)


def test_the_default_ratios_go_from_a_quarter_to_four():
  assert stress_lib.RATIOS[0] == 0.25 and stress_lib.RATIOS[-1] == 4 and 1 in stress_lib.RATIOS
  for side in (129, 641, 1025):
    sizes = [stress_lib.scaled_size(side, ratio) for ratio in stress_lib.RATIOS]
    assert all(size % 2 == 1 for size in sizes)


def test_wrong_use_is_one_line(untrained, tmp_path, capsys):
  file = tmp_path / 'file'
  file.write_text('')
  config, prefix = untrained
  classifier = tiny_classification.write_experiment(tmp_path)
  one_ratio = '--ratios=1'
  other_data = _made_up(tmp_path / 'coco', dataset='coco_panoptic')
  good = _made_up(tmp_path / 'good')
  before = sorted(tmp_path.iterdir())
  for flags, words in (
      (_flags((config, tmp_path / 'ckpt-7'), tmp_path), 'no such checkpoint'),
      (_flags(('nowhere.textproto', prefix), tmp_path), 'no such file'),
      (_flags((classifier, prefix), tmp_path), 'classifies whole images'),
      (_flags(untrained, file), 'is a file; give a folder'),
      (_flags(untrained, tmp_path, '--ratios=0.1'), 'ratio 0.1 makes the input 7x9'),
      (_flags(untrained, tmp_path, '--ratios=1e9'), 'at most'),
      *((_flags(untrained, tmp_path, f'--ratios={text}'), f'"{text}" is not a list of ratios')
        for text in ('', '1,,2', '0', '-1', 'nan', 'inf', 'x')),
      (_flags(untrained, tmp_path, '--num_images=0'), 'is not a whole number'),
      (_flags(untrained, tmp_path, one_ratio, '--compare=nowhere'), 'there is no such file'),
      (_flags(untrained, tmp_path, one_ratio, f'--compare={tmp_path}'), 'there is no such file'),
      (_flags(untrained, tmp_path, one_ratio, f'--compare={file}'), 'not valid JSON'),
      (_flags(untrained, tmp_path, one_ratio, f'--compare={other_data}'), 'dataset "coco_pan'),
      (_flags(untrained, tmp_path, one_ratio, f'--compare={good}'), 'on 2 images, this test on 3'),
      (_flags(untrained, tmp_path, '--num_images=2', '--ratios=2', f'--compare={good}'),
       'none of the ratios'),
      (_flags(untrained, tmp_path, *[f'--compare={good}'] * scale_figure.MOST_MODELS),
       'can be distinguished'),
      (_flags(untrained, good, one_ratio), 'is of another checkpoint and config'),
  ):
    assert scale_stress.main(flags) == 2, flags
    lines = capsys.readouterr().err.strip().split('\n')
    assert lines[-1].startswith('error: ') and words in lines[-1], lines
  assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_of_another_model_is_one_line(untrained, tmp_path, capsys):
  other = tf.train.Checkpoint(model=tf.Module()).write(str(tmp_path / 'ckpt-1'))
  assert scale_stress.main(_flags((untrained[0], other), tmp_path / 'out', '--ratios=1')) == 2
  assert 'is a checkpoint of another model' in capsys.readouterr().err.strip().split('\n')[-1]
