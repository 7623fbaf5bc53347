"""Who may write to a model directory, and when."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from odd_paths import as_nobody

from deeplab_tf.training import model_folder
from deeplab_tf.training.model_folder import ModelFolder
from deeplab_tf.user_errors import HostError, UsageError

_HOLD = """
import os, sys, time
from deeplab_tf.training.model_folder import ModelFolder
folder = ModelFolder(sys.argv[1])
folder.reserve()
folder.begin('held')
if sys.argv[2] == 'child':
  ready, done = os.pipe()
  child = os.fork()
  if not child:
    os.write(done, b'x')
    time.sleep(60)
    os._exit(0)
  os.read(ready, 1)
  print('child', child, flush=True)
if sys.argv[2] == 'program':
  import subprocess
  print('child', subprocess.Popen(['sleep', '60'], close_fds=False).pid, flush=True)
print('held', flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
  """Starts processes that train in a folder; returns (process, its child's id or None)."""
  started = []

  def start(path, kind='alone'):
    process = subprocess.Popen([sys.executable, '-c', _HOLD, str(path), kind],
                               stdout=subprocess.PIPE, text=True)
    started.append(process.pid)
    child = None
    for line in process.stdout:
      if line.startswith('child'):
        child = int(line.split()[1])
        started.append(child)
      if line.startswith('held'):
        return process, child
    raise AssertionError('it ended')

  yield start
  for pid in started:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)


def snapshot(folder):
  """Returns name -> content and time of everything in a folder, and of the folder."""
  paths = [pathlib.Path(folder), *sorted(pathlib.Path(folder).rglob('*'))]
  return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
          for path in paths}


def test_a_second_training_is_refused_naming_the_first(tmp_path, hold):
  process, _ = hold(tmp_path)
  before = snapshot(tmp_path)
  wanted = (rf'another training \(process {process.pid} on host {socket.gethostname()} since '
            rf'\d{{4}}-\d\d-\d\d \d\d:\d\d\) writes to --model_dir={tmp_path}; wait for it')
  with pytest.raises(HostError, match=wanted):
    ModelFolder(str(tmp_path)).reserve()
  assert snapshot(tmp_path) == before


@pytest.mark.parametrize('kind', ['alone', 'child', 'program'])
def test_the_lock_dies_with_its_process_whatever_children_go_on(kind, tmp_path, hold):
  process, child = hold(tmp_path, kind)
  process.kill()
  process.wait()
  if child is not None:
    os.kill(child, 0)  # It lives.
  folder = ModelFolder(str(tmp_path))
  assert folder.reserve() == []
  folder.begin('next')
  assert json.loads((tmp_path / '.lock').read_text())['process'] == os.getpid()
  assert (tmp_path / 'config.textproto').read_text() == 'next'
  folder.release()


def test_a_start_changes_nothing_before_it_begins(tmp_path):
  first = ModelFolder(str(tmp_path / 'run'))
  first.reserve()
  assert not (tmp_path / 'run').exists()
  first.begin('a')
  first.release()
  before = snapshot(tmp_path)
  second = ModelFolder(str(tmp_path / 'run'))
  second.reserve()
  assert snapshot(tmp_path) == before
  with pytest.raises(HostError, match='another training'):  # It has the lock already.
    ModelFolder(str(tmp_path / 'run')).reserve()
  second.release()
  ModelFolder(str(tmp_path / 'run')).reserve()


def test_of_two_that_start_at_once_one_begins(tmp_path):
  first, second = ModelFolder(str(tmp_path / 'run')), ModelFolder(str(tmp_path / 'run'))
  first.reserve()
  second.reserve()  # No folder yet: nothing to lock.
  first.begin('a')
  with pytest.raises(HostError, match='another training'):
    second.begin('b')
  (tmp_path / 'run' / 'ckpt-5.index').write_bytes(b'')
  first.release()
  with pytest.raises(HostError, match='has written checkpoints .* since this one was started'):
    second.begin('b')
  assert (tmp_path / 'run' / 'config.textproto').read_text() == 'a'


def test_a_holder_that_has_not_signed_yet_is_not_mistaken_for_the_one_before(tmp_path):
  process = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(0,))
  process.start()
  process.join()
  (tmp_path / '.lock').write_text(json.dumps(
      {'process': process.pid, 'host': socket.gethostname(), 'since': '2026-01-01T00:00'}))
  holder = ModelFolder(str(tmp_path))
  holder.reserve()
  with pytest.raises(HostError, match='^another training writes to'):
    ModelFolder(str(tmp_path)).reserve()
  holder.release()


def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch):
  def no_locks(*_):
    raise OSError(model_folder.errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(model_folder.fcntl, 'flock', no_locks)
  (tmp_path / '.lock').touch()
  folder = ModelFolder(str(tmp_path))
  (line,) = folder.reserve()
  assert line.startswith(f'note: {tmp_path} is on a file system without locks')
  folder.begin('a')
  assert (tmp_path / 'config.textproto').read_text() == 'a'


_RESERVE = """
import sys
from deeplab_tf import cli
from deeplab_tf.training.model_folder import ModelFolder
sys.exit(cli.run(lambda _: print(ModelFolder(sys.argv[1]).reserve())))
"""


@pytest.mark.parametrize('name', ['', 'train', 'eval', 'log.jsonl', 'best_checkpoint', '.lock'])
def test_what_cannot_be_written_to_is_refused_in_one_line(name, tmp_path):
  run = tmp_path / 'run'
  run.mkdir()
  path = run / name if name else run
  if '.' in name:
    path.touch()
  else:
    path.mkdir(exist_ok=True)
  path.chmod(0o555)
  done = as_nobody(sys.executable, '-c', _RESERVE, str(run))
  path.chmod(0o755)
  assert done.returncode == 2
  line = done.stderr.splitlines()[-1]
  assert line.startswith(f'error: --model_dir={run} cannot be written to: ')
  assert str(path) in line


def test_a_new_folder_below_one_that_cannot_be_written_to_is_refused(tmp_path):
  (tmp_path / 'shared').mkdir()
  (tmp_path / 'shared').chmod(0o555)
  done = as_nobody(sys.executable, '-c', _RESERVE, str(tmp_path / 'shared' / 'a' / 'b'))
  assert done.returncode == 2 and f'write to {tmp_path}/shared,' in done.stderr
  (tmp_path / 'file').touch()
  with pytest.raises(HostError, match='file is not a folder'):
    ModelFolder(str(tmp_path / 'file' / 'run')).reserve()


def test_what_is_no_folder_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  for path, wanted in ((tmp_path / 'file', 'is a file'), ('gs://bucket/run', 'mount the bucket')):
    with pytest.raises(UsageError, match=wanted):
      ModelFolder(str(path))
  with pytest.raises(UsageError, match='does not exist'):
    ModelFolder(str(tmp_path / 'none'), must_exist=True)


def test_the_config_that_made_the_checkpoints_is_named(tmp_path):
  folder = ModelFolder(str(tmp_path))
  assert folder.same_model_advice() == 'use the config that made it, or another --model_dir'
  (tmp_path / 'config.textproto').touch()
  assert folder.same_model_advice() == (
      f'use the config that made it, {tmp_path}/config.textproto, or another --model_dir')
