"""JSON files with any content are read, or refused in one line that names the file."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _instance_format, _panoptic_format
from deeplab_tf.formats import coco_masks, coco_panoptic, instance_masks
from deeplab_tf.scoring import instance_files, panoptic_files, predicted_images, submission
from deeplab_tf.user_errors import UserError

_SEGMENTS = [{'id': 1, 'category_id': 3, 'area': 12, 'bbox': [0, 0, 3, 4], 'iscrowd': 0},
             {'id': 70000, 'category_id': 9, 'area': 12, 'bbox': [3, 0, 3, 4], 'iscrowd': 0}]
PANOPTIC = {
    'images': [{'id': 1, 'file_name': 'a.png', 'height': 4, 'width': 6},
               {'id': 'two', 'file_name': 'b.png', 'height': 4, 'width': 6}],
    'categories': [{'id': 3, 'name': 'box', 'isthing': 1}, {'id': 9, 'name': 'sky', 'isthing': 0}],
    'annotations': [{'image_id': 1, 'file_name': 'a.png', 'segments_info': _SEGMENTS},
                    {'image_id': 'two', 'file_name': 'b.png', 'segments_info': _SEGMENTS}],
}
# Of the upper left quarter of 8 x 8 pixels: run lengths in two forms, and a polygon.
_MASKS = [{'size': [8, 8], 'counts': '04400000P1'},
          {'size': [8, 8], 'counts': [0, *[4] * 7, 36]}, [[0, 0, 4, 0, 4, 4, 0, 4]]]
INSTANCES = {
    'images': [{'id': 4, 'height': 8, 'width': 8}],
    'categories': [{'id': 1, 'name': 'box'}, {'id': 2, 'name': 'ball'}],
    'annotations': [
        {'id': index, 'image_id': 4, 'category_id': 1, 'area': 16, 'bbox': [0, 0, 4, 4],
         'iscrowd': int(index == 2), 'segmentation': mask}
        for index, mask in enumerate(_MASKS, start=1)],
}
NAMED_INSTANCES = {**INSTANCES, 'images': [{**INSTANCES['images'][0], 'file_name': 'a.png'}]}
RESULTS = [{'image_id': 4, 'category_id': 1, 'score': 0.5, 'segmentation': mask}
           for mask in _MASKS]

_VALUES = st.one_of(
    st.sampled_from([
        None, True, False, 0, -1, 1, 1.5, float('nan'), float('inf'), 2**31, 2**63, 2**64, 10**40,
        1e308, '', '1', '../x', '/etc/passwd', 'a\0b', 'x\u2028\n\x1b[0m', '\ud800', 'o' * 400, [],
        {}, [None], [[]], [[0, 0]], [[1e9, 1e9, -1e9, 5, 3, 3]], [[float('nan')] * 6], [8, 8],
        [2**31, 2], [True, 8], [-1, 65], [2**32 + 64], '0\x7f~~~', 'PPPPPPPPPPPP', '0oooo',
        {'size': [8, 8], 'counts': 'o'}, {'size': [8, 8], 'counts': [64.0]}]),
    st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=4))
_DAMAGE = st.sampled_from(['none'] * 12 + ['cut', 'mark', 'utf16', 'byte', 'deep', 'digits'])
_FUZZ = settings(deadline=None, max_examples=200, derandomize=True, database=None)


def _places(node, path=()):
  """The paths of all values inside."""
  items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(
      node, list) else ()
  for key, value in items:
    yield (*path, key)
    yield from _places(value, (*path, key))


@st.composite
def _changed(draw, content):
  """The bytes of a JSON with one to three values replaced, left out or doubled."""
  content = copy.deepcopy(content)
  for _ in range(draw(st.integers(1, 3))):
    places = list(_places(content))
    if not places:
      break
    *path, key = draw(st.sampled_from(places))
    parent = content
    for step in path:
      parent = parent[step]
    action = draw(st.sampled_from(['replace', 'replace', 'delete', 'double']))
    if action == 'delete':
      del parent[key]
    elif action == 'double' and isinstance(parent, list):
      parent.append(copy.deepcopy(parent[key]))
    else:
      # A copy, since a later change may go into it.
      parent[key] = copy.deepcopy(draw(_VALUES))
  text = json.dumps(content)
  position = draw(st.integers(0, len(text)))
  return {
      'none': lambda: text.encode(), 'cut': lambda: text.encode()[:position],
      'mark': lambda: b'\xef\xbb\xbf' + text.encode(), 'utf16': lambda: text.encode('utf-16'),
      'byte': lambda: text.encode()[:position] + b'\xff' + text.encode()[position:],
      'deep': lambda: text.encode()[:position] + b'[' * 100000,
      'digits': lambda: text.encode()[:position] + b'9' * 5000 + text.encode()[position:],
  }[draw(_DAMAGE)]()


@pytest.fixture(name='folder', scope='module')
def fixture_folder(tmp_path_factory):
  """Sound files of all kinds."""
  folder = tmp_path_factory.mktemp('json')
  ids = np.repeat([[1, 70000]], 4, axis=0).repeat(3, axis=1)
  for name in 'ab':
    coco_panoptic.write_panoptic_png(folder / f'{name}.png', ids)
  for name, content in (('panoptic', PANOPTIC), ('instances', INSTANCES), ('results', RESULTS)):
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


def _assert_read_or_refused(folder, content, read):
  """Whether it was read."""
  path = folder / 'fuzzed.json'
  path.write_bytes(content)
  try:
    read(path)
  except (ValueError, FileNotFoundError) as error:
    assert isinstance(error, UserError), error
    line = cli.one_line(str(error))
    # A file that the JSON names may be the one that is wrong.
    assert str(folder) in line or line.startswith('/'), line
    assert line.isprintable() and len(line) < 5000
    return False
  return True


def _read_for_training(path):
  content = _panoptic_format.read_json(path)
  info = catalog.from_categories(content, str(path))
  folder = str(path.parent)
  for image in _panoptic_format.annotated_images(str(path), content, folder, folder):
    _panoptic_format.read_label(image, info, treat_crowd_as_ignore=False)


@_FUZZ
@given(content=_changed(PANOPTIC))
def test_panoptic_data(folder, content):
  _assert_read_or_refused(folder, content, _read_for_training)


def _read_instances_for_training(path):
  content = _instance_format.read_json(path)
  info = catalog.from_instance_categories(content, str(path))
  for file in _instance_format.files(str(path), str(path.parent), content, info, sources.STRICT):
    masks = file.read_label()
    assert instance_masks.to_bits(masks.size, masks.counts).shape[:2] == masks.size
    assert len({len(values) for values in masks[1:]}) == 1


@_FUZZ
@given(content=_changed(NAMED_INSTANCES))
def test_instance_data(folder, content):
  _assert_read_or_refused(folder, content, _read_instances_for_training)


@_FUZZ
@given(content=_changed(PANOPTIC), is_truth=st.booleans())
def test_panoptic_scores(folder, content, is_truth):
  sound = folder / 'panoptic.json'

  def score(path):
    truth, guesses = (path, sound) if is_truth else (sound, path)
    panoptic_files.panoptic_score(truth, guesses, folder, folder)
    panoptic_files.semantic_score(truth, guesses, folder, folder)

  _assert_read_or_refused(folder, content, score)


@_FUZZ
@given(content=_changed(INSTANCES))
def test_instance_ground_truth(folder, content):
  _assert_read_or_refused(folder, content, lambda path: instance_files.instance_score(
      path, folder / 'results.json'))


@_FUZZ
@given(content=_changed(RESULTS))
def test_instance_results(folder, content):
  _assert_read_or_refused(folder, content, lambda path: instance_files.instance_score(
      folder / 'instances.json', path))


def _as_submission(content):
  """PANOPTIC with categories of COCO."""
  text = json.dumps(content).replace('"category_id": 3', '"category_id": 1').replace(
      '"category_id": 9', '"category_id": 187')
  return json.loads(text) | {'categories': [{'id': 1, 'name': 'person', 'isthing': 1}]}


@_FUZZ
@given(content=_changed(_as_submission(PANOPTIC)), as_list=st.booleans())
def test_submissions(folder, content, as_list):
  (folder / 'sound_submission.json').write_text(json.dumps(_as_submission(PANOPTIC)))

  def write(path):
    predictions, images = path, folder / 'sound_submission.json'
    if as_list:
      predictions, images = images, predictions
    submission.write(folder / 'x.zip', 'coco_panoptic', predictions, images=images,
                     predictions_dir=folder)

  _assert_read_or_refused(folder, content, write)


@_FUZZ
@given(content=_changed(PANOPTIC))
def test_ids_of_images_to_predict(folder, content):
  found = [predicted_images.FoundImage(str(folder / name), str(folder))
           for name in ('a.png', 'b.png')]
  _assert_read_or_refused(folder, content, lambda path: predicted_images.name(
      found, str(folder / 'out'), str(path)))


def test_sound_files_are_read(folder):
  # With the mark that some editors put in front, too.
  for mark in (b'', b'\xef\xbb\xbf'):
    for content, read in ((PANOPTIC, _read_for_training),
                          (NAMED_INSTANCES, _read_instances_for_training),
                          (INSTANCES, instance_files.load_ground_truth)):
      assert _assert_read_or_refused(folder, mark + json.dumps(content).encode(), read)
  score = instance_files.instance_score(folder / 'instances.json', folder / 'results.json')
  assert score.figures['AP'] > 0


# --- What else must be refused ----------------------------------------------------------------


@pytest.mark.parametrize('change, words', [
    (lambda c: c['annotations'][0].update(image_id=[1]), 'has [1] as "image_id", which must be'),
    (lambda c: c['annotations'][0].update(file_name='a\0.png'), 'the name of a file'),
    (lambda c: c['annotations'][0].update(file_name='o' * 300), 'the name of a file'),
    (lambda c: c['annotations'][0].update(segments_info={}), 'which must be a list'),
    (lambda c: c['annotations'][0]['segments_info'][0].update(area=float('nan')),
     'nan as "area", which must be a number of pixels'),
    (lambda c: c['annotations'][0]['segments_info'][0].update(category_id=True),
     'True as "category_id", which must be a whole number'),
    (lambda c: c['annotations'][0]['segments_info'][0].update(iscrowd='no'), 'must be 0 or 1'),
    (lambda c: c['annotations'].append(7), 'an annotation is 7; an object'),
])
def test_both_readers_say_the_same(folder, change, words):
  content = copy.deepcopy(PANOPTIC)
  change(content)
  lines = set()
  for read in (_panoptic_format.read_json, coco_panoptic.load_ground_truth):
    (folder / 'changed.json').write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
      read(folder / 'changed.json')
    lines.add(str(error.value))
  (line,) = lines
  assert line.startswith(f'{folder}/changed.json: ') and words in line


def test_a_name_may_lead_out_of_the_folder(folder):
  content = copy.deepcopy(PANOPTIC)
  content['annotations'][0]['file_name'] = f'../{folder.name}/a.png'
  content['images'][1]['file_name'] = str(folder / 'b.png')
  assert _assert_read_or_refused(folder, json.dumps(content).encode(), _read_for_training)


@pytest.mark.parametrize('mask, words', [
    ({'size': [8, 8], 'counts': [0, 65]}, 'add up to 65, not to 8 x 8'),
    ({'size': [8, 8], 'counts': [-1, 65]}, 'a run length below 0'),
    ({'size': [8, 8], 'counts': [2**64]}, 'a run length below 0 or beyond'),
    ({'size': [8, 8], 'counts': [64.0]}, 'not run lengths'),
    ({'size': [8, 8], 'counts': 'ooo'}, 'not run lengths'),
    ({'size': [8, 8], 'counts': 'oooooooo0'}, 'not run lengths'),
    ({'size': [8, 8], 'counts': 'é'}, 'not run lengths'),
    ({'size': [8, 8], 'counts': '0 '}, 'not run lengths'),
    ({'size': [8, 8], 'counts': ''}, 'add up to 0'),
    ({'size': [8, 8], 'counts': None}, 'not run lengths'),
    ({'size': [8.0, 8], 'counts': [64]}, 'is of size'),
    ({'size': [8, 9], 'counts': [72]}, 'is of size'),
    ({'size': 8, 'counts': [64]}, 'is of size'),
    ({'counts': [64]}, 'neither'), ('0', 'neither'), (None, 'neither'),
    ([], 'no polygon'), ([[]], 'three or more'), ([[0, 0, 1, 1]], 'three or more'),
    ([[0] * 7], 'three or more'), ([['0'] * 6], 'a corner'), ([[float('nan')] * 6], 'a corner'),
    ([[1e9] * 6], 'a corner'), ([[0, 0, 1e5, 0, 0, 0] * 50], 'pixels long'),
])
def test_masks_that_pycocotools_must_not_see(mask, words):
  assert words in coco_masks.problem(mask, (8, 8))


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(st.data())
def test_what_pycocotools_packs_is_sound(data):
  from pycocotools import mask
  height, width = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
  share = data.draw(st.sampled_from([0, 0.02, 0.5, 1]))
  random = np.random.default_rng(data.draw(st.integers(0, 1000)))
  pixels = np.asfortranarray(random.random((height, width)) < share, np.uint8)
  runs = mask.encode(pixels)
  counts = runs['counts'].decode()
  assert coco_masks.problem({'size': runs['size'], 'counts': counts}, (height, width)) is None
  assert coco_masks._unpacked(counts)[1::2].sum() == pixels.sum()


def test_a_picture_that_is_no_panoptic_png(folder):
  Image.new('RGB', (6, 4)).save(folder / 'x.bmp')
  with pytest.raises(ValueError, match='x.bmp: is not an image, or is corrupt'):
    coco_panoptic.read_panoptic_png(folder / 'x.bmp')
