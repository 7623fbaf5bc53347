"""Random numbers of stochastic layers as a pure function of a seed and the image.

A train step opens `seeded(seed, ...)` with a seed made of the run's seed and the step; inside,
each call of `uniform` draws from its own stream. So the same step gives the same numbers after a
restart, with and without XLA, and no variable has to be saved. Numbers are drawn for the whole
batch and each replica or part of it takes those of its own images, so that neither the number of
replicas nor gradient accumulation changes them. Outside of `seeded` the numbers come from
TensorFlow's global generator.
"""

import contextlib
import threading
from typing import Iterator, Optional, Sequence, Union

import tensorflow as tf

from deeplab_tf.layers.shapes import Dimension


class _Stream:

  def __init__(self, seed: tf.Tensor, images: Optional[int], first: Union[int, tf.Tensor]):
    self.seed = seed
    self.images = images
    self.first = first
    self.count = 0


class _Open(threading.local):
  """The open stream; each replica of a MirroredStrategy is traced in a thread of its own."""
  stream: Optional[_Stream] = None


_open = _Open()


@contextlib.contextmanager
def seeded(seed: tf.Tensor, images: Optional[int] = None,
           first: Union[int, tf.Tensor] = 0) -> Iterator[None]:
  """Makes `uniform` a function of a seed and of the image while the context is open.

  Args:
    seed: int32 or int64 [2], the run's seed and the step.
    images: Number of images in the whole batch; None: this part is the whole batch.
    first: Index in the batch of this part's first image, an int or int32 [].
  """
  previous, _open.stream = _open.stream, _Stream(tf.cast(seed, tf.int32), images, first)
  try:
    yield
  finally:
    _open.stream = previous


class Replay:
  """Lets a part of a network run several times with the random numbers of its first run."""

  def __init__(self):
    self._owns_stream = _open.stream is None
    self._stream = _open.stream
    if self._owns_stream:  # The global generator would not repeat itself.
      self._stream = _Stream(tf.random.uniform([2], 0, 2**31 - 1, tf.int32), None, 0)
    self._start = self._stream.count
    self._runs = 0

  @contextlib.contextmanager
  def run(self) -> Iterator[bool]:
    """Opens a context for one run; its value is whether the run is the first."""
    self._runs += 1
    is_first = self._runs == 1
    if is_first and not self._owns_stream:
      yield True
      return
    stream = _Stream(self._stream.seed, self._stream.images, self._stream.first)
    stream.count = self._start
    previous, _open.stream = _open.stream, stream
    try:
      yield is_first
    finally:
      _open.stream = previous


def uniform(shape: Sequence[Dimension]) -> tf.Tensor:
  """Returns float32 numbers in [0, 1) of a shape whose first dimension counts images."""
  stream = _open.stream
  if stream is None:
    return tf.random.uniform(shape)
  return _of_part(stream, _floats(_bits(stream, shape)), shape)


def image_seeds(images: Dimension) -> tf.Tensor:
  """Returns a seed for each image, int32 [images, 2].

  With `uniform_of` a loop over images draws many numbers for one image at a time. `uniform` would
  draw those of the whole batch at once.
  """
  stream = _open.stream
  if stream is None:
    return tf.random.uniform([images, 2], 0, 2**30, tf.int32)
  shape = [images, 2]
  # XLA and TensorFlow's kernels read negative seeds differently, also those of an overflow.
  positive = tf.bitwise.right_shift(_bits(stream, shape), tf.constant(2, tf.uint32))
  return _of_part(stream, tf.cast(positive, tf.int32), shape)


def uniform_of(seed: tf.Tensor, number: Union[int, tf.Tensor],
               shape: Sequence[Dimension]) -> tf.Tensor:
  """Returns float32 numbers in [0, 1) of any shape.

  Args:
    seed: int32 [2], seed of the image; see `image_seeds`.
    number: Number of the draw, an int or int32 []; draws of other numbers are independent.
    shape: Shape of the result.
  """
  return _floats(_philox(tf.stack([seed[0], seed[1] + number]), shape))


def _bits(stream: _Stream, shape: Sequence[Dimension]) -> tf.Tensor:
  """Returns uint32 of the next draw for all images of the batch."""
  stream.count += 1
  images = shape[0] if stream.images is None else stream.images
  seed = tf.stack([stream.seed[0], stream.seed[1] * 1009 + stream.count])
  return _philox(seed, [images, *shape[1:]])


def _of_part(stream: _Stream, drawn: tf.Tensor, shape: Sequence[Dimension]) -> tf.Tensor:
  """Returns the numbers of the images of this part of the batch."""
  if stream.images is None:
    return drawn
  return tf.slice(drawn, [stream.first] + [0] * (len(shape) - 1), shape)


def _philox(seed: tf.Tensor, shape: Sequence[Dimension]) -> tf.Tensor:
  # The bits of this generator are the same under XLA; the floats that TensorFlow makes are not.
  return tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, 'philox')


def _floats(bits: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
