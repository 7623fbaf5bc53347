"""Matches image names and ids of one list with those of another.

Names are compared by their whole relative path first, and by their stem last. Differences in
folders, separators (`\\` and `/`), case, Unicode normalization, extension, and the suffixes of
Cityscapes' tools are ignored if no other name matches better. If several names match equally well,
the name is ambiguous and not matched.
"""

import collections
import posixpath
import unicodedata
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from deeplab_tf import file_names, listing

ImageId = Union[int, str]
# Suffixes of the stems of Cityscapes' files, which are not part of image ids. Its panoptic JSONs
# list images as NAME_gtFine_leftImg8bit.png, although no file has this name.
_CITYSCAPES_ENDS = ('_gtFine_leftImg8bit', '_leftImg8bit', '_gtFine_panoptic',
                    '_gtFine_labelTrainIds', '_gtFine_labelIds', '_gtFine_instanceIds', '_gtFine')
_SHOWN = 3


def normalized(name: str) -> str:
  """Returns a path with `/` as separator, in Unicode normal form C, without empty parts or `.`."""
  return unicodedata.normalize('NFC', '/'.join(file_names.parts(name)))


def stem(name: str) -> str:
  """Returns the base name of a path without an image extension."""
  base = posixpath.basename(normalized(name))
  root, extension = posixpath.splitext(base)
  return root if extension.lower() in listing.IMAGE_EXTENSIONS and root else base


def without_cityscapes_ends(text: str) -> str:
  """Returns CITY_SEQUENCE_FRAME of a Cityscapes file's stem; other stems are unchanged."""
  for end in _CITYSCAPES_ENDS:
    if text.endswith(end) and len(text) > len(end):
      return text[:-len(end)]
  return text


def id_order(image_id: ImageId) -> Tuple[bool, ImageId]:
  """Returns a sort key for ids of both types: numbers first, then strings."""
  return isinstance(image_id, str), image_id


def other_type(image_id: Any, known: Iterable[Any]) -> Optional[Any]:
  """Returns the known id that differs only in type (string or number) or in leading zeros.

  Args:
    image_id: An id that is not among the known ids.
    known: Known ids.

  Returns:
    The first such id, or None.
  """
  value = _as_number(image_id)
  if value is None:
    return None
  return next((other for other in known if _as_number(other) == value), None)


def type_hint(image_id: Any, known: Iterable[Any]) -> str:
  """Returns an explanation if an id is not found because of its type, else an empty string."""
  other = other_type(image_id, known)
  if other is None:
    return ''
  return (f'; it lists {with_type(other)}, and this is {with_type(image_id)}: both files must '
          'write ids in one way')


def with_type(image_id: ImageId) -> str:
  """Returns an id and its type for a message, for example: the text '1'."""
  return f'the {"text" if isinstance(image_id, str) else "number"} {image_id!r}'


def _as_number(image_id: Any) -> Optional[int]:
  if isinstance(image_id, str):
    # int() limits the number of digits, and no id is as long.
    return (int(image_id) if image_id.isascii() and image_id.isdigit() and len(image_id) < 20
            else None)
  return image_id if type(image_id) is int else None


class _Name(NamedTuple):
  """The parts of a name for comparisons.

  Attributes:
    whole: Normalized path.
    folders: Folders of the path in lower case.
    stem: Stem in lower case.
    core: Stem in lower case without the suffixes of Cityscapes' tools.
  """
  whole: str
  folders: Tuple[str, ...]
  stem: str
  core: str

  @classmethod
  def of(cls, name: str) -> '_Name':
    """Returns the parts of a name."""
    whole = normalized(name)
    own = stem(whole)
    return cls(whole, tuple(whole.casefold().split('/')[:-1]), own.casefold(),
               without_cityscapes_ends(own).casefold())


def _likeness(first: _Name, second: _Name) -> Tuple[Any, ...]:
  """Returns how well two names with the same core match; larger is better."""
  same = 0
  for one, other in zip(reversed(first.folders), reversed(second.folders)):
    if one != other:
      break
    same += 1
  shorter = min(len(first.folders), len(second.folders))
  return (same == shorter, same, len(first.folders) == len(second.folders),
          first.stem == second.stem,
          posixpath.splitext(first.whole)[0] == posixpath.splitext(second.whole)[0],
          first.whole.casefold() == second.whole.casefold())


class NameIndex:
  """Finds the names in a list that match another name."""

  def __init__(self, names: Sequence[str]):
    """Initializes the index.

    Args:
      names: Names that can be found.
    """
    self._names = [_Name.of(name) for name in names]
    self._exact: Dict[str, List[int]] = collections.defaultdict(list)
    # With many folders that contain the same name, comparing all pairs would take long.
    self._by_path: Dict[Any, List[int]] = collections.defaultdict(list)
    self._by_core: Dict[str, List[int]] = collections.defaultdict(list)
    for position, name in enumerate(self._names):
      self._exact[name.whole].append(position)
      self._by_path[name.folders, name.stem].append(position)
      self._by_core[name.core].append(position)

  def find(self, name: str) -> Tuple[int, ...]:
    """Returns the indices of the names that match best.

    Returns:
      No index if no name has this stem, one index if the match is unambiguous, or several indices
      of names that match equally well.
    """
    wanted = _Name.of(name)
    if wanted.whole in self._exact:
      return tuple(self._exact[wanted.whole])
    positions = (self._by_path.get((wanted.folders, wanted.stem))
                 or self._by_core.get(wanted.core, ()))
    if len(positions) < 2:
      return tuple(positions)
    likeness = [_likeness(wanted, self._names[position]) for position in positions]
    best = max(likeness)
    return tuple(position for position, value in zip(positions, likeness) if value == best)


class Pairing(NamedTuple):
  """Matching of two lists of names.

  Attributes:
    found: Index in the second list of each name in the first list, or None.
    ambiguous: Index in the first list -> indices in the second that match equally well.
    others: Index in the second list -> indices in the first that match it equally well.
  """
  found: Tuple[Optional[int], ...]
  ambiguous: Dict[int, Tuple[int, ...]]
  others: Dict[int, Tuple[int, ...]]

  @property
  def is_complete(self) -> bool:
    """Whether each name of the first list is matched."""
    return None not in self.found


def pair(names: Sequence[str], candidates: Sequence[str]) -> Pairing:
  """Matches two lists of names one to one.

  Two names match if each is the unique best match of the other.
  """
  forward, backward = NameIndex(candidates), NameIndex(names)
  found: List[Optional[int]] = []
  ambiguous, others = {}, {}
  for position, name in enumerate(names):
    fitting = forward.find(name)
    partner = None
    if len(fitting) > 1:
      ambiguous[position] = fitting
    elif fitting:
      wanting = backward.find(candidates[fitting[0]])
      if wanting == (position,):
        partner = fitting[0]
      elif position in wanting:
        others[fitting[0]] = wanting
    found.append(partner)
  return Pairing(tuple(found), ambiguous, others)


def shown(names: Iterable[Any]) -> str:
  """Returns the first names of a list for a message."""
  names = list(names)
  listed = ', '.join(str(name) for name in names[:_SHOWN])
  return listed + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')
