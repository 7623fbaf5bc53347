"""Turns errors about the content of data files inside tf.data into one line for the user.

A tf.data graph can only fail with a long TensorFlow message. The checks of this module put their
line between marks, and `describe_data_error` extracts it. TensorFlow does not name a record file
that is corrupt, so the files in use are remembered and searched on failure.
"""

import contextlib
import errno
import os
import re
from typing import Any, Callable, Iterator, Optional, Sequence

import tensorflow as tf

from deeplab_tf import cli
from deeplab_tf.user_errors import HostError, MissingFileError

_START, _END = '<<data: ', ' :data>>'
_MARKED = re.compile(f'{_START}(.*?){_END}', re.DOTALL)

# Number of bytes of a file's text that are quoted in a message.
_LONGEST_TEXT = 1000

# TensorFlow's message that a file cannot be opened: the path, and the reason of the system.
_NOT_OPENED = re.compile('(\\S[^\n]*?); (' + '|'.join(
    re.escape(os.strerror(number)) for number in (
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EISDIR,
        errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP)) + ')')

# Searches for problems of the files in use, added by the readers. The latest are called first.
_diagnoses: dict[str, Callable[[], Optional[str]]] = {}


def check(condition: tf.Tensor, message: Callable[[], Sequence]) -> tf.Operation:
  """Stops the input pipeline with one line for the user unless the condition holds.

  Args:
    condition: bool [].
    message: Returns strings and scalar tensors that are joined to the line; it is computed only
      on failure.

  Returns:
    A value for tf.control_dependencies.
  """

  def fail():
    parts = [part if isinstance(part, str) else _text(part) for part in message()]
    line = tf.strings.join([_START, *parts, _END])
    # Python cannot decode an error message that is not UTF-8.
    line = tf.strings.unicode_transcode(line, 'UTF-8', 'UTF-8')
    with tf.control_dependencies([tf.debugging.Assert(False, [line])]):
      return tf.constant(False)

  return tf.cond(condition, lambda: tf.constant(True), fail)


def or_say(value: tf.Tensor, function: Callable[[tf.Tensor], Any],
           message: Callable[[], Sequence]) -> Any:
  """Computes a function of a tensor; if it fails, stops the pipeline with one line for the user.

  TensorFlow's own message does not name the file. This costs about half a millisecond.

  Args:
    value: Argument of the function.
    function: Function that returns tensors.
    message: Returns the parts of the line; see `check`.
  """
  def fail(value):
    with tf.control_dependencies([check(tf.constant(False), message)]):
      return function(value)

  # Only a tf.data.Dataset can continue after an error.
  once = tf.data.Dataset.from_tensors(value)
  return once.map(function).ignore_errors().concatenate(once.map(fail)).take(1).get_single_element()


def marked(message: str) -> str:
  """Returns a message with marks, so that `describe_data_error` finds it in TensorFlow's."""
  return f'{_START}{message}{_END}'


def _text(value):
  if value.dtype == tf.string:
    return tf.strings.substr(value, 0, _LONGEST_TEXT)
  return tf.strings.as_string(value)


@contextlib.contextmanager
def opening(path: str) -> Iterator[None]:
  """Turns TensorFlow's failure to open a file into an error for the user.

  Raises:
    MissingFileError: The file does not exist.
    HostError: The file cannot be opened.
  """
  try:
    yield
  except tf.errors.OpError as error:
    line = cannot_open(error) or f'{path}: cannot be opened: {reason(error)}'
    kind = MissingFileError if isinstance(error, tf.errors.NotFoundError) else HostError
    raise kind(line) from None


def cannot_open(error: Exception) -> Optional[str]:
  """Returns a line with path and reason if an error says that a file cannot be opened, or None.

  Args:
    error: Exception that TensorFlow raised.
  """
  found = _NOT_OPENED.search(re.sub(r'\{\{.*?\}\}', '', str(error)))
  if not found:
    return None
  is_missing = found[2] == os.strerror(errno.ENOENT)
  return cli.one_line(f'{found[1]}: {"" if is_missing else "cannot be opened: "}{found[2]}')


def on_failure(name: str, diagnose: Callable[[], Optional[str]]) -> None:
  """Adds a search for the cause of failures that TensorFlow does not explain.

  Args:
    name: Key of the search; an earlier search with this key is replaced.
    diagnose: Returns one line, or None if no problem is found.
  """
  _diagnoses.pop(name, None)
  _diagnoses[name] = diagnose


def describe_data_error(error: tf.errors.OpError) -> str:
  """Returns one line that names the data file that caused an error, and what is wrong with it.

  Args:
    error: Exception raised while iterating over a data set.
  """
  line = stated(error) or cannot_open(error)
  if line:
    return line
  if isinstance(error, (tf.errors.DataLossError, tf.errors.OutOfRangeError,
                        tf.errors.NotFoundError, tf.errors.InvalidArgumentError)):
    for diagnose in reversed(list(_diagnoses.values())):
      line = diagnose()
      if line:
        return line
  return f'the input pipeline failed: {cli.one_line(str(error))[:400]}'


def stated(error: Exception) -> Optional[str]:
  """Returns the line that `check` or `marked` put into an error, or None."""
  found = _MARKED.search(str(error))
  return cli.one_line(_unescape(found.group(1), str(error))) if found else None


def reason(error: Exception) -> str:
  """Returns the start of a TensorFlow message, without the names of nodes and ops."""
  text = re.sub(r'\{\{.*?\}\}|\[Op:.*?\]( name:)?', '', str(error))
  return cli.one_line(text)[:200]


def _unescape(line, text):
  """Undoes the escaping of quotes and non-ASCII bytes by tf.debugging.Assert."""
  if 'assertion failed' not in text:
    return line
  return line.encode().decode('unicode_escape').encode('latin-1').decode('utf-8', 'replace')
