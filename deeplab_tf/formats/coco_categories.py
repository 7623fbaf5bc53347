"""Checks of the entries of "categories" in a panoptic JSON, and generated colors."""

import colorsys
from typing import Any, Container, Mapping, Optional, Sequence


def isthing_problem(content: Mapping[str, Any]) -> Optional[str]:
  """Describes what to do if categories of a panoptic JSON lack "isthing"; None if none does.

  Args:
    content: Content of the JSON.
  """
  entries = content.get('categories')
  entries = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
  missing = [entry for entry in entries if 'isthing' not in entry]
  if not missing:
    return None
  annotations = content.get('annotations')
  first = annotations[0] if isinstance(annotations, list) and annotations else None
  line = (f'category {str(missing[0])[:100]} has no "isthing" ({len(missing)} of {len(entries)} '
          'have none)')
  if not isinstance(first, dict) or 'segments_info' not in first:
    line += '; a detection JSON? A panoptic JSON is expected. If it is one'
  return (f'{line}: add "isthing": 1 to each category with distinct instances (things), and '
          '"isthing": 0 to each other one (stuff)')


def problem(entry: Any, found: Container[int]) -> Optional[str]:
  """Describes what is wrong with an entry of "categories"; None if it is valid.

  Args:
    entry: Object with id, name, isthing and optionally color.
    found: Ids of the previous entries.
  """
  if not isinstance(entry, dict):
    return f'category {entry!r} is not an object with id, name and isthing'
  missing = [key for key in ('id', 'name', 'isthing') if key not in entry]
  if missing:
    return f'category {entry} has no "{missing[0]}"'
  if not isinstance(entry['id'], int) or entry['id'] < 0:
    return f'category id {entry["id"]!r} of "{entry["name"]}" is not a whole number of at least 0'
  if entry['id'] in found:
    return f'category id {entry["id"]} occurs twice'
  if entry['isthing'] not in (0, 1):
    return f'isthing of category {entry["id"]} is {entry["isthing"]!r}: it must be 0 or 1'
  color = entry.get('color')
  if color is not None and not (isinstance(color, (list, tuple)) and len(color) == 3 and all(
      isinstance(c, int) and 0 <= c <= 255 for c in color)):
    return f'color of category {entry["id"]} is {color!r}: it must be three numbers 0 to 255'
  return None


def distinct_colors(colors: Sequence[Any]) -> list[tuple[int, int, int]]:
  """Replaces missing and repeated colors by generated ones.

  Args:
    colors: (red, green, blue) in 0..255, or None, for each category.
  """
  result, used = [], {tuple(c) for c in colors if c is not None}
  generated = (_generated_color(i) for i in range(10**6))
  seen = set()
  for color in colors:
    chosen = tuple(color) if color is not None else None
    while chosen is None or chosen in seen:
      candidate = next(generated)
      chosen = None if candidate in used else candidate
    seen.add(chosen)
    result.append(chosen)
  return result


def _generated_color(index):
  # Steps of the golden ratio keep the hues of neighboring classes apart.
  hue = (index * 0.61803398875) % 1.0
  red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 - 0.4 * (index // 7 % 2), 0.95 - 0.07 *
                                         (index % 5))
  return round(red * 255), round(green * 255), round(blue * 255)
