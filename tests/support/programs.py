"""Runs the programs as users do."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(program: str, *args, expect: int = 0, timeout: float = 300) -> subprocess.CompletedProcess:
  """Runs e.g. 'trainer/export.py' and checks its exit code.

  Args:
    program: Path below the project.
    *args: Its arguments.
    expect: The exit code. With 2, standard error must end in one line 'error: ...' and hold no
      traceback.
    timeout: Seconds.
  """
  done = subprocess.run([sys.executable, str(ROOT / program), *map(str, args)],
                        capture_output=True, text=True, timeout=timeout, check=False,
                        env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3',
                             'PYTHONPATH': str(ROOT)})
  assert done.returncode == expect, f'exit code {done.returncode}\n{done.stdout}\n{done.stderr}'
  assert 'Traceback' not in done.stderr, done.stderr
  if expect == 2:
    assert done.stderr.strip().split('\n')[-1].startswith('error: '), done.stderr
  return done


def error_line(program: str, *args, **options) -> str:
  """Returns the one line of a call that ends with exit code 2."""
  return run(program, *args, expect=2, **options).stderr.strip().split('\n')[-1]
