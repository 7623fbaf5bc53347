"""How the programs start and end: 0 on success, 2 with one line on bad input, 1 otherwise."""

import errno
import os
import sys
import traceback
import warnings
from typing import Callable, Optional, Sequence

from deeplab_tf.user_errors import UserError

# What the operating system says of a path that the user named: absent, no such kind, not allowed.
_OF_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError,
             PermissionError)
_NUMBERS_OF_PATHS = (errno.EROFS, errno.ENAMETOOLONG)  # Which have no class of their own.

# Characters of an error.
_LONGEST = 4000


def quiet_tensorflow() -> None:
  """Silences notices of TensorFlow, of its imports and of Pillow that no user can act on.

  Call before TensorFlow is imported.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  warnings.filterwarnings('ignore', category=FutureWarning, module='google')
  warnings.filterwarnings('ignore', category=UserWarning, module='tensorflow_addons')
  warnings.filterwarnings('ignore', module='PIL')


def run(main: Callable[[Optional[Sequence[str]]], None],
        argv: Optional[Sequence[str]] = None) -> int:
  """Runs a program and returns its exit code.

  Args:
    main: The program; takes the arguments without the program's name, or None for those of
      the process.
    argv: Passed to it.

  Returns:
    0; the exit_code of a UserError, 2 with few exceptions, or 2 when a path cannot be read or
    written, each with one line on standard error; 1 with one line when a disk is full; 130 after
    an interrupt; 1 after any other exception, which is a fault of the program: its traceback is
    printed, and a line that says so.
  """
  quiet_tensorflow()
  try:
    main(argv)
  except UserError as error:
    return _end(str(error), error.exit_code)
  except OSError as error:
    if is_disk_full(error):
      return _end(_os_reason(error), 1)
    if not isinstance(error, _OF_PATHS) and error.errno not in _NUMBERS_OF_PATHS:
      return _fault()
    return _end(_os_reason(error), 2)
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  except Exception:  # pylint: disable=broad-except; whatever it is, it is a fault of ours.
    return _fault()
  return 0


def _end(line: str, code: int) -> int:
  print('error: ' + one_line(line), file=sys.stderr)
  return code


def _fault() -> int:
  traceback.print_exc()
  print('This is a fault of deeplab_tf and not of your input. Please report it with the lines '
        'above and the command.', file=sys.stderr)
  return 1


def _os_reason(error: OSError) -> str:
  """Returns the path and what the operating system says about it."""
  where = f'{error.filename}: ' if error.filename else ''
  return f'{where}{error.strerror or error or type(error).__name__}'


def one_line(text: str) -> str:
  """Returns a text, with what a file may have put into it, as a line that a terminal can show."""
  line = ' '.join(text.split())
  line = ''.join(char if char.isprintable() else '\ufffd' for char in line)
  return line if len(line) <= _LONGEST else f'{line[:_LONGEST // 2]} ... {line[-_LONGEST // 2:]}'


def is_disk_full(error: Exception) -> bool:
  """Whether an error of Python or of TensorFlow says that a disk or a quota is full."""
  full = (errno.ENOSPC, errno.EDQUOT)
  return (isinstance(error, OSError) and error.errno in full
          or any(os.strerror(number) in str(error) for number in full))
