"""A user's error is one line, and a bug keeps its traceback."""

import errno
import os

import pytest

from deeplab_tf import cli, user_errors
from deeplab_tf.data import catalog

KINDS = [user_errors.UserError, user_errors.UsageError, user_errors.ConfigError,
         user_errors.DataError, user_errors.CheckpointError, user_errors.HostError,
         user_errors.MissingFileError]


def _raising(error):
  def main(argv):
    raise error
  return main


@pytest.mark.parametrize('kind', KINDS)
def test_an_error_raised_on_purpose_is_one_line_and_ends_with_two(kind, capsys):
  assert cli.run(_raising(kind('a.png: is\nno image'))) == 2
  assert capsys.readouterr().err == 'error: a.png: is no image\n'


def test_a_kind_of_error_may_have_an_exit_code_of_its_own(capsys):
  class Lost(user_errors.HostError):
    exit_code = 1

  assert cli.run(_raising(Lost('gone'))) == 1
  assert capsys.readouterr().err == 'error: gone\n'


@pytest.mark.parametrize('error', [
    ValueError('not enough values to unpack'), KeyError('id'), TypeError('no'),
    AttributeError('x'), IndexError('y'), RuntimeError('z'), AssertionError('w'),
    OSError(errno.EIO, 'Input/output error')])
def test_any_other_error_keeps_its_traceback_and_is_called_a_fault_of_the_program(error, capsys):
  assert cli.run(_raising(error)) == 1
  shown = capsys.readouterr().err
  assert 'Traceback' in shown and type(error).__name__ in shown
  assert shown.strip().split('\n')[-1].startswith('This is a bug in deeplab_tf')


def test_a_fault_inside_of_the_library_is_not_the_users(capsys, monkeypatch):
  """The last frame of the traceback is one of deeplab_tf, and the error a ValueError."""
  monkeypatch.setattr(catalog, 'built_in', lambda name: _unpack_wrongly())
  assert cli.run(lambda argv: catalog.built_in('shapes')) == 1
  assert 'Traceback' in capsys.readouterr().err
  source = compile('first, second = (1, 2, 3)', 'deeplab_tf/wrong.py', 'exec')
  assert cli.run(lambda argv: exec(source, {'__name__': 'deeplab_tf.wrong'})) == 1
  assert 'too many values to unpack' in capsys.readouterr().err


def _unpack_wrongly():
  first, second = (1, 2, 3)
  return first, second


@pytest.mark.parametrize('number', [
    errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EROFS])
def test_a_path_that_the_system_refuses_is_one_line(number, capsys):
  assert cli.run(_raising(OSError(number, os.strerror(number), 'runs/a'))) == 2
  assert capsys.readouterr().err == f'error: runs/a: {os.strerror(number)}\n'


def test_a_full_disk_is_one_line_and_ends_with_one(capsys):
  error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'runs/a')
  assert cli.run(_raising(error)) == 1
  assert capsys.readouterr().err == f'error: runs/a: {os.strerror(errno.ENOSPC)}\n'
