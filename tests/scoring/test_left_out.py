"""What a score reports as left out."""

import numpy as np

from deeplab_tf.formats.coco_panoptic import Annotation, FileCategory, PanopticJson, Segment
from deeplab_tf.metrics import mean_iou
from deeplab_tf.scoring import left_out

TRUTH = PanopticJson('gt.json', (FileCategory(1, 'box', True), FileCategory(2, 'sky', False),
                                 FileCategory(3, 'sea', False)), ())


def _annotation(*segments):
  return Annotation(7, 'x.png', tuple(Segment(index, *segment)
                                      for index, segment in enumerate(segments, start=1)))


def test_panoptic_pixels_and_classes():
  counts = [left_out.image_counts(np.array([[0, 1], [1, 1]]), np.array([[5, 5], [0, 0]]), ()),
            left_out.image_counts(np.zeros((2, 2), int), np.ones((2, 2), int), ())]
  assert [tuple(each) for each in counts] == [(4, 1, 2, ()), (4, 4, 0, ())]
  found = left_out.panoptic(TRUTH, [_annotation((2,), (1, True))], [_annotation((3,), (1,))], 0,
                            counts)
  assert found.figures == {
      'pixels': 8, 'void_pixels': 5, 'void_share': 0.625, 'unpredicted_pixels': 2,
      'unpredicted_share': 0.25, 'crowd_segments': 1, 'classes_not_in_ground_truth': [1, 3],
      'predictions_not_scored': 0}
  assert found.lines == (
      'left out of the score', '  void pixels of the ground truth: 62.50 % (5 of 8)',
      '  classes that the ground truth never has: 2 of 3 (box, sea); predicted nevertheless: box, '
      'sea', '  crowd segments of the ground truth: 1',
      'pixels without a prediction: 25.00 % (2 of 8)')
  assert found.sentences() == [
      'Left out of the score: void pixels of the ground truth: 62.50 % (5 of 8); classes that the '
      'ground truth never has: 2 of 3 (box, sea); predicted nevertheless: box, sea; crowd segments '
      'of the ground truth: 1.', 'Pixels without a prediction: 25.00 % (2 of 8).']


def test_nothing_left_out_needs_no_word():
  annotation = _annotation((1,), (2,), (3,))
  found = left_out.panoptic(TRUTH, [annotation], [annotation], 0,
                            [left_out.ImageCounts(4, 0, 0, ())])
  assert found.lines == () and found.sentences() == []
  assert left_out.panoptic(TRUTH, [], [], 0, []).figures['void_share'] is None


def test_split_stuff_is_named_once_for_each_side():
  split, whole = _annotation((1,), (1,), (2,), (2,), (2,)), _annotation((1,), (1,), (2,))
  (line,) = left_out.split_stuff_warnings(TRUTH, [whole, split], [whole, whole])
  assert '1 of the 2 images of the ground truth (image 7: "sky" in 3)' in line
  assert len(left_out.split_stuff_warnings(TRUTH, [split], [split])) == 2


def test_ignored_pixels_are_merged():
  first, second = (mean_iou.MeanIoU((0, 1), 255) for _ in range(2))
  first.update(np.array([0, 255, 255]), np.array([0, 0, 7]))
  second.update(np.array([255, 0]), np.array([0, 3]), np.array([10, 4]))
  first.merge_bytes(second.to_bytes())
  found = left_out.semantic(first, {0: 'a', 1: 'b'}, 2)
  assert found.figures == {
      'pixels': 17, 'ignored_pixels': 12, 'ignored_share': 12 / 17, 'no_class_pixels': 4,
      'no_class_share': 0.8, 'classes_not_in_ground_truth': [1], 'predictions_not_scored': 2}
  assert 'scored pixels predicted as no class: 80.00 % (4 of 5)' in found.lines


def test_instances():
  truth = {'annotations': [{'image_id': 1, 'category_id': 1}, {'image_id': 2, 'category_id': 1},
                           {'image_id': 3, 'category_id': 2, 'iscrowd': 1}]}
  results = [{'image_id': 1, 'category_id': 2}] * 5
  found = left_out.instances(truth, results, {1: 'box', 2: 'sky', 4: 'sea'}, 3)
  assert found.figures == {'crowd_annotations': 1, 'classes_not_in_ground_truth': [2, 4],
                           'results_beyond_limit': 2, 'images_without_results': 1}
  assert 'images with annotations but without a result: 1 of 2' in found.lines
  assert '  results beyond 3 of an image and class: 2' in found.lines
