"""Compares what two sources say of the same categories: ids, names, and which are things."""

import collections
import re
from typing import Any, Optional, Sequence, Tuple

from deeplab_tf import image_names
from deeplab_tf.user_errors import DataError


def compare(path: str, stated: Sequence[Any], known_path: str,
            known: Sequence[Any]) -> Tuple[str, ...]:
  """Compares the categories of predictions with those that they are counted as.

  Args:
    path: File of the predictions, for messages.
    stated: Their categories: category_id, and name and isthing where they are stated. Without
      any there is nothing to compare.
    known_path: File or data set of the categories that count.
    known: Those categories, with all three.

  Returns:
    Lines for the user about names and kinds that differ.

  Raises:
    DataError: An id has one name in the predictions and another among the known categories,
      which have the first name under another id: the ids are numbered in another way.
  """
  by_id = {category.category_id: category for category in known}
  times = collections.Counter(_plain(category.name) for category in known)
  by_name = {_plain(category.name): category for category in known
             if times[_plain(category.name)] == 1}  # A name that occurs twice says nothing.
  shared = [(category, by_id[category.category_id]) for category in stated
            if category.category_id in by_id]
  unlike = [(own, other) for own, other in shared
            if _is_named(own) and _is_named(other) and _plain(own.name) != _plain(other.name)]
  moved = [(own, other, by_name[_plain(own.name)]) for own, other in unlike
           if _plain(own.name) in by_name]
  if moved:
    own, other, namesake = moved[0]
    raise DataError(
        f'{path}: its category ids are not those of {known_path}: category {own.category_id} is '
        f'"{own.name}" here and "{other.name}" there, where "{namesake.name}" is category '
        f'{namesake.category_id} ({len(moved)} of {len(shared)} ids contradict); the ids of the '
        'predictions must be those of the ground truth')
  warnings = [_renamed(path, known_path, unlike, len(shared)),
              _kinds(path, known_path, shared), _missing(path, known_path, stated, known)]
  return tuple(warning for warning in warnings if warning)


def _renamed(path, known_path, unlike, count: int) -> Optional[str]:
  if not unlike:
    return None
  examples = image_names.shown(f'{own.category_id} is "{own.name}" here and "{other.name}" there'
                               for own, other in unlike)
  return (f'{path}: {len(unlike)} of {count} categories have other names than in {known_path}: '
          f'{examples}; they are counted by id')


def _kinds(path, known_path, shared) -> Optional[str]:
  unlike = [(own, other) for own, other in shared
            if own.isthing is not None and bool(own.isthing) != bool(other.isthing)]
  if not unlike:
    return None
  examples = image_names.shown(
      f'{own.category_id} "{other.name}" is {_kind(own)} here and {_kind(other)} there'
      for own, other in unlike)
  return (f'{path}: things and stuff are not those of {known_path}: {examples}; they are counted '
          'as there')


def _missing(path, known_path, stated, known) -> Optional[str]:
  if not stated:
    return None
  listed = {category.category_id for category in stated}
  absent = [category for category in known if category.category_id not in listed]
  if not absent:
    return None
  examples = image_names.shown(f'{category.category_id} "{category.name}"' for category in absent)
  if len(absent) == len(known):
    return (f'{path}: lists none of the categories of {known_path} ({examples}): the predictions '
            'are those of another data set')
  return (f'{path}: does not list {len(absent)} of the {len(known)} categories of {known_path} '
          f'({examples}), so they are never predicted')


def _is_named(category: Any) -> bool:
  # A ground truth without names has its ids as names.
  return category.name is not None and str(category.name) != str(category.category_id)


def _kind(category: Any) -> str:
  return 'a thing' if category.isthing else 'stuff'


def _plain(name: Any) -> str:
  """Returns a name without what spellings differ in: capitals, spaces and hyphens."""
  return re.sub(r'[\W_]+', '', str(name).casefold())
