"""Start and exit codes of programs: 0 on success, 2 with one line on invalid input, else 1."""

import errno
import os
import sys
import traceback
import warnings
from typing import Callable, Optional, Sequence

from deeplab_tf.user_errors import UserError

# Errors of the operating system about a path given by the user.
_OF_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError,
             PermissionError)
_NUMBERS_OF_PATHS = (errno.EROFS, errno.ENAMETOOLONG)  # They have no exception class.

# Maximum number of characters of an error message.
_LONGEST = 4000


def quiet_tensorflow() -> None:
  """Silences log messages of TensorFlow, its imports and Pillow on which users cannot act.

  Must be called before TensorFlow is imported.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  warnings.filterwarnings('ignore', category=FutureWarning, module='google')
  warnings.filterwarnings('ignore', category=UserWarning, module='tensorflow_addons')
  warnings.filterwarnings('ignore', module='PIL')


def run(main: Callable[[Optional[Sequence[str]]], None],
        argv: Optional[Sequence[str]] = None) -> int:
  """Runs a program and returns its exit code.

  Args:
    main: Main function. It is called with the arguments without the program name, or with None to
      use the arguments of the process.
    argv: Argument of `main`.

  Returns:
    0 on success. With one line on standard error: the exit_code of a UserError (usually 2), 2 if a
    path cannot be read or written, or 1 if a disk is full. 130 after an interrupt. 1 with a
    traceback after any other exception, which is a bug.
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
  except Exception:  # pylint: disable=broad-except; any other exception is a bug.
    return _fault()
  return 0


def _end(line: str, code: int) -> int:
  print('error: ' + one_line(line), file=sys.stderr)
  return code


def _fault() -> int:
  traceback.print_exc()
  print('This is a bug in deeplab_tf, not in your input. Please report it with the lines above '
        'and the command.', file=sys.stderr)
  return 1


def _os_reason(error: OSError) -> str:
  """Returns the path and the error message of the operating system."""
  where = f'{error.filename}: ' if error.filename else ''
  return f'{where}{error.strerror or error or type(error).__name__}'


def one_line(text: str) -> str:
  """Returns a text, which may include content of files, as one printable line."""
  line = ' '.join(text.split())
  line = ''.join(char if char.isprintable() else '\ufffd' for char in line)
  return line if len(line) <= _LONGEST else f'{line[:_LONGEST // 2]} ... {line[-_LONGEST // 2:]}'


def is_disk_full(error: Exception) -> bool:
  """Returns whether an error of Python or TensorFlow means that a disk or quota is full."""
  full = (errno.ENOSPC, errno.EDQUOT)
  return (isinstance(error, OSError) and error.errno in full
          or any(os.strerror(number) in str(error) for number in full))
