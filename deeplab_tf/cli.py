"""How the programs end: 0 on success, 2 with one line on bad input, 1 otherwise."""

import os
import sys
from typing import Callable, Optional, Sequence


class UsageError(ValueError):
  """Wrong use or bad input; the message is one line for the user."""


def quiet_tensorflow() -> None:
  """Silences TensorFlow's start-up notices; call before it is imported."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')


def run(main: Callable[[Optional[Sequence[str]]], None],
        argv: Optional[Sequence[str]] = None) -> int:
  """Runs a program and returns its exit code.

  Args:
    main: The program; takes the arguments without the program's name, or None for those of
      the process.
    argv: Passed to it.

  Returns:
    0, or 2 after bad input (ValueError, FileNotFoundError, NotADirectoryError,
    IsADirectoryError, FileExistsError) with one line on standard error. Anything else
    propagates: Python prints it and exits 1.
  """
  bad_input = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError,
               FileExistsError)
  try:
    main(argv)
  except bad_input as error:
    if not is_user_error(error):
      raise
    print('error: ' + ' '.join(str(error).split()), file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  return 0


def is_user_error(error: BaseException) -> bool:
  """Whether an error was raised by deeplab_tf on purpose, and not deep inside a library.

  A ValueError from inside TensorFlow is a fault of ours and keeps its traceback.
  """
  if isinstance(error, (UsageError, FileNotFoundError)):
    return True
  traceback = error.__traceback__
  while traceback is not None and traceback.tb_next is not None:
    traceback = traceback.tb_next
  name = traceback.tb_frame.f_globals.get('__name__', '') if traceback else ''
  return name == '__main__' or name.split('.')[0] == 'deeplab_tf'
