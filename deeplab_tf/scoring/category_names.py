"""Compares the categories of two sources: ids, names, and which of them are things."""

import collections
import re
from typing import Any, Optional, Sequence, Tuple

from deeplab_tf import image_names
from deeplab_tf.user_errors import DataError


def compare(path: str, stated: Sequence[Any], known_path: str,
            known: Sequence[Any]) -> Tuple[str, ...]:
  """Compares the categories of predictions with the reference categories.

  Args:
    path: File of the predictions, for messages.
    stated: Categories of the predictions, with category_id and, if stated, name and isthing. If
      empty, nothing is compared.
    known_path: File or dataset of the reference categories, for messages.
    known: Reference categories, with category_id, name and isthing.

  Returns:
    Warnings about names and kinds that differ, one line each.

  Raises:
    DataError: The name of a category belongs to another id in the reference, so the predictions
      use another numbering.
  """
  by_id = {category.category_id: category for category in known}
  times = collections.Counter(_plain(category.name) for category in known)
  by_name = {_plain(category.name): category for category in known
             if times[_plain(category.name)] == 1}  # Only unique names.
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
            'are for another dataset')
  return (f'{path}: does not list {len(absent)} of the {len(known)} categories of {known_path} '
          f'({examples}), so they are never predicted')


def _is_named(category: Any) -> bool:
  # In a ground truth without names, the ids are used as names.
  return category.name is not None and str(category.name) != str(category.category_id)


def _kind(category: Any) -> str:
  return 'a thing' if category.isthing else 'stuff'


def _plain(name: Any) -> str:
  """Returns a name in lower case, without spaces, hyphens and underscores."""
  return re.sub(r'[\W_]+', '', str(name).casefold())
