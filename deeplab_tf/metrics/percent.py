"""Scores in percent, as tables and pages show them."""

from typing import Optional


def percent(value: Optional[float], width: int = 0) -> str:
  """Returns a score in [0, 1] in percent with one decimal, or 'n/a' for None.

  Args:
    value: Score, or None where there is none.
    width: Characters that the text fills at least, aligned to the right.
  """
  return ('n/a' if value is None else f'{100 * value:.1f}').rjust(width)
