"""The parts that the pages of panoptic, instance and semantic evaluations share, as HTML."""

import html
from typing import Any, Callable, Iterable, List, Mapping, Optional, Sequence, Tuple

from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports import page
from deeplab_tf.reports.evaluation import evaluation_style

# Number of pairs of classes that are listed.
_LONGEST_LIST = 20


def write(path: str, title: str, header: str, sections: Mapping[str, Tuple[str, str]],
          notices: Sequence[str] = ()) -> None:
  """Writes a page with a header, links to its sections, and the sections, atomically.

  Args:
    path: Path of the HTML file.
    title: Title of the page.
    header: HTML below the title, in the first box.
    sections: Anchor -> name of the link, and HTML of the section; empty sections are left out.
    notices: Messages at the top of the page.
  """
  links = ''.join(f'<a href="#{anchor}">{name}</a>'
                  for anchor, (name, section) in sections.items() if section)
  messages = ''.join(f'<p class="notice">{html.escape(notice)}</p>' for notice in notices)
  first = (f'<header><h1>{html.escape(title)}</h1>{messages}{header}<nav>{links}</nav></header>')
  parts = [first, *(section for _, section in sections.values()), evaluation_style.SORTING]
  page.write_page(path, title, parts, evaluation_style.CSS)


def section(anchor: str, title: str, body: str) -> str:
  """Returns the HTML of a section."""
  return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>'


def reading(text: str) -> str:
  """Returns the HTML of an explanation; `text` is HTML."""
  return f'<p class="reading">{text}</p>'


def tiles(values: Sequence[Tuple[str, Optional[float], str]]) -> str:
  """Returns the HTML of scores in large type.

  Args:
    values: Name, score in [0, 1] or None, and explanation of each.
  """
  inside = ''.join(f'<div class="tile"><span class="big">{percent(value)}</span><span class="name">'
                   f'{html.escape(name)}</span><span class="note">{html.escape(note)}</span></div>'
                   for name, value, note in values)
  return f'<div class="tiles">{inside}</div>'


# --- Tables and plots -------------------------------------------------------------------------


def row_head(text: Any) -> str:
  """Returns the HTML of the first cell of a row."""
  return f'<th scope="row">{html.escape(str(text))}</th>'


def row(name: Any, cells: Iterable[str], kind: str = '') -> str:
  """Returns the HTML of a row: its name, and cells of text."""
  css = f' class="{kind}"' if kind else ''
  inside = ''.join(f'<td{css}>{cell}</td>' for cell in cells)
  return f'<tr>{row_head(name)}{inside}</tr>'


def sortable_table(heads: Sequence[Any], rows: Sequence[str], kind: str, main: str = 'PQ',
                   unsorted: int = -1) -> str:
  """Returns the HTML of a table that a click on a header sorts.

  Args:
    heads: Names of the columns, or pairs of name and explanation.
    rows: HTML of the rows.
    kind: CSS classes.
    main: Name of the column by which the rows are sorted, descending.
    unsorted: Index of a column that cannot be sorted.
  """
  cells = []
  for index, head in enumerate(heads):
    name, title = (head, '') if isinstance(head, str) else head
    hint = f' title="{title}"' if title else ''
    inside = name if index == unsorted else f'<button type="button"{hint}>{name}</button>'
    order = ' aria-sort="descending"' if name == main else ''
    cells.append(f'<th scope="col"{order}>{inside}</th>')
  return (f'<div class="scroll"><table class="sortable {kind}"><thead><tr>{"".join(cells)}</tr>'
          f'</thead><tbody>{"".join(rows)}</tbody></table></div>')


def plain_table(heads: Sequence[str], rows: Sequence[str], kind: str = 'plain') -> str:
  """Returns the HTML of a table."""
  head = ''.join(f'<th scope="col">{name}</th>' for name in heads)
  return (f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
          f'<tbody>{"".join(rows)}</tbody></table></div>')


def confused_pairs(pairs: Sequence[Mapping[str, Any]], class_names: Mapping[int, str],
                   columns: Mapping[str, Callable[[Mapping[str, Any]], str]]) -> str:
  """Returns the HTML of a table of confused classes, of which the first ones are listed.

  Args:
    pairs: Dictionaries with ground_truth and prediction, category ids, in the order of the table.
    class_names: Category id -> name.
    columns: Name of a further column -> function of a pair that returns the text of its cell.
  """
  rows = []
  for rank, pair in enumerate(pairs[:_LONGEST_LIST], start=1):
    truth, prediction = (html.escape(class_names[pair[side]])
                         for side in ('ground_truth', 'prediction'))
    cells = ''.join(f'<td>{text(pair)}</td>' for text in columns.values())
    rows.append(f'<tr><td class="rank">{rank}</td><th scope="row">{truth}</th>'
                f'<td class="as">{prediction}</td>{cells}</tr>')
  more = len(pairs) - len(rows)
  rest = '' if more <= 0 else f'<p class="rest">and {more} more pairs of classes</p>'
  return plain_table(('', 'ground truth', 'prediction', *columns), rows, 'mistaken') + rest


