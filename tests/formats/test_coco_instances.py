"""COCO's instance JSON: what makes a file one, and what is said about others."""

import json

import numpy as np
import pytest

from deeplab_tf.formats import coco_instances, coco_masks, instance_masks
from deeplab_tf.user_errors import DataError

POLYGON = [[0, 0, 4, 0, 4, 4, 0, 4]]
CONTENT = {'images': [{'id': 1, 'file_name': 'a.png', 'height': 8, 'width': 9}],
           'categories': [{'id': 3, 'name': 'cat'}],
           'annotations': [{'id': 1, 'image_id': 1, 'category_id': 3, 'segmentation': POLYGON}]}


def read(tmp_path, **changes):
  path = tmp_path / 'x.json'
  path.write_text(json.dumps({**CONTENT, **changes}))
  return coco_instances.read_json(path, 'SUCH A FILE', coco_instances.IMAGE)


def test_info_licenses_and_other_fields_are_not_needed(tmp_path):
  assert read(tmp_path) == CONTENT
  more = {'info': None, 'licenses': [], 'images': [{**CONTENT['images'][0], 'flickr_url': 'x'}]}
  assert read(tmp_path, **more)['images'][0]['flickr_url'] == 'x'


@pytest.mark.parametrize('changes, words', [
    ({'images': None}, 'no list "images"; expected SUCH A FILE'),
    ({'annotations': {}}, 'no list "annotations"'),
    ({'images': [{'id': 1, 'file_name': 'a.png', 'width': 9}]}, 'an image has no "height"'),
    ({'images': [{'id': 1, 'height': 8, 'width': 9}]}, 'an image has no "file_name"'),
    ({'images': [{**CONTENT['images'][0], 'height': 0}]}, 'an image has 0 as "height"'),
    ({'images': CONTENT['images'] * 2}, 'an image id is listed twice'),
    ({'categories': CONTENT['categories'] * 2}, 'a category id is listed twice'),
    ({'categories': [{'id': '3'}]}, "a category has '3' as \"id\""),
    ({'annotations': [7]}, 'an annotation is 7; an object'),
    ({'annotations': [{'image_id': 1, 'segments_info': []}]}, 'this is a panoptic JSON; expected'),
])
def test_other_files_are_refused_in_one_line(tmp_path, changes, words):
  with pytest.raises(DataError) as error:
    read(tmp_path, **changes)
  line = str(error.value)
  assert line.startswith(f'{tmp_path}/x.json: ') and words in line and '\n' not in line


def test_annotations_without_mask_are_counted():
  masks = [POLYGON, [], None, {}, {'size': [8, 9], 'counts': '0'}]
  annotations = [{'id': number, 'segmentation': mask} for number, mask in enumerate(masks)]
  annotations.append({'id': 'last', 'bbox': [0, 0, 3, 3]})
  found, line = coco_instances.without_mask(annotations)
  assert [entry['id'] for entry in found] == [0, 4]
  assert line.startswith('4 of 6 annotations have no mask') and 'e.g. annotation 1: ' in line
  assert coco_instances.without_mask(annotations[:1]) == (annotations[:1], None)


def test_a_polygon_of_two_corners_is_named():
  # pycocotools takes four numbers for a box.
  assert coco_masks.problem([[1, 1, 5, 5]], (8, 9)) == (
      'has a polygon of 2 corners; three or more are needed')


# --- instance_masks ---------------------------------------------------------------------------


def test_bits_and_run_lengths_are_inverse():
  masks = np.random.default_rng(0).random((7, 5, 11)) < 0.4
  bits = np.packbits(masks, axis=-1, bitorder='little')
  runs = instance_masks.from_bits(bits, 11)
  np.testing.assert_array_equal(instance_masks.to_bits((7, 5), [r['counts'] for r in runs]), bits)
  assert instance_masks.to_bits((7, 5), []).shape == (7, 5, 0)
  assert instance_masks.from_bits(bits[..., :0], 0) == []


@pytest.mark.parametrize('segmentation', [
    [[1, 1, 4, 1, 4, 6, 1, 6]], {'size': [8, 9], 'counts': [9, 5, 3, 5, 3, 5, 42]},
    {'size': [8, 9], 'counts': '953000W1'}])
def test_all_forms_of_a_mask_become_run_lengths(segmentation):
  from pycocotools import mask
  expected = np.zeros((8, 9), np.uint8)
  expected[1:6, 1:4] = 1
  assert coco_masks.problem(segmentation, (8, 9)) is None
  runs = instance_masks.run_lengths(segmentation, (8, 9))
  np.testing.assert_array_equal(mask.decode(runs), expected)


@pytest.mark.parametrize('size, count, words', [
    ((70000, 5), 1, 'is 70000x5: at most'), ((20000, 20000), 0, 'is 20000x20000: at most'),
    ((4000, 6000), 1000, 'is 4000x6000 and has 1000 instances, whose masks take more than 2 GiB'),
])
def test_masks_that_take_too_much_memory_are_refused(size, count, words):
  assert words in instance_masks.size_problem(size, count)
  assert instance_masks.size_problem((4000, 6000), 500) is None
