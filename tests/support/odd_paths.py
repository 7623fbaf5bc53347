"""Unusual names of folders, and processes without the rights of root."""

import os
import shutil
import subprocess

import pytest

NAMES = ('lr=[0.1]', 'a*', 'what?', 'back\\slash', '{a,b}', 'two words', 'Größe', '#1', '100%',
         "it's", '"quoted"', '-x', '~', '$HOME', 'a;b')


def as_nobody(*command: str, **options) -> subprocess.CompletedProcess:
  """Runs a command to which permissions apply, whoever runs the tests."""
  if os.getuid() == 0:
    if shutil.which('setpriv') is None:
      pytest.skip('giving up the rights of root needs setpriv')
    rights = '-dac_override,-dac_read_search'
    command = ('setpriv', '--bounding-set', rights, '--inh-caps', rights, *command)
  return subprocess.run(command, capture_output=True, text=True, check=False,
                        env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', **options}, timeout=300)
