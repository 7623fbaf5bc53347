"""How the programs start and end: 0 on success, 2 with one line on bad input, 1 otherwise."""

import errno
import os
import sys
import warnings
from typing import Callable, Optional, Sequence

_BAD_INPUT = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError,
              FileExistsError, PermissionError)
# Characters of an error.
_LONGEST = 4000


class UsageError(ValueError):
  """Wrong use or bad input; the message is one line for the user."""


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
    0, or 2 after bad input (an error that deeplab_tf raised on purpose, or a missing file) with
    one line on standard error, or 1 with one line when a disk is full. Anything else propagates:
    Python prints it and exits 1.
  """
  quiet_tensorflow()
  try:
    main(argv)
  except _BAD_INPUT as error:
    if not is_user_error(error):
      raise
    print('error: ' + one_line(str(error)), file=sys.stderr)
    return 2
  except OSError as error:
    if not is_disk_full(error):
      raise
    where = f'{error.filename}: ' if error.filename else ''
    print(f'error: {where}{error.strerror}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  return 0


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


def is_user_error(error: BaseException) -> bool:
  """Whether an error was raised by deeplab_tf on purpose, and not deep inside a library.

  A ValueError from inside TensorFlow is a fault of ours and keeps its traceback.
  """
  if isinstance(error, (UsageError, OSError)):
    return True
  traceback = error.__traceback__
  while traceback is not None and traceback.tb_next is not None:
    traceback = traceback.tb_next
  name = traceback.tb_frame.f_globals.get('__name__', '') if traceback else ''
  return name == '__main__' or name.split('.')[0] == 'deeplab_tf'