def details(summary: str, inside: str) -> str:
  """Returns the HTML of content that a click shows."""
  return f'<details><summary>{summary}</summary>{inside}</details>'


def plot(caption: str, svg: str) -> str:
  """Returns the HTML of a plot with its caption."""
  return f'<figure class="plot"><figcaption>{caption}</figcaption>{svg}</figure>'


def plots(each: Iterable[str]) -> str:
  """Returns the HTML of plots side by side."""
  return f'<div class="plots">{"".join(each)}</div>'


def key(color: str) -> str:
  """Returns the HTML of a colored square in front of a name."""
  return f'<span class="key" style="background:{color}"></span>'


def bar(pieces: Sequence[Tuple[str, float, str]], words: str) -> str:
  """Returns the HTML of a stacked bar.

  Args:
    pieces: CSS class, width in [0, 1], and color (or an empty text) of each piece.
    words: Description of the bar.
  """
  inside = ''.join(
      f'<i class="{css}" style="width:{100 * value:.2f}%{color and f";background:{color}"}"></i>'
      for css, value, color in pieces if value > 0)
  return f'<span class="stack" role="img" aria-label="{words}" title="{words}">{inside}</span>'


def beside(first: str, second: str) -> str:
  """Returns the HTML of two blocks, side by side where there is room."""
  return f'<div class="beside"><div>{first}</div><div>{second}</div></div>'


# --- Confusion --------------------------------------------------------------------------------


def heat_map(confusion: Any, class_names: Mapping[int, str]) -> str:
  """Returns the HTML of the confusion of classes by pixels.

  Args:
    confusion: A metrics.confusion.Confusion.
    class_names: Category id -> name.
  """
  categories, shares = confusion
  if not categories:
    return '<h3>By pixels</h3><p class="notice">No pixel was predicted as another class.</p>'
  names = [html.escape(class_names[category]) for category in categories]
  head = ''.join(f'<th scope="col"><span>{name}</span></th>'
                 for name in (*names, '<em>other classes</em>', '<em>nothing</em>'))
  rows = []
  for index, (name, values) in enumerate(zip(names, shares)):
    cells = ''.join(_heat_cell(value, index == column) for column, value in enumerate(values))
    rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
  return ('<h3>By pixels</h3>' + reading(
      'Each row shows as which classes the pixels of a ground truth class were predicted, in '
      f'percent; blank is below 0.5. Shown are the {len(names)} classes that are confused most. '
      '<b>Nothing</b>: pixels without a prediction.')
          + '<div class="scroll"><table class="heat"><thead><tr><td class="corner">ground truth ↓'
          f'<br>predicted →</td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>')


def _heat_cell(share: float, right: bool) -> str:
  text = f'{100 * share:.0f}' if share >= 0.005 else ''
  # The square root makes a confusion of a few percent visible.
  color = f'rgba(var(--{"right" if right else "wrong"}),{0.85 * share ** 0.5:.2f})'
  return f'<td style="background:{color}">{text}</td>' if text else '<td></td>'


# --- Pictures ---------------------------------------------------------------------------------


def galleries(worst: Iterable[Mapping[str, Any]], best: Iterable[Mapping[str, Any]], score: str,
              legend: str) -> str:
  """Returns the HTML of the sections of the worst and the best images.

  Args:
    worst: Entries of page.gallery_article, which may be generated lazily; may be empty.
    best: Entries of page.gallery_article, likewise.
    score: Name of the score of an image.
    legend: HTML of a legend, below the explanation.
  """
  articles = [''.join(page.gallery_article(entry) for entry in entries)
              for entries in (worst, best)]
  parts: List[str] = []
  for title, inside in zip(('Worst images' if articles[1] else 'Pictures', 'Best images'),
                           articles):
    anchor = '' if parts else ' id="pictures"'
    if inside:
      parts.append(f'<section{anchor}><h2>{title}</h2><p class="reading">Sorted by {score} of '
                   f'the image. Click to enlarge.{legend}{inside}</section>')
  return '\n'.join(parts)
