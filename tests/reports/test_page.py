"""The HTML report."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import catalog
from deeplab_tf.reports import page, training_report

INFO = catalog.built_in('shapes')
SCORES = {
    'All': {'pq': 0.5, 'sq': 0.8, 'rq': 0.6, 'n': 1},
    'Things': {'pq': 0.5, 'sq': 0.8, 'rq': 0.6, 'n': 1},
    'Stuff': {'pq': None, 'sq': None, 'rq': None, 'n': 0},
    'per_class': {1: {'pq': 0.5, 'sq': 0.8, 'rq': 0.6, 'tp': 3, 'fp': 1, 'fn': 1}},
}


class _Tags(html.parser.HTMLParser):
  """Collects the open tags and checks that they close in order."""

  def __init__(self):
    super().__init__()
    self.open, self.images, self.links = [], [], []

  def handle_starttag(self, tag, attributes):
    values = dict(attributes)
    if tag == 'img':
      self.images.append(values['src'])
    self.links += [values[key] for key in ('href', 'xlink:href', 'src') if key in values]
    if tag not in ('img', 'meta', 'link', 'br'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.links += [value for key, value in attributes if key in ('href', 'xlink:href', 'src')]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _write(tmp_path, **changes):
  rng = np.random.default_rng(0)
  label = np.full((128, 160), 7 * 256, np.int32)
  label[20:60, 20:60] = 257
  image = rng.integers(0, 256, (128, 160, 3), dtype=np.uint8)
  arguments = {
      'title': 'A <b>run</b> & more',
      'summary': {'steps': 300, 'time': '2 min'},
      'curves': {
          'losses/pq_style': [(step, 1 / (1 + step)) for step in range(2000)],
          'losses/semantic': [(step, 2.0) for step in range(2000)],
          'learning_rate': [(0, 1e-3), (10, float('nan')), (20, 0.0)],
          'evaluation/pq': [(100, 0.2), (200, 0.5)],
          'empty': [],
      },
      'scores': SCORES,
      'class_names': {1: 'disc'},
      'gallery': [page.gallery_item('val <1>', image, ground_truth=label, prediction=label,
                                    dataset_info=INFO, score=0.75)],
      **changes,
  }
  path = tmp_path / 'report.html'
  training_report.write(str(path), **arguments)
  assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']
  return path.read_text(encoding='utf-8')


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
  page = _write(tmp_path)
  tags = _Tags()
  tags.feed(page)
  assert tags.open == []
  assert len(tags.images) == 4
  assert all(link.startswith(('data:', '#')) for link in tags.links)
  for source in tags.images:
    picture = Image.open(io.BytesIO(base64.b64decode(source.split(',')[1])))
    assert picture.size == (480, 384)


def test_text_is_escaped_and_numbers_are_shown(tmp_path):
  page = _write(tmp_path)
  assert 'A &lt;b&gt;run&lt;/b&gt; &amp; more' in page and '<b>run' not in page
  assert 'val &lt;1&gt;' in page and 'PQ 75.0' in page
  assert '>50.0<' in page and '>n/a<' in page and '>disc<' in page
  assert '<dd>300</dd>' in page


def test_curves_share_plots_by_group_and_take_the_pages_colors(tmp_path):
  page = _write(tmp_path)
  assert re.findall(r'<figcaption>([^<]*)</figcaption><svg', page.replace('\n', '')) == [
      'losses', 'learning rate', 'evaluation']
  assert '>pq style<' in page and '>semantic<' in page
  assert 'var(--muted)' in page and '#010203' not in page
  assert 'prefers-color-scheme: dark' in page
  identifiers = re.findall(r'<(?:clipPath|path) id="([^"]*)"', page)
  assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize('part, empty', [('summary', {}), ('curves', {}), ('scores', {}),
                                         ('gallery', [])])
def test_every_part_may_be_empty(tmp_path, part, empty):
  tags = _Tags()
  tags.feed(_write(tmp_path, **{part: empty}))
  assert tags.open == []


def test_long_curves_are_thinned_and_keep_their_last_point():
  points = [(step, float(step % 2)) for step in range(10001)]
  thinned = training_report._thinned(points)
  assert len(thinned) <= 400 and thinned[-1] == points[-1]
  assert thinned[0][1] == pytest.approx(0.5, abs=0.05)
