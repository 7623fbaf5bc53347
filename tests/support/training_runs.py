"""Runs the training program as users do, and reads its output."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'trainer' / 'train.py'


def start(config_file, model_dir, *arguments, **environment) -> subprocess.Popen:
  """Starts a training; its output is read by `communicate`."""
  return subprocess.Popen(
      [sys.executable, str(PROGRAM), f'--config_file={config_file}', f'--model_dir={model_dir}',
       *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env={**os.environ, **environment})


def run(config_file, model_dir, *arguments, expect=0, **environment) -> subprocess.Popen:
  """Runs a training to its end and checks its exit code; has `out` and `err`."""
  return finish(start(config_file, model_dir, *arguments, **environment), expect)


def finish(process: subprocess.Popen, expect=0, timeout=300) -> subprocess.Popen:
  """Waits for the end of a training and checks its exit code; sets `out` and `err`."""
  process.out, process.err = process.communicate(timeout=timeout)
  assert process.returncode == expect, (process.returncode, process.out[-2000:],
                                        process.err[-3000:])
  return process


def kill(config_file, model_dir, after_step: int) -> None:
  """Trains until a step is complete, and then kills the process."""
  arguments = [f'--config_file={config_file}', f'--model_dir={model_dir}', '--mode=train']
  killed = subprocess.run([sys.executable, '-c', textwrap.dedent(f"""
      import os, signal
      from deeplab_tf.training.reporting import monitor
      from deeplab_tf.trainer import train
      on_step = monitor.TrainingMonitor.on_step
      def kill(self, step, output, seconds):
        on_step(self, step, output, seconds)
        if step == {after_step}:
          os.kill(os.getpid(), signal.SIGKILL)
      monitor.TrainingMonitor.on_step = kill
      train.main({arguments!r})
  """)], capture_output=True, text=True, check=False)
  assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]


def error_line(process) -> str:
  """Returns the one line of ours on standard error of a finished training."""
  lines = [line for line in process.err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, process.err
  assert 'Traceback' not in process.err
  return lines[0]


def read_log(model_dir) -> list[dict]:
  """Returns the events of log.jsonl; a line that a kill cut off is left out."""
  path = pathlib.Path(model_dir) / 'log.jsonl'
  events = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      events.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return events


def losses(model_dir) -> dict[int, list[float]]:
  """Returns step -> the total losses that were logged there, one for each time it was done."""
  found = {}
  for event in read_log(model_dir):
    if event['event'] == 'train':
      found.setdefault(event['step'], []).append(event['losses/total'])
  return found
