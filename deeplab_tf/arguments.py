"""Common flags of programs, with errors of one line."""

import argparse
import os
import re
from typing import NoReturn

from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import MissingFileError, UsageError


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line."""

  def __init__(self, program: str, description: str, epilog: str = ''):
    """Initializes the parser.

    Args:
      program: Program name in the help.
      description: Docstring of the program, with its purpose and usage.
      epilog: Text at the end of the help.
    """
    super().__init__(program, description=description, epilog=epilog, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)

  def error(self, message: str) -> NoReturn:
    """Raises a UsageError."""
    raise UsageError(f'{message}; see --help')

  def add_config(self, required: bool = True) -> None:
    """Adds --config_file and --override."""
    self.add_argument('--config_file', required=required, metavar='F', type=path,
                      help='config of the experiment, a textproto; see configs/')
    self.add_argument('--override', action='append', default=[], metavar='TEXTPROTO',
                      help='textproto merged into the config; e.g. '
                      "'evaluator_options { thing_area_limit: 0 }'; may be given several times, "
                      'and the last value of a field counts')

  def add_checkpoint(self) -> None:
    """Adds --checkpoint."""
    self.add_argument('--checkpoint', required=True, metavar='C', type=path,
                      help='a prefix such as runs/a/ckpt-1000, or a folder with its latest '
                      'checkpoint')

  def add_output_dir(self) -> None:
    """Adds --output_dir; see check_output_dir and make_output_dir."""
    self.add_argument('--output_dir', required=True, metavar='D', type=path,
                      help='output folder')


def path(text: str) -> str:
  """Converts a flag to a path; '~' at the start is the home folder, like in a shell."""
  if not text:
    raise argparse.ArgumentTypeError('is empty; give a path')
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:
    raise argparse.ArgumentTypeError(
        f'{ascii(text)} is not UTF-8, which TensorFlow requires of names; rename it') from None
  return text if os.path.lexists(text) else os.path.expanduser(text)


def check_output_dir(path: str) -> None:
  """Raises a UsageError if --output_dir is a file or is not writable."""
  if os.path.isfile(path):
    raise UsageError(f'--output_dir={path} is a file; give a folder')
  reason = atomic_file.why_not_writable(path)
  if reason:
    raise UsageError(f'--output_dir={path} cannot be written to: {reason}; give another folder')


def check_output_file(path: str, kind: str) -> None:
  """Raises an error if --output cannot be written.

  Args:
    path: Value of the flag.
    kind: Kind of file that is written, such as 'JSON', for the message.
  """
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder):
    raise MissingFileError(f'--output={path}: there is no folder {folder}; create it first')
  if os.path.isdir(path):
    raise UsageError(f'--output={path} is a folder; name a {kind} file')
  reason = atomic_file.why_not_writable(folder) or atomic_file.why_not_writable(path)
  if reason:
    raise UsageError(f'--output={path} cannot be written to: {reason}; give another file')


def make_output_dir(path: str) -> None:
  """Creates --output_dir if it does not exist."""
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise UsageError(f'--output_dir={path} cannot be created: {error.strerror}') from None


def size(text: str) -> tuple[int, int]:
  """Converts a flag HEIGHTxWIDTH, or one number for both, to a size."""
  match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
  found = match and (int(match[1]), int(match[2] or match[1]))
  if not found or 0 in found:
    raise argparse.ArgumentTypeError(f'"{text}" is not a size: give HEIGHTxWIDTH, e.g. 641x641')
  return found


def positive(text: str) -> int:
  """Converts a flag to a positive integer."""
  if not text.isdigit() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'"{text}" is not a whole number of at least 1')
  return int(text)
