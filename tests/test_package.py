"""The package installs, imports fast and does not import heavy dependencies."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
_HEAVY = ('official', 'orbit', 'tensorflow_addons', 'tensorflow_datasets', 'scipy', 'matplotlib')


def _python(code, **kwargs):
  return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                        env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'}, **kwargs)


def test_import_is_light():
  code = ('import tensorflow, sys; before = set(sys.modules); import deeplab_tf; '
          'new = set(sys.modules) - before; '
          f'print(len(new), [m for m in new if m.split(".")[0] in {_HEAVY}])')
  count, heavy = _python(code).stdout.strip().split(' ', 1)
  assert heavy == '[]'
  # Time is not asserted; few modules take little of it.
  assert int(count) < 10


def test_model_and_inference_need_no_training_library():
  code = ('import sys, deeplab_tf; deeplab_tf.load_config; deeplab_tf.build_model; '
          'deeplab_tf.Segmenter; deeplab_tf.checkpoints; import deeplab_tf.export.saved_model; '
          'print([m for m in sys.modules if m.split(".")[0] in '
          '("official", "orbit", "tensorflow_addons")])')
  result = _python(code)
  assert result.stdout.strip() == '[]', result.stderr


def test_names_that_the_package_promises_exist():
  import deeplab_tf
  for name in dir(deeplab_tf):
    assert getattr(deeplab_tf, name) is not None
  with pytest.raises(AttributeError, match='no_such_name'):
    _ = deeplab_tf.no_such_name


@pytest.mark.parametrize('program', [
    'trainer/train.py', 'trainer/export.py', 'trainer/convert_checkpoint.py',
    'evaluation/evaluate.py', 'evaluation/predict.py', 'evaluation/summary.py',
    'evaluation/benchmark.py', 'evaluation/analyze.py'
])
def test_every_program_explains_itself_and_refuses_unknown_flags(program):
  help_text = subprocess.run([sys.executable, str(ROOT / program), '--help'], capture_output=True,
                             text=True)
  assert help_text.returncode == 0
  assert 'usage:' in help_text.stdout
  wrong = subprocess.run([sys.executable, str(ROOT / program), '--no_such_flag'],
                         capture_output=True, text=True)
  assert wrong.returncode == 2
  assert len(wrong.stderr.strip().splitlines()) == 1, wrong.stderr


def test_protos_compile_and_a_broken_one_fails_the_build(tmp_path):
  for name in ('setup.py', 'README.md'):
    shutil.copy(ROOT / name, tmp_path)
  shutil.copytree(ROOT / 'protos', tmp_path / 'protos')
  (tmp_path / 'deeplab_tf' / 'protos').mkdir(parents=True)
  for package in ('deeplab_tf', 'trainer', 'evaluation'):
    (tmp_path / package).mkdir(exist_ok=True)
    (tmp_path / package / '__init__.py').touch()
  command = [sys.executable, 'setup.py', '-q', 'build_protos']
  subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
  assert (tmp_path / 'deeplab_tf' / 'protos' / 'config_pb2.py').exists()
  broken = tmp_path / 'protos' / 'config.proto'
  broken.write_text(broken.read_text().replace('optional string', 'optional strin', 1))
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert result.returncode != 0
  assert 'do not compile' in result.stderr
