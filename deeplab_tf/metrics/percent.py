"""Formatting of scores in percent, for tables and pages."""

from typing import Optional


def percent(value: Optional[float], width: int = 0) -> str:
  """Returns a score in [0, 1] in percent with one decimal, or 'n/a' for None.

  Args:
    value: Score in [0, 1], or None if undefined.
    width: Minimum width in characters; the text is right-aligned.
  """
  return ('n/a' if value is None else f'{100 * value:.1f}').rjust(width)
