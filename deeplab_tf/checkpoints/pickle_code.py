"""Checks of pickles before they are run.

A pickle is a program: it can ask for any function of any module, which an Unpickler's `find_class`
refuses, and it can take far more memory or time than its length warrants, which is checked here.
"""

import io
import pickle
import pickletools
import struct
import zipfile
import zlib
from typing import BinaryIO, Callable, NamedTuple

# Errors that reading a corrupt or malicious pickle raises.
ERRORS = (pickle.UnpicklingError, zipfile.BadZipFile, ArithmeticError, AttributeError, EOFError,
          ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
          struct.error, zlib.error)
# Largest number of values in a tuple, nested tuples included; a tensor has about 20. A dictionary
# hashes its keys, and the hash of a tuple visits all values: tuples that are nested some thousand
# deep crash the process, and pairs of pairs of pairs and so on take forever.
_LARGEST_TUPLE = 4096
_PUTS, _GETS = ('PUT', 'BINPUT', 'LONG_BINPUT'), ('GET', 'BINGET', 'LONG_BINGET')
# Opcodes that create unhashable objects, and those that change the first object that they take.
_MAKING = ('LIST', 'DICT')
_FILLING = ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD')


class Function(NamedTuple):
  """Wraps a function for pickles, which could change attributes of a plain one, e.g. defaults."""
  function: Callable

  def __call__(self, *args):
    return self.function(*args)


def take(stream: io.BytesIO, protocol: int) -> bytes:
  """Takes the next pickle out of a stream without running it; see `check`."""
  start = stream.tell()
  check(stream, protocol)
  return stream.getbuffer()[start:stream.tell()].tobytes()


def check(stream: BinaryIO, protocol: int) -> None:
  """Reads the next pickle of a stream up to its end without running it.

  Args:
    stream: Stream, of which `read` must not allocate more than there is.
    protocol: Highest protocol that the pickle may have.

  Raises:
    pickle.UnpicklingError: It would take more memory or time than its length warrants.
    ValueError: It is corrupt.
  """
  start, sizes = stream.tell(), _Sizes()
  for opcode, argument, _ in pickletools.genops(stream):
    if opcode.proto > protocol or opcode.name == 'PROTO' and argument > protocol:
      raise pickle.UnpicklingError(f'its pickle is of a protocol after {protocol}')
    try:
      sizes.follow(opcode, argument)
    except LookupError:
      raise pickle.UnpicklingError('its pickle takes objects that it has not made') from None
  if max(sizes.places, default=0) > stream.tell() - start:
    raise pickle.UnpicklingError('its pickle has a place far beyond its objects')


class _Sizes:
  """Simulates a pickle with the sizes of its objects in place of the objects.

  The size is the number of values that a hash would visit: 1, and for a tuple 1 plus the sizes of
  its values. The result of a function counts as a tuple of all its arguments.

  Attributes:
    places: Place where the pickle keeps an object -> size of the object.
  """

  def __init__(self):
    self.places = {}
    # The objects since the last mark, and the lists of those before it.
    self._stack, self._below = [], []

  def follow(self, opcode: pickletools.OpcodeInfo, argument) -> None:
    """Simulates an opcode.

    Raises:
      LookupError: It takes an object that does not exist.
      pickle.UnpicklingError: It creates too large a tuple.
    """
    name = opcode.name
    if name == 'MARK':
      self._below.append(self._stack)
      self._stack = []
    elif name in _PUTS:
      self.places[argument] = self._stack[-1]
    elif name == 'MEMOIZE':
      self.places[len(self.places)] = self._stack[-1]
    elif name in _GETS:
      self._stack.append(self.places[argument])
    elif name == 'DUP':
      self._stack.append(self._stack[-1])
    elif name == 'POP' and not self._stack:
      self._stack = self._below.pop()
    else:
      self._replace(opcode)

  def _replace(self, opcode):
    """Takes an opcode's objects from the stack, and pushes its result."""
    before, taken = opcode.stack_before, []
    if pickletools.markobject in before:
      taken, self._stack = self._stack, self._below.pop()
      before = before[:before.index(pickletools.markobject)]
    taken = [self._stack.pop() for _ in before][::-1] + taken
    if not opcode.stack_after:
      return
    if opcode.name in _FILLING:
      size = taken[0]
    else:
      size = 1 if opcode.name in _MAKING else 1 + sum(taken)
    if size > _LARGEST_TUPLE:
      raise pickle.UnpicklingError(f'its pickle has a tuple of more than {_LARGEST_TUPLE} values, '
                                   'with those of the tuples within it')
    self._stack.append(size)
