"""Confusion of classes by pixels: the classes that are confused most, and the pairs."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np


class Confusion(NamedTuple):
  """Confusion matrix of selected classes.

  Attributes:
    category_ids: Category ids of the rows.
    shares: float64 [classes, classes + 2], fraction of the pixels of the row's class that is
      predicted as the column's class. The last two columns are all other classes, and no class.
      Rows sum to 1, or to 0 for a class that the ground truth does not have.
  """
  category_ids: Tuple[int, ...]
  shares: np.ndarray


def most_confused(category_ids: Sequence[int], pixels: np.ndarray, most: int) -> Confusion:
  """Returns the confusion matrix of the classes that are confused most.

  Pairs of classes are added in descending order of the fraction of the ground truth class's
  pixels that is confused, as long as the limit allows. A class that is never confused is left
  out.

  Args:
    category_ids: Category ids in the order of the table.
    pixels: int64 [categories, categories + 1], numbers of pixels by ground truth category and
      predicted category; the last column is no category.
    most: Maximum number of classes.
  """
  totals = np.maximum(pixels.sum(axis=1, keepdims=True), 1)
  shares = pixels / totals
  apart = shares[:, :-1] * (1 - np.eye(len(shares)))
  chosen: List[int] = []
  for flat in np.argsort(-apart, axis=None, kind='stable'):
    pair = [int(index) for index in np.unravel_index(flat, apart.shape)]
    added = [index for index in pair if index not in chosen]
    if not apart[tuple(pair)] or len(chosen) + len(added) > most:
      break
    chosen += added
  chosen.sort()
  inside = shares[np.ix_(chosen, chosen)]
  others = shares[chosen, :-1].sum(axis=1) - inside.sum(axis=1)
  columns = (inside, np.maximum(others, 0)[:, None], shares[chosen, -1:])
  return Confusion(tuple(category_ids[index] for index in chosen),
                   np.concatenate(columns, axis=1))


def pairs(category_ids: Sequence[int], pixels: np.ndarray) -> List[Dict[str, Any]]:
  """Lists the pairs of classes that are confused, those with the most pixels first.

  Args:
    category_ids: Category ids in the order of the table.
    pixels: int64 [categories, categories + 1]; see `most_confused`.

  Returns:
    Dictionaries of ground_truth and prediction (category ids), pixels (their number) and share
    (their fraction of the ground truth class's pixels).
  """
  totals = pixels.sum(axis=1)
  apart = pixels[:, :-1] * (1 - np.eye(len(pixels), dtype=np.int64))
  found = [{'ground_truth': category_ids[truth], 'prediction': category_ids[prediction],
            'pixels': int(apart[truth, prediction]),
            'share': float(apart[truth, prediction] / totals[truth])}
           for truth, prediction in np.argwhere(apart).tolist()]
  return sorted(found, key=lambda pair: (-pair['pixels'], -pair['share']))
