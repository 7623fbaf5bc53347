"""Runs the programs as users do."""

import atexit
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Importing TensorFlow takes most of the time of a short program. This process imports it once and
# forks for each run; a fork is a program of its own, from its arguments to its exit code. Forking
# is safe, since TensorFlow starts no threads before its first use.
_SERVER = """
import json, os, runpy, sys, warnings
with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  import tensorflow
for line in sys.stdin:
  request = json.loads(line)
  child = os.fork()
  if not child:
    break
  print(child, flush=True)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
  sys.exit()
os.chdir(request['folder'])
os.environ.clear()
os.environ.update(request['environment'])
for target, name in ((0, os.devnull), (1, request['stdout']), (2, request['stderr'])):
  os.dup2(os.open(name, os.O_RDWR), target)
sys.path[:1] = [os.path.dirname(request['arguments'][0]), request['environment']['PYTHONPATH']]
sys.argv = request['arguments']
runpy.run_path(sys.argv[0], run_name='__main__')
"""
_server = []


def run(program: str, *args, expect: int = 0, timeout: float = 300) -> subprocess.CompletedProcess:
  """Runs e.g. 'trainer/export.py' and checks its exit code.

  Args:
    program: Path below the project.
    *args: Its arguments.
    expect: The exit code. With 2, standard error must end in one line 'error: ...' and hold no
      traceback.
    timeout: Seconds.
  """
  done = _run([str(ROOT / program), *map(str, args)], timeout)
  assert done.returncode == expect, f'exit code {done.returncode}\n{done.stdout}\n{done.stderr}'
  assert 'Traceback' not in done.stderr, done.stderr
  if expect == 2:
    assert done.stderr.strip().split('\n')[-1].startswith('error: '), done.stderr
  return done


def error_line(program: str, *args, **options) -> str:
  """Returns the one line of a call that ends with exit code 2."""
  return run(program, *args, expect=2, **options).stderr.strip().split('\n')[-1]


def _run(arguments, timeout):
  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', 'PYTHONPATH': str(ROOT)}
  if not _server:
    # Without a buffer, so that `select` sees all that was not read yet.
    _server.append(subprocess.Popen([sys.executable, '-c', _SERVER], bufsize=0,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    env=environment))
    atexit.register(_server[0].kill)
  with tempfile.NamedTemporaryFile('r') as out, tempfile.NamedTemporaryFile('r') as err:
    request = json.dumps({'arguments': arguments, 'folder': os.getcwd(),
                          'environment': environment, 'stdout': out.name, 'stderr': err.name})
    _server[0].stdin.write(f'{request}\n'.encode())
    child = int(_server[0].stdout.readline())
    if not select.select([_server[0].stdout], [], [], timeout)[0]:
      os.kill(child, signal.SIGKILL)
    code = int(_server[0].stdout.readline())
    return subprocess.CompletedProcess(arguments, code, out.read(), err.read())
