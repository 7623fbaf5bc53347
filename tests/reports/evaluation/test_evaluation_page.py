"""The page about an evaluation."""

import html.parser
import re

import numpy as np
import pytest

from deeplab_tf.reports.evaluation import evaluation_page

_LOSSES = {'imprecise': 0.1, 'wrong_class': 0.05, 'missed': 0.2, 'invented': 0.15}
_NONE = {'pq': None, 'sq': None, 'rq': None, 'n': 0, 'losses': dict.fromkeys(_LOSSES)}
_SOME = {'pq': 0.5, 'sq': 0.8, 'rq': 0.6, 'n': 2, 'losses': _LOSSES}
_SIZES = {'pq': [0.5, None, 0.2], 'sq': [0.7, None, 0.8], 'rq': [0.6, None, 0.3],
          'tp': [4, 0, 1], 'fp': [1, 0, 1000], 'fn': [2, 0, 3]}


class _Tags(html.parser.HTMLParser):
  """Checks that tags close in order; collects ids and links."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.links = [], [], []

  def handle_starttag(self, tag, attributes):
    values = dict(attributes)
    self.ids += [values['id']] if 'id' in values else []
    self.links += [values[key] for key in ('href', 'src', 'xlink:href') if key in values]
    if tag not in ('img', 'meta', 'link', 'br'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    pass

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _entry(name):
  picture = np.zeros((8, 8, 3), np.uint8)
  return {'name': name, 'image': None, 'ground_truth': picture, 'prediction': picture,
          'error': picture, 'score': 0.25, 'note': 'Missed: <cat>'}


def _per_class(pq):
  return {'pq': pq, 'sq': 0.8, 'rq': 0.6, 'tp': 3, 'fp': 1, 'fn': 1234,
          'losses': {**_LOSSES, 'imprecise': 0.6 - pq}}


def _page(tmp_path, **changes):
  content = {
      'title': 'A <b>page</b>',
      'facts': {'images': 2},
      'result': {'All': _SOME, 'Things': _SOME, 'Stuff': _NONE,
                 'per_class': {1: _per_class(0.2), 2: _per_class(0.4)},
                 'sizes': dict.fromkeys(('All', 'Things', 'Stuff'), _SIZES),
                 'mistaken': [{'ground_truth': 1, 'prediction': 2, 'segments': 7, 'share': 0.35}]},
      'size_limits': (32**2, 96**2),
      'class_names': {1: 'cat', 2: 'dog & bone', 3: 'sky'},
      'thing_ids': (1, 2),
      'confusion': ((1, 2), np.array([[0.6, 0.3, 0.001, 0.099], [0, 1, 0, 0]])),
      'image_pq': [0.25, 0.75],
      'iou_histogram': [0, 3],
      'worst': iter([_entry('bad <1>')]),
      'best': iter([_entry('good')]),
      'table': 'images.csv',
      **changes,
  }
  path = tmp_path / 'index.html'
  evaluation_page.write(str(path), evaluation_page.Content(**content))
  page = path.read_text(encoding='utf-8')
  tags = _Tags()
  tags.feed(page)
  assert tags.open == []
  anchors = {link[1:] for link in tags.links if re.fullmatch('#[a-z]+', link)}
  assert anchors <= set(tags.ids)
  assert len(set(tags.ids)) == len(tags.ids)
  outside = [link for link in tags.links if not link.startswith(('#', 'data:'))]
  assert outside == ['images.csv']
  return page


def test_the_page_is_whole_escaped_and_needs_nothing_else(tmp_path):
  page = _page(tmp_path, notices=['one of <two>'])
  assert 'A &lt;b&gt;page&lt;/b&gt;' in page and 'bad &lt;1&gt;' in page
  assert 'Missed: &lt;cat&gt;' in page and 'dog &amp; bone' in page and 'of &lt;two&gt;' in page
  assert [entry.name for entry in tmp_path.iterdir()] == ['index.html']
  titles = re.findall('<h2>([A-Z][^<]*)', page)
  assert titles == ['All', 'Things', 'Stuff', 'PQ by class', 'PQ by size of segment',
                    'Confusion of classes', 'Images and masks', 'Worst images', 'Best images']


def test_classes_are_sorted_by_pq_with_their_figures(tmp_path):
  page = _page(tmp_path)
  table = page[page.index('class="sortable classes"'):]
  table = table[:table.index('</table>')]
  rows = re.findall('<th scope="row">([^<]*)</th>', table)
  assert rows == ['dog &amp; bone', 'cat']
  assert ('PQ 40.0, localization errors 20.0, classification errors 5.0, false negatives 20.0, '
          'false positives 15.0') in table
  widths = [float(width) for width in re.findall(r'width:([\d.]+)%', table)]
  assert sum(widths) == pytest.approx(200)
  assert '>1,234<' in table and '1 of the 3 classes is in neither' in page


def test_the_bar_of_all_classes_is_divided_by_kind(tmp_path):
  stuff = {**_SOME, 'pq': 0.2, 'n': 1}
  things = {**_SOME, 'pq': 0.65, 'n': 2}
  page = _page(tmp_path, result={'All': {**_SOME, 'n': 3}, 'Things': things, 'Stuff': stuff,
                                 'per_class': {}, 'mistaken': [],
                                 'sizes': dict.fromkeys(('All', 'Things', 'Stuff'), _SIZES)})
  first = page[page.index('class="stack"'):]
  assert 'class="things" style="width:43.33%' in first
  assert first.index('class="stuff" style="width:6.67%') < first.index('class="losses"')


def test_confusion_blanks_what_is_below_half_a_per_cent(tmp_path):
  page = _page(tmp_path)
  heat = page[page.index('class="heat"'):]
  heat = heat[:heat.index('</table>')]
  assert re.findall('<td[^>]*>([^<]*)</td>', heat) == ['60', '30', '', '10', '', '100', '', '']
  assert '7 false negatives have' in page and '>35.0<' in page


def test_long_lists_are_cut(tmp_path):
  pairs = [{'ground_truth': 1, 'prediction': 2, 'segments': 2, 'share': 0.1}] * 25
  result = {'All': _SOME, 'Things': _SOME, 'Stuff': _NONE, 'per_class': {}, 'mistaken': pairs,
            'sizes': dict.fromkeys(('All', 'Things', 'Stuff'), _SIZES)}
  page = _page(tmp_path, result=result)
  assert '50 false negatives have' in page and 'and 5 more pairs' in page


def test_nothing_to_show_is_said(tmp_path):
  none = {**_SIZES, 'tp': [0] * 3, 'fp': [0] * 3, 'fn': [0] * 3}
  page = _page(
      tmp_path, result={'All': _NONE, 'Things': _NONE, 'Stuff': _NONE, 'per_class': {},
                        'mistaken': [], 'sizes': {'All': none}},
      confusion=((), np.zeros((0, 2))), image_pq=[], iou_histogram=[0, 0], worst=[], best=[])
  for words in ('n/a', 'no classes', 'No segment of any class', 'No pixel was predicted',
                'No false negative'):
    assert words in page
  assert '<svg' not in page and 'Worst' not in page


def test_a_single_image_is_neither_best_nor_worst(tmp_path):
  page = _page(tmp_path, best=[])
  assert '<h2>Pictures</h2>' in page and 'Worst' not in page
