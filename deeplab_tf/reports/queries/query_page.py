"""The self-contained HTML page of the analyses: figures with explanations."""

import base64
import html
import io
import pathlib
from typing import Any, Mapping, NamedTuple, Sequence, Tuple

from PIL import Image

from deeplab_tf.reports import page

# Displayed size relative to the pixel size of a figure, so that it is sharp on HiDPI screens.
_SCALE = 0.6
# Maximum size of a PNG in bytes; larger figures, usually with photographs, are stored as JPEG.
_LARGEST_PNG = 600_000
_STYLE = """
.sheet { margin: 0; overflow-x: auto; }
.sheet + .sheet, .notice + .sheet, .sheet + .notice { margin-top: 20px; }
.sheet img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff;
  border-radius: 8px; padding: 8px; }
table.plain { width: auto; margin: 0 0 20px; }
table.plain thead th:first-child { text-align: left; }
.sheet figcaption { color: var(--muted); font-size: .85rem; margin: 0 0 6px; }
"""


class Section(NamedTuple):
  """One analysis.

  Attributes:
    title: Title of the section.
    reading: Explanation of the figures, plain text; text between two asterisks is bold.
    sheets: Paths of PNG files with their captions, which may be empty.
    notices: Messages to the reader, e.g. which parts were left out and why.
    table: Rows of a table below the explanation, the first being the header.
  """
  title: str
  reading: str
  sheets: Sequence[Tuple[str, str]] = ()
  notices: Sequence[str] = ()
  table: Sequence[Sequence[str]] = ()


def write(path: str, title: str, facts: Mapping[str, Any], sections: Sequence[Section]) -> None:
  """Writes the page, atomically.

  Args:
    path: Path of the HTML file.
    title: Title of the page.
    facts: Facts about the model and the data, by name.
    sections: Sections in order.
  """
  page.write_page(path, title, [page.header(title, facts, {}),
                                *(_section(section) for section in sections)], _STYLE)


def _section(section: Section) -> str:
  parts = [f'<section><h2>{html.escape(section.title)}</h2>']
  if section.sheets and section.reading:
    parts.append(f'<p class="reading">{_bold(section.reading)}</p>')
  parts += [f'<p class="notice">{html.escape(notice)}</p>' for notice in section.notices]
  if section.table:
    parts.append(_table(section.table))
  parts += [_sheet(path, caption, section.title) for path, caption in section.sheets]
  return '\n'.join(parts) + '</section>'


def _table(rows: Sequence[Sequence[str]]) -> str:
  head, *body = ([html.escape(cell) for cell in row] for row in rows)
  lines = [f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}'
           '</tr>' for row in body]
  return (f'<div class="scroll"><table class="plain"><thead><tr>'
          f'{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead>'
          f'<tbody>{"".join(lines)}</tbody></table></div>')


def _bold(text: str) -> str:
  pieces = html.escape(text).split('*')
  return ''.join(f'<b>{piece}</b>' if index % 2 else piece for index, piece in enumerate(pieces))


def _sheet(path: str, caption: str, title: str) -> str:
  content, kind = pathlib.Path(path).read_bytes(), 'png'
  with Image.open(path) as picture:
    width = round(picture.width * _SCALE)
    if len(content) > _LARGEST_PNG:
      buffer, kind = io.BytesIO(), 'jpeg'
      picture.convert('RGB').save(buffer, kind, quality=92, subsampling=0)
      content = buffer.getvalue()
  data = base64.b64encode(content).decode()
  words = f'<figcaption>{html.escape(caption)}</figcaption>' if caption else ''
  text = html.escape(caption or title)
  return (f'<figure class="sheet">{words}<img loading="lazy" width="{width}" alt="{text}" '
          f'src="data:image/{kind};base64,{data}"></figure>')
