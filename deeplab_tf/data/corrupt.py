"""Damaged images: each is named once, they are counted, and beyond a limit they stop the run.

A training image that cannot be read is replaced by the one before it in the stream, so that no
other sample moves; in evaluation it is left out. What replaces it depends on the stream alone,
neither on where the run was resumed nor on how many workers share it.
"""

import sys
import threading
from typing import Callable, NamedTuple, Optional, Protocol

import numpy as np
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.data import errors
from deeplab_tf.user_errors import DataError

# So many images before a damaged one are tried in its place.
EARLIER = 16
# So many are listed when there are too many.
_LISTED = 3


class Source(Protocol):
  """Images that are read one by one, each by its address, int64 of a fixed shape."""

  def load(self, address: tf.Tensor) -> structures.LabeledImage:
    """Reads an image; runs inside tf.data, and fails if it is damaged."""

  def place(self, address: np.ndarray) -> str:
    """Returns what the user calls the image."""

  def fault(self, address: np.ndarray) -> Optional[str]:
    """Returns one line about what is wrong with an image; None if nothing is found."""


# --- Counting ---------------------------------------------------------------------------------


class Log:
  """Counts different damaged images; any thread may add to it.

  Args:
    field: Path of the DatasetOptions.
    limit: Their max_damaged_images.
  """

  def __init__(self, field: str, limit: int):
    self._field = field
    self._limit = limit
    self._lines: dict[str, str] = {}
    self._lock = threading.Lock()

  def add(self, place: str, fault: Callable[[], Optional[str]]) -> None:
    """Counts an image if it is new, and says on standard error that it is left out.

    Args:
      place: Tells images apart.
      fault: Finds the line about it; called for new images.

    Raises:
      ValueError: There are more than the limit; the message is marked as that of a check.
    """
    if place not in self._lines:
      line = fault() or f'{place}: cannot be read, but a second look finds nothing wrong with it'
      with self._lock:
        self._add(place, line)
    if len(self._lines) > self._limit:
      raise DataError(errors.marked(self._verdict()))

  def _add(self, place, line):
    # Whatever comes after the one too many does not change the verdict.
    if place in self._lines or len(self._lines) > self._limit:
      return
    self._lines[place] = line
    if len(self._lines) <= self._limit:
      print(f'WARNING: left out: {line}', file=sys.stderr, flush=True)

  def _verdict(self):
    lines = list(self._lines.values())
    listed = lines[:_LISTED]
    if len(lines) > _LISTED:
      listed.append(f'and {len(lines) - _LISTED} more')
    return (f'{self._field}.max_damaged_images is {self._limit} and {len(lines)} images cannot be '
            f'read: {"; ".join(listed)}; repair or remove them, or raise the limit')


_logs: dict[tuple, Log] = {}


def log_of(options, field: str) -> Log:
  """Returns this process's log of the images that DatasetOptions name.

  A training evaluates many times: an image counts once all the same.
  """
  key = (field, options.SerializeToString(deterministic=True))
  return _logs.setdefault(key, Log(field, options.max_damaged_images))


# --- Reading ----------------------------------------------------------------------------------


class Loaded(NamedTuple):
  """An image, or a blank one where none could be read.

  Attributes:
    example: LabeledImage.
    is_intact: bool [].
  """
  example: structures.LabeledImage
  is_intact: tf.Tensor


class Guard:
  """Reads images of which some may be damaged.

  Args:
    source: The images.
    log: Counts the damaged ones.
    blank: Returns the blank image.
  """

  def __init__(self, source: Source, log: Log, blank: Callable[[], structures.LabeledImage]):
    self._source = source
    self._log = log
    self._make_blank = blank

  def load(self, candidates: tf.Tensor) -> Loaded:
    """Reads the first intact image of several, the later ones only if they are needed.

    Runs inside tf.data; it fails once the log is full.

    Args:
      candidates: int64 [images, ...], addresses.
    """
    # Only a data set can go on after an error.
    first = _one(candidates, lambda c: self._intact(c[0])).ignore_errors()
    others = tf.data.Dataset.from_tensors(candidates).flat_map(self._search)
    return first.concatenate(others).take(1).get_single_element()

  def _intact(self, address):
    return Loaded(self._source.load(address), tf.constant(True))

  def _search(self, candidates):
    """A data set of Loaded, the first of which is wanted; what cannot be read is reported."""
    attempts = tf.data.Dataset.from_tensor_slices(candidates).flat_map(self._attempt)
    found = attempts.filter(lambda loaded: loaded.is_intact)
    return found.concatenate(_one(candidates, lambda _: self._blank(False)))

  def _attempt(self, address):
    """A data set of one Loaded; the image is looked at again if it cannot be read."""
    intact = _one(address, self._intact).ignore_errors()
    return intact.concatenate(_one(address, self._report)).take(1)

  def _report(self, address):
    reported = tf.numpy_function(self._add_to_log, [address], tf.bool)
    return self._blank(tf.ensure_shape(reported, []))

  def _add_to_log(self, address):
    source = self._source
    with tf.device('CPU:0'):
      self._log.add(source.place(address), lambda: source.fault(address))
    return np.False_

  def _blank(self, is_intact):
    return Loaded(self._make_blank(), tf.convert_to_tensor(is_intact))


def _one(value, function):
  """A data set of one element, computed when it is needed."""
  return tf.data.Dataset.from_tensors(value).map(function)


def alone(addresses: tf.data.Dataset) -> tf.data.Dataset:
  """Turns (address,) into (candidates,), int64 [1, ...]: nothing stands in for an image."""
  return addresses.map(lambda address: (address[None],))


def with_earlier(numbered: tf.data.Dataset) -> tf.data.Dataset:
  """Joins each address of a stream with those before it, the nearest first.

  Args:
    numbered: (number, (address,)), numbers rising by 1.

  Returns:
    (number, (candidates,)), int64 [1 to EARLIER + 1, ...]: fewer at the start, where the number
    is less than EARLIER. The first EARLIER elements of a stream that starts later are no use.
  """
  address = numbered.element_spec[1][0]

  def push(window, element):
    number, (address,) = element
    window = tf.concat([address[None], window[:-1]], 0)
    return window, (number, (window[:tf.minimum(number, EARLIER) + 1],))

  return numbered.scan(tf.zeros([EARLIER + 1, *address.shape], address.dtype), push)
