"""Converts label PNGs, whose pixel values encode classes and instances, to panoptic maps.

Each data set encodes category id and instance number in its own way. Here a pixel is one number,
and the data set provides a function that decodes it.
"""

from typing import Callable, NamedTuple, Optional

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import sources

# Up to this number a table is faster than sorting.
_TABLE_SIZE = 2**20


class Meaning(NamedTuple):
  """Meaning of a number in a label image.

  Attributes:
    category_id: Category id; None if the pixels are unlabeled.
    is_crowd: Whether the number marks a crowd region instead of an instance.
  """
  category_id: Optional[int]
  is_crowd: bool = False


def count_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the distinct values of an array in ascending order, and their counts.

  Args:
    values: int32 array of non-negative values.
  """
  if values.size and values.max() >= _TABLE_SIZE:
    return np.unique(values, return_counts=True)
  counts = np.bincount(values.ravel())
  distinct = np.flatnonzero(counts)
  return distinct, counts[distinct]


def label_map(values: np.ndarray, meaning: Callable[[int], Meaning], info: DatasetInfo,
              *, where: Callable[[int], str], treat_crowd_as_ignore: bool = False,
              report: Callable[[str], None] = sources.stop) -> np.ndarray:
  """Translates a label image into a panoptic map.

  Instances are numbered from 1 per class in ascending order of their values; stuff, crowd and
  unlabeled pixels have instance number 0.

  Args:
    values: int32 [height, width].
    meaning: Function that returns the Meaning of a value; different values are different instances.
    info: The classes.
    where: Function that returns the name of the file and a value in it, for errors.
    treat_crowd_as_ignore: Whether crowd regions become unlabeled.
    report: Called with one line for each value that is no class of the data set, and for each
      instance beyond the label divisor. If it returns, their pixels become unlabeled.

  Returns:
    int32 [height, width].
  """
  distinct, pixels = count_values(values)
  counts: dict[int, int] = {}
  labels = np.full(len(distinct), info.void_label, np.int32)
  for row, value in enumerate(distinct.tolist()):
    meant = meaning(value)
    category = info.by_category_id.get(meant.category_id)
    if category is None:
      if meant.category_id is not None:
        report(f'{where(value)} ({pixels[row]} pixels) is category id {meant.category_id}, which '
               f'data set "{info.name}" does not have')
    elif not meant.is_crowd or not treat_crowd_as_ignore:
      number = 0
      if category.isthing and not meant.is_crowd:
        number = counts[category.class_id] = counts.get(category.class_id, 0) + 1
      if number >= info.label_divisor:
        report(f'{where(value)} is instance {number} of category {category.category_id} '
               f'"{category.name}" in one image; label_divisor {info.label_divisor} allows '
               f'{info.label_divisor - 1}')
        continue
      labels[row] = category.class_id * info.label_divisor + number
  return _replaced(values, distinct, labels)


def _replaced(values, distinct, replacements):
  if not len(distinct) or distinct[-1] >= _TABLE_SIZE:
    return replacements[np.searchsorted(distinct, values)]
  table = np.zeros(distinct[-1] + 1, replacements.dtype)
  table[distinct] = replacements
  return table[values]
