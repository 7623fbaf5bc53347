"""Corrupt images: each is reported once, and more than the configured limit stop the run.

A training image that cannot be read is replaced by the one before it in the stream, so that all
other samples keep their places; in evaluation it is left out. The replacement depends only on the
stream, not on where the run was resumed or how many workers share it.
"""

import sys
import threading
from typing import Callable, NamedTuple, Optional, Protocol

import numpy as np
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.data import errors
from deeplab_tf.user_errors import DataError

# Number of images before a corrupt one that are tried in its place.
EARLIER = 16
# Number of images listed in the error about too many corrupt images.
_LISTED = 3


class Source(Protocol):
  """Images that are read individually by address, an int64 tensor of fixed shape."""

  def load(self, address: tf.Tensor) -> structures.LabeledImage:
    """Reads an image; runs inside tf.data, and fails if the image is corrupt."""

  def place(self, address: np.ndarray) -> str:
    """Returns the name of an image for messages."""

  def fault(self, address: np.ndarray) -> Optional[str]:
    """Returns one line that says what is wrong with an image; None if no problem is found."""


# --- Counting ---------------------------------------------------------------------------------


class Log:
  """Counts distinct corrupt images; thread-safe.

  Args:
    field: Field path of the DatasetOptions.
    limit: Largest number of corrupt images, `max_damaged_images` of the DatasetOptions.
  """

  def __init__(self, field: str, limit: int):
    self._field = field
    self._limit = limit
    self._lines: dict[str, str] = {}
    self._lock = threading.Lock()

  def add(self, place: str, fault: Callable[[], Optional[str]]) -> None:
    """Counts an image if it is new, and reports on standard error that it is left out.

    Args:
      place: Name that identifies the image.
      fault: Returns one line that says what is wrong; only called for new images.

    Raises:
      ValueError: The limit is exceeded; the message is marked as that of `errors.check`.
    """
    if place not in self._lines:
      line = fault() or f'{place}: cannot be read, but a second look finds nothing wrong with it'
      with self._lock:
        self._add(place, line)
    if len(self._lines) > self._limit:
      raise DataError(errors.marked(self._verdict()))

  def _add(self, place, line):
    # Images after the first one beyond the limit do not change the message.
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
  """Returns this process's log for the given DatasetOptions.

  It is shared, so that an image counts once however often a training evaluates.
  """
  key = (field, options.SerializeToString(deterministic=True))
  return _logs.setdefault(key, Log(field, options.max_damaged_images))


# --- Reading ----------------------------------------------------------------------------------


class Loaded(NamedTuple):
  """An image, or a blank one where none could be read.

  Attributes:
    example: The image, a LabeledImage.
    is_intact: bool [], false for a blank image.
  """
  example: structures.LabeledImage
  is_intact: tf.Tensor


class Guard:
  """Reads images of which some may be corrupt.

  Args:
    source: Source of the images.
    log: Counts the corrupt images.
    blank: Returns the blank image.
  """

  def __init__(self, source: Source, log: Log, blank: Callable[[], structures.LabeledImage]):
    self._source = source
    self._log = log
    self._make_blank = blank

  def load(self, candidates: tf.Tensor) -> Loaded:
    """Returns the first intact image among candidates; later ones are read only if needed.

    Runs inside tf.data; fails once the limit of the log is exceeded.

    Args:
      candidates: int64 [images, ...], addresses.
    """
    # Only a tf.data.Dataset can continue after an error.
    first = _one(candidates, lambda c: self._intact(c[0])).ignore_errors()
    others = tf.data.Dataset.from_tensors(candidates).flat_map(self._search)
    return first.concatenate(others).take(1).get_single_element()

  def _intact(self, address):
    return Loaded(self._source.load(address), tf.constant(True))

  def _search(self, candidates):
    """Returns a tf.data.Dataset of Loaded, intact ones first; reports what cannot be read."""
    attempts = tf.data.Dataset.from_tensor_slices(candidates).flat_map(self._attempt)
    found = attempts.filter(lambda loaded: loaded.is_intact)
    return found.concatenate(_one(candidates, lambda _: self._blank(False)))

  def _attempt(self, address):
    """Returns a tf.data.Dataset of one Loaded; an image that cannot be read is diagnosed."""
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
  """Returns a tf.data.Dataset of one element that is computed lazily."""
  return tf.data.Dataset.from_tensors(value).map(function)


def alone(addresses: tf.data.Dataset) -> tf.data.Dataset:
  """Turns (address,) into (candidates,), int64 [1, ...], so that no image is replaced."""
  return addresses.map(lambda address: (address[None],))


def with_earlier(numbered: tf.data.Dataset) -> tf.data.Dataset:
  """Joins each address of a stream with those before it, the nearest first.

  Args:
    numbered: Data set of (number, (address,)), with consecutive numbers.

  Returns:
    Data set of (number, (candidates,)), int64 [1 to EARLIER + 1, ...]. There are fewer candidates
    at the start, where the number is less than EARLIER. If the stream starts at a later number,
    its first EARLIER elements are invalid.
  """
  address = numbered.element_spec[1][0]

  def push(window, element):
    number, (address,) = element
    window = tf.concat([address[None], window[:-1]], 0)
    return window, (number, (window[:tf.minimum(number, EARLIER) + 1],))

  return numbered.scan(tf.zeros([EARLIER + 1, *address.shape], address.dtype), push)
